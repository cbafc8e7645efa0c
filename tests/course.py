"What the tests of the course share: the notebooks' cells, their exercises, and a way to run both."

import json
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import runner

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "nbs" / "_site"))

from chapters import CHAPTERS, INDEX, label, notebooks, number  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = notebooks()
BESIDE = notebooks(ROOT / "benchmarks", "*.ipynb")  # read like the course, but no part of it
CHECK = re.compile(r"^check\(\s*answer\b", re.MULTILINE)
SKIPPED = re.compile(r"^#\s*\|\s*(slow|notest|gpu|eval:\s*false)\b", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def cells(path: Path) -> list[tuple[str, str]]:
    "Kind and source of each cell."
    return _cells(path, path.stat().st_mtime_ns)


@cache
def _cells(path: Path, _: int) -> list[tuple[str, str]]:
    content = json.loads(path.read_text(encoding="utf8"))
    return [(cell["cell_type"], "".join(cell["source"])) for cell in content["cells"]]


@dataclass(frozen=True)
class Exercise:
    "An exercise of a notebook: the cell to fill in, and the prose from there to the next one."

    cell: int  # Its number in the notebook
    source: str  # Of the cell, as committed
    prose: list[str]  # Markdown cells up to the next exercise or the end
    code_between: list[str]  # Code cells there

    @property
    def blocks(self) -> list[str]:  # Python in the folded solution
        return [block for text in self.prose if "<details>" in text for block in BLOCK.findall(text)]

    @property
    def solved(self) -> str:  # The cell with the solution in place of the learner's part
        return f"{self.blocks[0]}\n\n{self.source[CHECK.search(self.source).start() :]}"


def exercises(path: Path) -> list[Exercise]:
    "The exercises of a notebook, in order."
    kinds = cells(path)
    places = [place for place, (kind, source) in enumerate(kinds) if kind == "code" and CHECK.search(source)]
    found = []
    for place, end in zip(places, [*places[1:], len(kinds)]):
        after = kinds[place + 1 : end]
        texts = {kind: [source for found, source in after if found == kind] for kind in ("markdown", "code")}
        found.append(Exercise(place, kinds[place][1], texts["markdown"], texts["code"]))
    return found


def verdicts(path: Path, folder: Path) -> tuple[list[dict], float]:
    """Run a notebook from top to bottom in a process of its own, each exercise first as committed and then solved.

    The result has one entry per exercise: {"cell", "committed": [right, sentence], "solved": [right, sentence]}, and
    the seconds of processor time it took. Cells that nbdev_test skips are skipped. An AssertionError says which cell
    raised, and what.
    """
    solved = {exercise.cell: exercise.solved for exercise in exercises(path)}
    plan = [
        [place, re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE), solved.get(place)]
        for place, (kind, source) in enumerate(cells(path))
        if kind == "code" and not SKIPPED.search(source)
    ]
    done = runner.run({"cells": plan, "folder": str(path.parent), "scratch": str(folder)})
    assert done["code"] == 0, f"{path.name} ended with {done['code']}\n{done['said']}"
    return json.loads((folder / "verdicts.json").read_text()), done["seconds"]


def check_solutions(path: Path, folder: Path) -> float:
    """The notebook runs; its exercises wait for an answer, and the folded solution is the right one.

    What comes back is the notebook's processor time in seconds."""
    found, seconds = verdicts(path, folder)
    for verdict in found:
        right, sentence = verdict["committed"]
        assert right is None, f"cell {verdict['cell']} has an answer already: {sentence}"
        right, sentence = verdict["solved"]
        assert right is True, f"the solution of cell {verdict['cell']} is not right: {sentence}"
    return seconds
