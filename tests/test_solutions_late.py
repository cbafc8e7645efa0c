"The solutions of the exercises are right: the second half of the course; test_solutions_early.py is the other half."

import pytest

from course import NOTEBOOKS, verdicts

HALF = [path for path in NOTEBOOKS if path.stem >= "14"]  # two files, since a worker of `make test` takes whole files


@pytest.mark.parametrize("path", HALF, ids=lambda path: path.stem)
def test_solutions(path, tmp_path):
    "The notebook runs; its exercises wait for an answer, and the folded solution is the right one."
    for verdict in verdicts(path, tmp_path):
        right, sentence = verdict["committed"]
        assert right is None, f"cell {verdict['cell']} has an answer already: {sentence}"
        right, sentence = verdict["solved"]
        assert right is True, f"the solution of cell {verdict['cell']} is not right: {sentence}"
