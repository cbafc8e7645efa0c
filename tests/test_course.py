"The course: every notebook says what it teaches, leads to the next one, and ends in exercises that answer back."

import ast
import json
import os
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest
from course import BESIDE, CHECK, INDEX, NOTEBOOKS, ROOT, cells, exercises, label

LESSONS = [*NOTEBOOKS, *BESIDE]  # in the order in which they are read
ALL = [INDEX, *LESSONS]
each_notebook = pytest.mark.parametrize("path", ALL, ids=label)
each_lesson = pytest.mark.parametrize("path", LESSONS, ids=label)


def link(target: Path, start: Path) -> str:
    return f"[{label(target)}]({os.path.relpath(target, start.parent)})"


def test_glossary_names_what_is_there():
    "Each term once; each name in the code is one."
    text = (ROOT / "nbs" / "glossary.md").read_text(encoding="utf8")
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


def code_before_picture(path: Path) -> int | None:
    "Lines of code up to and with the cell that shows the first picture; hidden cells do not count."
    count = 0
    for cell in json.loads(path.read_text(encoding="utf8"))["cells"]:
        lines = "".join(cell["source"]).splitlines()
        if cell["cell_type"] == "code" and not any(re.match(r"#\s*\|\s*hide\b", line) for line in lines):
            count += sum(bool(line.strip()) and not line.startswith("#|") for line in lines)
            if any("image/png" in output.get("data", {}) for output in cell["outputs"]):
                return count
    return None


@pytest.mark.parametrize("path", [path for path in LESSONS if not path.parent.name.endswith("engine_room")], ids=label)
def test_picture_comes_first(path):
    "A lesson shows what it is about before it builds it; the engine room is read by those who look something up."
    found = code_before_picture(path)
    assert found is not None, "there is no picture"
    assert found <= 25, f"{found} lines of code before the first picture is there"


def sentences(text: str) -> list[str]:
    "Sentences of prose, without code, formulas, tables and headings."
    text = re.sub(r"```.*?```|^\|.*?$|^#.*?$|^(?:Previous|Next): .*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", "X", text, flags=re.DOTALL)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)|</?\w+>", r"\1", text)
    blocks = re.split(r"\n\s*\n|\n(?=- |\d+\. |> )", text)
    return [
        one for block in blocks for one in re.split(r"(?<=[.!?:])[*\"”)]*\s+(?=\S)", " ".join(block.split())) if one
    ]


@each_notebook
def test_sentences_are_short(path):
    "Nine of ten have at most 25 words: readers whose first language is another one understand them at once."
    prose = "\n\n".join(source for kind, source in cells(path) if kind == "markdown")
    lengths = sorted(len(re.findall(r"\w[\w.,%−'-]*", one)) for one in sentences(prose))
    assert lengths[int(0.9 * len(lengths))] <= 25, (
        f"a tenth of the sentences is longer: {lengths[-len(lengths) // 10 :]}"
    )


@pytest.mark.parametrize("words", ["hidden unit", "previous chapter", "takes a promise at its word"])
def test_words_that_are_not_used(words):
    assert not [
        label(path) for path in ALL for kind, text in cells(path) if kind == "markdown" and words in text.lower()
    ]


@each_lesson
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


@each_notebook
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
    "The table of nbs/README.md has a row for every notebook, in the order in which they are read, with its claim."
    text = (ROOT / "nbs" / "README.md").read_text(encoding="utf8")
    rows = re.findall(r"^\| \[([^\]]+)\]\(([\w/.]+\.ipynb)\) \| (.*?) \| ", text, re.MULTILINE)
    assert [row[:2] for row in rows] == [(label(path), os.path.relpath(path, ROOT / "nbs")) for path in LESSONS]
    claims = [re.search(r"^> (.*?)\.?$", cells(path)[0][1], re.MULTILINE)[1] for path in LESSONS]
    assert [row[2].replace("&#124;", "|") for row in rows] == claims


def test_readme_is_short():
    "One screen after another, no wider than code; the picture comes before the first command."
    lines = (ROOT / "README.md").read_text(encoding="utf8").splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 120
    text = "\n".join(lines)
    assert text.index("](data/demo.png)") < text.index("```")


ENTRANCE = [INDEX, *(ROOT / name for name in ("README.md", "nbs/README.md", "nbs/glossary.md"))]


@pytest.mark.parametrize("path", ENTRANCE, ids=lambda path: f"{path.parent.name}/{path.name}")
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
