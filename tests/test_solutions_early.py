"The solutions of the exercises are right: the first half of the course; test_solutions_late.py is the other half."

import pytest
from course import NOTEBOOKS, check_solutions

HALF = [path for path in NOTEBOOKS if path.stem < "14"]  # two files, since a worker of `make test` takes whole files


@pytest.mark.parametrize("path", HALF, ids=lambda path: path.stem)
def test_solutions(path, tmp_path):
    check_solutions(path, tmp_path)
