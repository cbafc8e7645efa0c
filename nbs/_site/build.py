"""Build the course as a web site that needs no network.  Usage: python nbs/_site/build.py [OUT]

The first page is nbs/index.ipynb; the others are the texts that it leads to, and copies of the notebooks. Committed
outputs are shown as they are; a notebook with panels is executed (the copy), and each of its panels becomes a page of
its own, which scrubs in a frame. Cells that are folded in JupyterLab are folded here.
"""

import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from sphinx.cmd.build import main as sphinx
from traitlets.config import Config

sys.path.insert(0, str(Path(__file__).resolve().parent))
from chapters import CHAPTERS, INDEX, label, notebooks  # noqa: E402
from reference import write_reference  # noqa: E402

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DIRECTIVES = re.compile(r"\A(?:#\s*\|.*(?:\n|\Z))+")
HIDDEN = re.compile(r"^#\s*\|\s*hide\b", re.M)
SKIPPED = re.compile(r"^#\s*\|\s*(slow|notest|gpu|eval:\s*false)\b", re.M)  # as in tests/run_notebooks.py
PANELS = re.compile(r"default_exp panels\.|^(from|import) sdfdiff\.panels\b|\bsdfdiff\.\w+Panel\(", re.M)
TEXTS = ("nbs/glossary.md", "README.md", "nbs/README.md", "CONTRIBUTING.md", "CHANGELOG.md", "findings/README.md")
FORMULA = re.compile(r"^( *)(\$\$.+?\$\$) *$", re.M | re.S)
SOLUTION = re.compile(r"^( *)<details>\s*<summary>(.*?)</summary>\s*(.*?)\s*</details>", re.M | re.S)


def title_of(notebook) -> str:
    return notebook.cells[0].source.splitlines()[0].removeprefix("# ")


def has_panels(notebook) -> bool:
    return any(cell.cell_type == "code" and PANELS.search(cell.source) for cell in notebook.cells)


def execute(notebook, folder: Path, panels: Path) -> None:
    "Run the notebook in `folder`; its panels are saved to `panels`. Cells that tests skip keep the outputs they have."
    first = f"import sys\nsys.path.append({str(HERE)!r})\nfrom panels import show_panels\n"
    first += f"show_panels({str(panels)!r})"
    run = nbformat.from_dict(notebook | {"cells": [nbformat.v4.new_code_cell(first)]})
    run.cells += [cell for cell in notebook.cells if cell.cell_type == "code" and not SKIPPED.search(cell.source)]
    place = {"metadata": {"path": str(folder)}}
    # A socket with an absolute path: the kernel starts in another folder.
    settings = Config(KernelManager={"transport": "ipc", "ip": str(folder / "kernel")})
    NotebookClient(run, timeout=600, resources=place, config=settings, store_widget_state=False).execute()
    # IPython reports an error in a formatter as an output, and goes on.
    if wrong := [output for cell in run.cells for output in cell.outputs if output.output_type == "error"]:
        sys.exit("\n".join(wrong[0].traceback))


def readable(notebook) -> None:
    "Leave out what is meant for nbdev; blank lines let MyST see the formulas and solutions that Jupyter sees without."
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source = FORMULA.sub(r"\n\1\2\n", cell.source)
            cell.source = SOLUTION.sub(r"\1<details><summary>\2</summary>\n\n\1\3\n\n\1</details>", source)
        elif HIDDEN.search(cell.source):
            cell.source = ""
        else:
            cell.source = DIRECTIVES.sub("", cell.source).strip("\n")
            if cell.metadata.get("jupyter", {}).get("source_hidden"):
                cell.metadata["tags"] = ["hide-input"]
    notebook.cells = [cell for cell in notebook.cells if cell.source]


def lay_out(source: Path, panels: Path) -> None:
    "Write what Sphinx reads, in the places where it lies in the project, so that its links stay true."
    networks = shutil.ignore_patterns("*-[0-9].safetensors")  # of data/comparisons: no page needs their 50 MB
    shutil.copytree(ROOT / "data", source / "data", ignore=networks)
    (source / "LICENSE.md").write_text(f"# Licence\n\n```text\n{(ROOT / 'LICENSE').read_text()}```\n")
    chapters = {}
    beside = "Beside the course: benchmarks"
    for path in [*notebooks(ROOT / "nbs"), *notebooks(ROOT / "benchmarks", "*.ipynb")]:
        place = path.relative_to(ROOT)
        (source / place).parent.mkdir(parents=True, exist_ok=True)
        notebook = nbformat.read(path, as_version=4)
        if has_panels(notebook):
            execute(notebook, (source / place).parent, panels / "_".join(place.with_suffix("").parts[1:]))
        readable(notebook)
        nbformat.write(notebook, source / place)
        entry = f"{label(path).split()[0]} {title_of(notebook)} <{place.with_suffix('')}>"
        if place.parts[0] == "benchmarks":
            entry = f"{title_of(notebook)} <{place.with_suffix('')}>"
        chapters.setdefault(CHAPTERS.get(path.parent.name, beside), []).append(entry)
    reference = write_reference(ROOT, source / "reference")
    if reference:
        chapters["Reference"] = [f"reference/{name}" for name in reference]
    for name in ("findings", "CITATION.cff"):
        if (ROOT / name).exists():
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    for name in TEXTS:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    titles = [name.removesuffix(".md") for name in TEXTS if (ROOT / name).exists()]  # Sphinx finds the titles
    table = ["Networks of the table <data/comparisons/README>"] * (ROOT / "data/comparisons/README.md").exists()
    chapters["Beside the course"] = [*titles, "Weights and data <data/README>", *table, "Licence <LICENSE>"]
    front = nbformat.read(INDEX, as_version=4)
    readable(front)
    for caption, entries in chapters.items():
        entries = [re.sub(r"^(.+<)?([^<>]+>?)$", r"\1/\2", entry) for entry in entries]  # from the site's root
        tree = ["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```"]
        front.cells.append(nbformat.v4.new_markdown_cell("\n".join(tree)))
    nbformat.write(front, source / INDEX.relative_to(ROOT))


def main(out: Path) -> None:
    if out.exists() and not (out / "searchindex.js").exists():
        sys.exit(f"{out} is there and is no site: nothing was changed.")
    with tempfile.TemporaryDirectory() as temporary:
        source, site, panels = (Path(temporary) / name for name in ("source", "site", "panels"))
        lay_out(source, panels)
        wrong = sphinx(["-qW", "--keep-going", "-c", str(HERE), "-d", str(source / ".trees"), str(source), str(site)])
        if wrong:
            sys.exit("The site was not built: the warnings above are errors.")
        if panels.exists():
            shutil.move(panels, site)
        door = INDEX.relative_to(ROOT).with_suffix(".html")
        (site / "index.html").write_text(
            f'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={door}">'
            f'<title>sdfdiff</title><a href="{door}">The course</a>\n'
        )
        if out.exists():
            shutil.rmtree(out)
        shutil.move(site, out)
    print(f"The site is in {out}: open {out / 'index.html'} in a browser.")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "_docs"))
