"What `make` does around the tests: one .venv for all targets, notebooks that merge, one notebook by its name."

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from course import BESIDE, NOTEBOOKS, ROOT
from one import found, names, its_tests

BIN = Path(sys.executable).parent
STUB = """#!/bin/sh
# Stands for Python: notes what it is asked for, and makes a .venv in which it stands for Python again.
case "$*" in
    "-m venv --clear .venv") echo venv >> log; rm -rf .venv; mkdir -p .venv/bin
        echo "VIRTUAL_ENV=$PWD/.venv" > .venv/bin/activate; cp "$0" .venv/bin/python; cp "$0" .venv/bin/sdfdiff ;;
    *"pip install"*) for last; do :; done; echo "install $last" >> log; sleep 0.2 ;;
    --version) echo Python 3.11 ;;
    "-c "*) [ ! -e nothing-works ] ;;
    *) echo "work ${0##*/} $1" >> log ;;
esac
"""


@pytest.fixture
def project(tmp_path):
    "A project in which `make` finds a Python that only notes what it is asked for."
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("Makefile", "settings.ini", "constraints.txt", "setup.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    (folder / "python").write_text(STUB)
    (folder / "python").chmod(0o755)
    return folder


def make(folder: Path, *words) -> list[str]:
    "What was asked for, in this order."
    (folder / "log").unlink(missing_ok=True)
    subprocess.run(["make", "PYTHON=./python", *words], cwd=folder, check=True, capture_output=True, timeout=60)
    return (folder / "log").read_text().splitlines() if (folder / "log").exists() else []


@pytest.mark.parametrize("parallel", [(), ("-j2",)], ids=["one after the other", "at once"])
def test_two_targets_share_one_environment(project, parallel):
    "The second installs into what the first made, and does not clear it; a later call installs nothing."
    first = make(project, *parallel, "demo", "bench")
    work = ["work sdfdiff demo", "work sdfdiff explore", "work python -m"]
    assert first == ["venv", "install .", *work[:2], "install .[bench]", work[2]]
    assert make(project, *parallel, "demo", "bench") == work
    assert make(project, *parallel, "docs", "demo") == [
        "install .[docs,lab]",
        "work python nbs/_site/build.py",
        *work[:2],
    ]


def test_environment_is_made_anew(project, tmp_path):
    "If the checkout was moved, if pip is gone, or by halves if requirements changed."
    make(project, "demo")
    shutil.move(project, tmp_path / "moved")
    moved = tmp_path / "moved"
    assert make(moved, "demo", "bench")[:2] == ["venv", "install ."]
    (moved / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    assert make(moved, "bench")[:2] == ["venv", "install .[bench]"]
    os.utime(moved / ".venv" / "bin" / "ready-bench", (10**9, 10**9))  # older than all else
    assert make(moved, "bench")[0] == "install .[bench]"
    (moved / "nothing-works").touch()
    shutil.rmtree(moved / ".venv")
    done = subprocess.run(["make", "PYTHON=./python", "demo"], cwd=moved, capture_output=True, text=True)
    assert done.returncode and "needs Python 3.11 or newer" in done.stderr and not (moved / ".venv").exists()


def git(folder, *words) -> subprocess.CompletedProcess:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", *who, *words], cwd=folder, capture_output=True, text=True)


@pytest.fixture
def branches(project):
    """A checkout with a notebook of which two branches have changed different cells, and run it: what they conflict in
    as text is the output of a third cell."""
    (project / ".venv").mkdir()
    (project / ".venv" / "bin").symlink_to(BIN)
    shutil.copy(ROOT / ".gitattributes", project)

    def write(*sources, output):
        cells = [
            {"cell_type": "code", "id": f"a{k}", "metadata": {}, "execution_count": None, "source": [source],
             "outputs": [{"name": "stdout", "output_type": "stream", "text": [output]}] if source == "print(a)" else []}
            for k, source in enumerate(sources)
        ]  # fmt: skip
        book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (project / "book.ipynb").write_text(json.dumps(book, indent=1) + "\n")
        git(project, "add", "book.ipynb", ".gitattributes")
        assert git(project, "commit", "-qm", "change").returncode == 0

    git(project, "init", "-q")
    write("a = 1", "print(a)", "b = 1", output="1\n")
    git(project, "checkout", "-qb", "theirs")
    write("a = 1", "print(a)", "b = 2", output="1 again\n")
    git(project, "checkout", "-q", "main")
    write("a = 2", "print(a)", "b = 1", output="2\n")
    return project


def test_notebooks_merge_cell_by_cell(branches):
    "As text they conflict; after `make merging`, which `make lab` and `make test` call, they do not."
    assert git(branches, "merge", "theirs").returncode, "there is nothing to show"
    git(branches, "merge", "--abort")
    subprocess.run(["make", "merging"], cwd=branches, check=True, capture_output=True)
    done = git(branches, "merge", "-m", "both", "theirs")
    assert done.returncode == 0, done.stdout + done.stderr
    merged = json.loads((branches / "book.ipynb").read_text())
    assert ["".join(cell["source"]) for cell in merged["cells"]] == ["a = 2", "print(a)", "b = 2"]
    recipes = (ROOT / "Makefile").read_text()
    assert re.findall(r"^(\w+): .*\bmerging\b", recipes, re.M) == ["lab", "one", "check", "test", "sync", "notebooks"]


def test_notebooks_merge_as_text_without_an_environment(branches):
    "A conflict is told, and git does not stop."
    subprocess.run(["make", "merging"], cwd=branches, check=True, capture_output=True)
    (branches / ".venv" / "bin").unlink()
    done = git(branches, "merge", "-m", "both", "theirs")
    assert done.returncode == 1 and "CONFLICT (content)" in done.stdout
    assert "<<<<<<<" in (branches / "book.ipynb").read_text()


def test_git_is_left_alone_outside_a_checkout(project):
    "A copy of the files in somebody else's checkout."
    git(project.parent, "init", "-q")
    subprocess.run(["make", "merging"], cwd=project, check=True, capture_output=True)
    assert not git(project.parent, "config", "merge.nbdev-merge.driver").stdout


# ---- one notebook


def test_every_notebook_has_a_name_of_its_own():
    "`make one` finds it by that, by its file, and by its module's file; the tests of a module import it."
    for path in [*NOTEBOOKS, *BESIDE]:
        best = names(path)[0]
        for word in (best, best.replace("/", "."), f"sdfdiff/{best}.py", str(path.relative_to(ROOT))):
            assert found(word) == path, word
    named = [path for path in NOTEBOOKS if (ROOT / "tests" / f"test_{names(path)[0].split('/')[-1]}.py").exists()]
    assert len(named) > 25 and sum(bool(its_tests(path)) for path in named) > 0.9 * len(named)


@pytest.mark.parametrize("word, near", [("uncertainty/erors", "uncertainty/errors"), ("no_such", "make one M=")])
def test_a_wrong_name_is_answered_with_near_ones(word, near):
    done = subprocess.run([sys.executable, ROOT / "tests" / "one.py", word], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    assert f"M={word} names no notebook: " in done.stderr and near in done.stderr


# ---- before a commit


def test_before_a_commit_the_parts_of_check_are_run():
    "Nothing more, nothing less, and nothing from elsewhere."
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    (local,) = config["repos"]
    assert local["repo"] == "local" and {hook["language"] for hook in local["hooks"]} == {"system"}
    recipes = (ROOT / "Makefile").read_text()
    rules = re.search(r"^RULES := (.*)", recipes, re.M)[1]
    recipe = re.search(r"^check:.*\n\t@(.*)", recipes, re.M)[1].replace("$(RULES)", rules)
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in local["hooks"]] == recipe.split(" && ")


def test_a_worker_takes_whole_files(tmp_path):
    "With the words of `make test`: else fixtures that take minutes would be made by each worker."
    words = re.search(r"python -m (pytest -n .*)", (ROOT / "Makefile").read_text())[1].split()
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    for name in ("test_a.py", "test_b.py"):
        (tmp_path / name).write_text(
            "import pytest\n\n@pytest.mark.parametrize('k', range(9))\ndef test(k):\n    pass\n"
        )
    done = subprocess.run([sys.executable, "-m", *words, "-v"], cwd=tmp_path, capture_output=True, text=True)
    pairs = re.findall(r"\[(gw\d)\].*PASSED (\w+)", done.stdout)
    assert len(pairs) == 18 and len(set(pairs)) == 2, done.stdout
