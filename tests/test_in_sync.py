"The checks of `make check` that work on a copy, the hook of `make lab`, and nbdev's own test, on a small project."

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from course import ROOT


def in_sync(root: Path, step: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, root / "tests" / "in_sync.py", step], capture_output=True, text=True)


@pytest.fixture
def small_house(tmp_path):
    "A project with one notebook, cleaned and exported."
    (tmp_path / "tests").mkdir()
    (tmp_path / "nbs" / "1_wing").mkdir(parents=True)
    (tmp_path / "sdfdiff" / "wing").mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "in_sync.py", tmp_path / "tests")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    for folder in ("sdfdiff", "sdfdiff/wing"):
        (tmp_path / folder / "__init__.py").write_text('__version__ = "0.1.0"\n')
    sources = ["#| default_exp wing.room", "#| export\ndef two():\n    return 2"]
    content = [{"cell_type": "markdown", "id": "a0", "metadata": {}, "source": ["# Room\n", "> One room."]}] + [
        {"cell_type": "code", "id": f"a{i + 1}", "metadata": {}, "execution_count": None, "outputs": [],
         "source": source.splitlines(True)} for i, source in enumerate(sources)
    ]  # fmt: skip
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    book = {"cells": content, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "nbs" / "1_wing" / "1_room.ipynb").write_text(json.dumps(book))
    for step in ("nbdev_clean", "nbdev_export"):
        subprocess.run([Path(sys.executable).parent / step], cwd=tmp_path, check=True)
    return tmp_path


def test_in_sync_accepts_and_changes_nothing(small_house):
    files = [path for path in small_house.rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    assert in_sync(small_house, "clean").returncode == 0
    assert in_sync(small_house, "export").returncode == 0
    assert {path: path.read_bytes() for path in small_house.rglob("*") if path.is_file()} == before


def test_in_sync_names_what_jupyter_left(small_house):
    "A notebook as a browser saves it is named, told how to mend, and left as it is."
    path = small_house / "nbs" / "1_wing" / "1_room.ipynb"
    book = json.loads(path.read_text())
    book["cells"][1]["execution_count"] = 7
    book["metadata"]["language_info"] = {"name": "python", "version": "3.11.2"}
    book["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    path.write_text(dirty := json.dumps(book))
    done = in_sync(small_house, "clean")
    assert done.returncode == 1 and "nbs/1_wing/1_room.ipynb" in done.stderr and "make sync" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert path.read_text() == dirty


def test_make_lab_saves_clean_notebooks(small_house, monkeypatch):
    "The hook of `make lab` turns what a browser sends into what nbdev_clean writes, so the two never fight."
    config = SimpleNamespace(ContentsManager=SimpleNamespace(), LabApp=SimpleNamespace())
    exec((ROOT / ".jupyter" / "jupyter_server_config.py").read_text(), {"c": config})
    clean = json.loads((small_house / "nbs" / "1_wing" / "1_room.ipynb").read_text())
    sent = json.loads(json.dumps(clean))
    sent["cells"][1] |= {"execution_count": 7, "metadata": {"trusted": True}}
    sent["metadata"] |= {"language_info": {"name": "python"}}
    sent["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    monkeypatch.chdir(small_house / "nbs" / "1_wing")
    config.ContentsManager.pre_save_hook(model={"type": "notebook", "content": sent}, path="1_room.ipynb")
    assert sent["cells"][1]["metadata"].pop("trusted"), (
        "else Jupyter would not show its panels when the page is loaded again"
    )
    assert sent == clean


def test_in_sync_names_stale_and_orphaned_modules(small_house):
    "A module of a part that was edited by hand, and one that no notebook exports any more."
    (small_house / "sdfdiff" / "wing" / "room.py").write_text("two = 3\n")
    (small_house / "sdfdiff" / "wing" / "orphan.py").write_text("# its notebook is gone\n")
    done = in_sync(small_house, "export")
    assert done.returncode == 1 and "make sync" in done.stderr
    assert "sdfdiff/wing/room.py" in done.stderr and "sdfdiff/wing/orphan.py" in done.stderr
    assert (small_house / "sdfdiff" / "wing" / "room.py").read_text() == "two = 3\n"


def test_slow_cells_are_skipped(small_house):
    "nbdev_test leaves out the cells of every flag in tst_flags, and runs the others."
    path = small_house / "nbs" / "1_wing" / "1_room.ipynb"
    book = json.loads(path.read_text())
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    book["cells"] += [cell | {"id": flag, "source": [f"#| {flag}\n", "1 / 0"]} for flag in ("slow", "notest", "gpu")]
    path.write_text(json.dumps(book))
    command = [Path(sys.executable).parent / "nbdev_test", "--n_workers", "0"]
    assert subprocess.run(command, cwd=small_house, capture_output=True).returncode == 0
    book["cells"] += [cell | {"id": "last", "source": ["1 / 0"]}]
    path.write_text(json.dumps(book))
    assert subprocess.run(command, cwd=small_house, capture_output=True).returncode == 1
