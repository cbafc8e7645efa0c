"What runs the notebooks notices what it should."

import json

import pytest
import runner
from course import exercises, verdicts


def written(folder, *sources):
    "A notebook: cells of code, and of prose where the source begins with <."
    kinds = [{"cell_type": "markdown" if text[0] == "<" else "code", "source": text} for text in sources]
    path = folder / "book.ipynb"
    path.write_text(json.dumps({"cells": kinds}))
    return path


def solution(text):
    return f"<details><summary>Solution</summary>\n\n```python\n{text}\n```\n\nWhy.\n</details>"


def test_solutions_are_tried(tmp_path):
    "As committed no answer; solved right or wrong; nothing but the solution stands before the check."
    path = written(
        tmp_path, "%matplotlib inline\nfrom sdfdiff.exercises import check", "#| slow\n1 / 0",
        "answer = None\n\ncheck(answer, 2)", solution("answer = 2"),
        "def answer(x):\n    return None\n\n\ncheck(answer, abs, cases=[(-1,)])",
        solution("def answer(x):\n    return x"),
        "answer = 3\n\ncheck(answer, 3)", solution("answer = 3"),
    )  # fmt: skip
    assert [len(one.blocks) for one in exercises(path)] == [1, 1, 1]
    found, _ = verdicts(path, tmp_path)
    assert [one["committed"][0] for one in found] == [None, None, True]
    assert [one["solved"][0] for one in found] == [True, False, True]


WRONG = {
    "error": "1 / 0",
    "helper": "helper = 2\nanswer = None\n\ncheck(answer, helper)",
    "figure": "import matplotlib.pyplot as plt\nplt.title(r'$\\frac{$')",
    "result": "class Shy:\n    def _repr_html_(self):\n        raise ValueError\nShy()",
    "exit": "raise SystemExit",
    "test": "import course",
}


@pytest.mark.parametrize("cell", WRONG.values(), ids=WRONG)
def test_a_notebook_that_raises_is_named(tmp_path, cell):
    """A cell that raises; a check that needs what the learner's part defines; a figure or a result that cannot be
    drawn, which a kernel would show as a traceback; an early end; an import of what only the tests have."""
    path = written(tmp_path, "from sdfdiff.exercises import check", cell, solution("answer = 2"))
    with pytest.raises(AssertionError, match="book.ipynb(.|\n)*cell 1 raised"):
        verdicts(path, tmp_path)


def test_a_notebook_that_dies_is_named(tmp_path):
    "The next one runs all the same, and sees nothing of it."
    with pytest.raises(AssertionError, match="book.ipynb ended with 3"):
        verdicts(written(tmp_path, "import json\njson.dumps = 4", "import os\nos._exit(3)"), tmp_path)
    verdicts(written(tmp_path, "import json\nassert json.dumps(4) == '4'"), tmp_path)


def test_a_new_process_runs_a_notebook_too(tmp_path, monkeypatch):
    "As on a computer whose processes cannot be forked."
    (tmp_path / "said").touch()
    job = {"cells": [[0, "answer = 2", None], [1, "1 / 0", None]], "folder": str(tmp_path), "scratch": str(tmp_path)}
    (tmp_path / "job.json").write_text(json.dumps(job))
    assert runner.spawned(tmp_path) == 1
    assert "cell 1 raised ZeroDivisionError" in (tmp_path / "said").read_text()
