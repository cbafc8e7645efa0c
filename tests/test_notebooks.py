"""Each notebook is run once, from top to bottom: no cell raises, each figure and each result can be shown, and the
solutions of the exercises are right."""

import pytest
from course import BESIDE, INDEX, NOTEBOOKS, check_solutions, label

EVERY = [INDEX, *NOTEBOOKS, *BESIDE]


@pytest.mark.parametrize("path", EVERY, ids=label)
def test_notebook(path, tmp_path, record_property):
    record_property("notebook", f"{check_solutions(path, tmp_path):5.1f} s  {label(path)}")
