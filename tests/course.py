"""What the tests of the course share: the notebooks' cells, their exercises, and a way to run both.

As a program it runs cells: `python tests/course.py RESULTS` reads a list of [source, solution or null] from standard
input, as JSON, and writes what the verdicts of the exercises were. It imports nothing that a notebook could miss.
"""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "nbs" / "_site"))

from chapters import CHAPTERS, DOORS, label, notebooks, number  # noqa: E402, F401

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = notebooks()
BESIDE = notebooks(ROOT / "benchmarks", "*.ipynb")  # read like the course, but no part of it
CHECK = re.compile(r"^check\(\s*answer\b", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def cells(path: Path) -> list[tuple[str, str]]:
    "Kind and source of each cell."
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


def verdicts(path: Path, folder: Path) -> list[dict]:
    """Run a notebook from top to bottom in a process of its own, each exercise first as committed and then solved.

    The result has one entry per exercise: {"cell", "committed": [right, sentence], "solved": [right, sentence]}.
    Cells that nbdev_test skips are skipped. An AssertionError says which cell raised, and what.
    """
    from run_notebooks import SKIPPED

    solved = {exercise.cell: exercise.solved for exercise in exercises(path)}
    plan = []
    for place, (kind, source) in enumerate(cells(path)):
        if kind == "code" and not SKIPPED.search(source):
            plan.append([place, re.sub(r"^[%!].*$", "", source, flags=re.MULTILINE), solved.get(place)])
    results = folder / "verdicts.json"
    environment = os.environ | {
        "MPLBACKEND": "Agg",
        "IPYTHONDIR": str(folder),
        "IN_TEST": "1",
    }  # IN_TEST: as nbdev_test
    done = subprocess.run([sys.executable, __file__, results], input=json.dumps(plan), cwd=path.parent,
                          env=environment, capture_output=True, text=True, timeout=900)  # fmt: skip
    assert done.returncode == 0, f"{path.name}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return json.loads(results.read_text())


def check_solutions(path: Path, folder: Path) -> None:
    "The notebook runs; its exercises wait for an answer, and the folded solution is the right one."
    for verdict in verdicts(path, folder):
        right, sentence = verdict["committed"]
        assert right is None, f"cell {verdict['cell']} has an answer already: {sentence}"
        right, sentence = verdict["solved"]
        assert right is True, f"the solution of cell {verdict['cell']} is not right: {sentence}"


def run(plan: list) -> list[dict]:
    "Run cells as a notebook does; the verdicts of those that come with a solution."
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    shell.display_formatter.active_types = ["text/plain"]  # no picture need be drawn

    def value(place, source):
        done = shell.run_cell(source)
        if not done.success:
            sys.exit(f"cell {place} raised {done.error_before_exec or done.error_in_exec!r}:\n{source}")
        return done.result

    found = []
    for place, source, solution in plan:
        before = dict(shell.user_ns)
        committed = value(place, source)
        if solution is not None:
            shell.user_ns.clear()
            shell.user_ns.update(
                before
            )  # the solution takes the learner's place: nothing that the cell defined is there
            pair = committed, value(place, solution)
            found.append(
                {"cell": place}
                | {
                    name: [getattr(one, "right", "no verdict"), repr(one)]
                    for name, one in zip(("committed", "solved"), pair)
                }
            )
    return found


if __name__ == "__main__":
    sys.path[0] = ""  # as in a notebook, which does not see the tests
    outcome = run(json.load(sys.stdin))
    Path(sys.argv[1]).write_text(json.dumps(outcome))
