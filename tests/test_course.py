"The course: every notebook says what it teaches, leads to the next one, and ends in exercises that answer back."

import ast
import json
import os
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest
import runner
from course import BESIDE, CHECK, DOORS, NOTEBOOKS, ROOT, cells, exercises, label, verdicts

ALL = [*NOTEBOOKS, *BESIDE]
LESSONS = [path for path in ALL if path.stem != "0_first_look"]  # which has no exercises: it is five minutes long
each_notebook = pytest.mark.parametrize("path", ALL, ids=label)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=label)


def link(target: Path, start: Path) -> str:
    return f"[{label(target)}]({os.path.relpath(target, start.parent)})"


def test_glossary_names_what_is_there():
    "Each term once; each name in the code is one."
    text = "\n".join(source for _, source in cells(DOORS[1]))
    terms = re.findall(r"^\| \*\*(.+?)\*\* \|", text, re.MULTILINE)
    assert len(terms) > 40 and len(set(terms)) == len(terms)
    for name in re.findall(r"`(sdfdiff\.[\w.]+)`", text):
        *path, last = name.split(".")
        owner = resolve_name(".".join(path))
        assert hasattr(owner, last) or last in getattr(owner, "__dataclass_fields__", {}), name


@each_notebook
def test_learning_goals(path):
    "The first cell says in two to four points what a reader can do afterwards."
    goals = re.search(r"^\*\*Learning goals\*\*\n+((?:(?:- |  ).*\n)+)", cells(path)[0][1] + "\n", re.MULTILINE)
    assert goals, "the first cell has a line **Learning goals** and a list below it"
    assert 2 <= len(re.findall(r"^- \S", goals[1], re.MULTILINE)) <= 4


@each_notebook
def test_leads_to_its_neighbours(path):
    "The first cell ends with the line to both neighbours, the last cell with the line to the next."
    order = NOTEBOOKS if path in NOTEBOOKS else BESIDE
    here = order.index(path)
    before = [f"Previous: {link(order[here - 1], path)}."] if here else []
    after = [f"Next: {link(order[here + 1], path)}."] if here + 1 < len(order) else []
    first, last = cells(path)[0][1], cells(path)[-1][1]
    assert first.splitlines()[-1] == " ".join(before + after)
    assert cells(path)[-1][0] == "markdown", "the last cell is prose"
    if after:
        assert last.splitlines()[-1] == after[0]
    others = [
        line for _, text in cells(path)[1:-1] for line in text.splitlines() if re.match("(Previous|Next): ", line)
    ]
    assert not others + re.findall(r"^Previous: .*", last, re.MULTILINE)
    assert len(re.findall("^Next: ", last, re.MULTILINE)) == len(after)


@each_lesson
def test_exercises_answer_back(path):
    "At least two exercises below the heading, each with one folded solution before the next."
    kinds, found = cells(path), exercises(path)
    assert len(found) >= 2
    heading = [
        place for place, (kind, text) in enumerate(kinds) if kind == "markdown" and "\n## Exercises" in f"\n{text}"
    ]
    assert found[0].cell > heading[0], "exercises stand below the heading ## Exercises"
    for number, exercise in enumerate(found, start=1):
        question = kinds[exercise.cell - 1]
        assert question[0] == "markdown" and f"\n**{number}.** " in f"\n{question[1]}", (
            f"exercise {number} is asked right before"
        )
        assert len(CHECK.findall(exercise.source)) == 1
        tree = ast.parse(exercise.source)
        assert "answer" in defined(tree), "the cell defines `answer`"
        assert ast.unparse(tree.body[-1]).startswith("check(answer"), "the check is the last expression"
        text, (kind, after) = "\n".join(exercise.prose), kinds[exercise.cell + 1]
        assert kind == "markdown" and "<details>" in after, f"solution {number} follows"
        assert text.count("<details>") == text.count("</details>")
        assert text.count("```python") == len(exercise.blocks) == 1, f"one python block in the folded solution {number}"
        assert "answer" in defined(ast.parse(exercise.blocks[0])), f"solution {number} defines `answer`"


def defined(tree: ast.Module) -> set[str]:
    "Names that a cell assigns or defines at its top level."
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assigned = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    return functions | {name.id for target in assigned for name in ast.walk(target) if isinstance(name, ast.Name)}


@each_notebook
def test_exercises_are_committed_unanswered(path):
    "No answer is given away by an output."
    content = json.loads(path.read_text(encoding="utf8"))["cells"]
    for exercise in exercises(path):
        shown = ["".join(output.get("data", {}).get("text/plain", "")) for output in content[exercise.cell]["outputs"]]
        assert len(shown) == 1 and shown[0].startswith("○ No answer yet"), exercise.source


def test_readme_lists_the_course():
    "The table of nbs/README.md has a row for every notebook, in the order in which they are read."
    text = (ROOT / "nbs" / "README.md").read_text(encoding="utf8")
    rows = re.findall(r"^\| \[([^\]]+)\]\(([\w/.]+\.ipynb)\) \|", text, re.MULTILINE)
    assert rows == [(label(path), os.path.relpath(path, ROOT / "nbs")) for path in ALL]


def test_readme_is_short():
    "One screen after another, no wider than code; the picture comes before the first command."
    lines = (ROOT / "README.md").read_text(encoding="utf8").splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120
    text = "\n".join(lines)
    assert text.index("](data/demo.png)") < text.index("```")


@pytest.mark.parametrize("path", [ROOT / "README.md", ROOT / "nbs" / "README.md", *DOORS], ids=lambda path: path.name)
def test_entrance_leads_somewhere(path):
    "Every link of the texts at the entrance is a file here, and a notebook is called what it is called."
    text = path.read_text(encoding="utf8")
    if path.suffix == ".ipynb":
        text = "\n".join(source for _, source in cells(path))
    for words, target in re.findall(r"\[([^\]]*)\]\((?!https?:)([^)#]+)", text):
        there = (path.parent / target).resolve()
        assert there.exists(), f"{path.name}: {target}"
        if re.match(r"\d+\.\d+ ", words):
            assert words == label(there)


# ---- the test of the solutions notices what it should


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
