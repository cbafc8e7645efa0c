"The solutions of the exercises are right: the third of three files, since a worker of `make test` takes whole files."

import pytest
from course import BESIDE, NOTEBOOKS, check_solutions, label

PART = [*NOTEBOOKS, *BESIDE][2::3]


@pytest.mark.parametrize("path", PART, ids=label)
def test_solutions(path, tmp_path):
    check_solutions(path, tmp_path)
