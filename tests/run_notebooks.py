"""Execute notebooks in place, two at a time.  Usage: python tests/run_notebooks.py [--all-cells] [NOTEBOOK...]

Cells that `nbdev_test` skips (slow, notest, gpu, eval: false) keep their outputs, unless --all-cells is given.
A notebook that raises is left as it was.
"""

import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from course import BESIDE, NOTEBOOKS, SKIPPED
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config


def without_widgets(notebook) -> None:
    "Take out what only a running kernel can show: panels and progress bars, and their state."
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if not any("widget" in kind for kind in out.get("data", {}))]


def execute(path: Path, every_cell: bool = False) -> bool:
    "Execute the notebook at `path` and write it back; False, and nothing written, if a cell raises."
    start = time.time()
    notebook = nbformat.read(path, as_version=4)
    kept = {}
    for index, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and not every_cell and SKIPPED.search(cell.source):
            kept[index] = dict(cell)
            cell.source = ""
    place = {"metadata": {"path": str(path.parent)}}
    try:
        with tempfile.TemporaryDirectory() as sockets:
            settings = Config(KernelManager={"transport": "ipc", "connection_file": f"{sockets}/kernel.json"})
            options = {"resources": place, "config": settings, "coalesce_streams": True}
            NotebookClient(notebook, timeout=1800, kernel_name="python3", **options).execute()
    except CellExecutionError as error:
        print(f"{path.name} raised and was left as it was:\n{error}", file=sys.stderr)
        return False
    for index, cell in kept.items():
        notebook.cells[index].update(cell)
    without_widgets(notebook)
    temporary = path.with_suffix(".part")
    try:
        nbformat.write(notebook, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"{path.name}: {time.time() - start:.0f} s", flush=True)
    return True


if __name__ == "__main__":
    names = [name for name in sys.argv[1:] if name != "--all-cells"]
    paths = [Path(name).resolve() for name in names] or [*NOTEBOOKS, *BESIDE]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda path: execute(path, "--all-cells" in sys.argv), paths))
    sys.exit(not all(results))
