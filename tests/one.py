"""Export everything, run one notebook and its tests.  Usage: python tests/one.py uncertainty/errors

The notebook is named as its module (uncertainty/errors, or errors where there is one of that name only), as its file,
or, if it exports nothing, by chapter and name (results/paper, benchmarks/frontier). Nothing is written but the modules.
Its tests are tests/test_NAME.py, or else the files that import the module, and the rules that hold for it.
"""

import ast
import difflib
import re
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import pytest
from course import BESIDE, NOTEBOOKS, ROOT, SKIPPED, cells, check_solutions, label

TESTS = ROOT / "tests"
RULES = [TESTS / "test_house.py", TESTS / "test_course.py"]


@cache
def module(path: Path) -> str:
    "Name of the module that a notebook exports: uncertainty/errors; empty if it exports nothing."
    code = "\n".join(source for kind, source in cells(path) if kind == "code")
    found = re.search(r"^#\s*\|\s*default_exp\s+(\S+)", code, re.M)
    return found[1].replace(".", "/") if found else ""


def names(path: Path) -> list[str]:
    "What a notebook may be called, the best name first."
    chapter, name = (re.sub(r"^\d+_", "", part) for part in (path.parent.name, path.stem))
    return list(
        dict.fromkeys(filter(None, (module(path), f"{chapter}/{name}", name, f"{path.parent.name}/{path.stem}")))
    )


def found(word: str) -> Path:
    "The notebook that is meant; SystemExit with one sentence if that is none, or several."
    wanted = re.sub(r"^(\./)?(nbs|sdfdiff)/|\.(ipynb|py)$", "", word)
    wanted = wanted if "/" in wanted else wanted.removeprefix("sdfdiff.").replace(".", "/")
    known = {path: names(path) for path in [*NOTEBOOKS, *BESIDE]}
    first = [path for path, called in known.items() if wanted == called[0]]
    if len(meant := first or [path for path, called in known.items() if wanted in called]) == 1:
        return meant[0]
    every = {name: called[0] for called in known.values() for name in called}
    near = [known[path][0] for path in meant] or [every[name] for name in difflib.get_close_matches(wanted, every, 6)]
    hint = (
        f"do you mean {' or '.join(dict.fromkeys(near))}?" if near else "name it as in `make one M=uncertainty/errors`."
    )
    sys.exit(f"M={word} names {'several notebooks' if meant else 'no notebook'}: {hint}")


@cache
def imported(file: Path) -> set[str]:
    "Dotted names that a file imports from others at its top."
    nodes = [node for node in ast.parse(file.read_text(encoding="utf8")).body if isinstance(node, ast.ImportFrom)]
    return {node.module for node in nodes} | {f"{node.module}.{one.name}" for node in nodes for one in node.names}


def its_tests(path: Path) -> list[Path]:
    "Files of tests that import the module: the one that bears its name, else those of its chapter, else all."
    own = names(path)[0]
    part, _, name = own.rpartition("/")
    dotted = own.replace("/", ".") if path in BESIDE else f"sdfdiff.{own}".replace("/", ".")
    files = [file for file in sorted(TESTS.glob("test_*.py")) if dotted in imported(file)]
    named = [file for file in files if file.stem == f"test_{name}"]
    of_part = re.compile(f"test_{part}(_.*)?")
    return named or [file for file in files if part and of_part.fullmatch(file.stem)] or files


class Rules:
    "Of the rules, those that are tested for one notebook and its module."

    def __init__(self, path: Path):
        own = names(path)[0]
        self.ids = {label(path), own.replace("/", "."), str(path.relative_to(ROOT)), f"sdfdiff/{own}.py"}

    def pytest_collection_modifyitems(self, config, items):
        chosen = [one for one in items if one.path not in RULES or one.name.partition("[")[2][:-1] in self.ids]
        config.hook.pytest_deselected(items=[one for one in items if one not in chosen])
        items[:] = chosen


def main(word: str) -> int:
    path, start = found(word), time.time()
    if subprocess.run([Path(sys.executable).parent / "nbdev_export"], cwd=ROOT).returncode:
        return 1
    print(f"exported in {time.time() - start:.0f} s", flush=True)
    skipped = sum(bool(SKIPPED.search(source)) for kind, source in cells(path) if kind == "code")
    with tempfile.TemporaryDirectory() as folder:
        try:
            seconds = check_solutions(path, Path(folder))
        except AssertionError as error:
            sys.exit(str(error))
    left = f", {skipped} cells skipped as slow" if skipped else ""
    print(f"{path.relative_to(ROOT)} ran in {seconds:.0f} s{left}, and its solutions are right", flush=True)
    files = its_tests(path)
    print("rules" if not files else "rules and", *(file.name for file in files), flush=True)
    return pytest.main(["-q", "-m", "not browser", *map(str, RULES), *map(str, files)], plugins=[Rules(path)])


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("Say which notebook, as in `make one M=uncertainty/errors`.")
    sys.exit(main(sys.argv[1]))
