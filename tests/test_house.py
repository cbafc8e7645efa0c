"The house rules: who may import whom, what a notebook looks like, how large things may grow, what git holds."

import ast
import io
import json
import re
import shutil
import subprocess
import sys
import tokenize
from configparser import ConfigParser
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULES = sorted(file for file in (ROOT / "sdfdiff").glob("*.py") if not file.name.startswith("_"))
ANALYSIS = {*range(32, 50), 60}  # notebooks that may have no module
NUMPY_ONLY = {"exercises", "files", "drawing", "shapes", "distance", "tissue", "histology", "metrics"}
LINES = {"network": 300}  # exported lines; 250 for the others
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)


@cache
def cells(path: Path) -> list[tuple[str, str, list]]:
    "Kind, source and outputs of each cell of a notebook."
    content = json.loads(path.read_text(encoding="utf8"))
    return [(cell["cell_type"], "".join(cell["source"]), cell.get("outputs", [])) for cell in content["cells"]]


def code_of(path: Path) -> list[str]:
    "The sources of the code cells, those that IPython alone understands left out."
    return [source for kind, source, _ in cells(path) if kind == "code" and not re.search(r"^\s*[%!]", source, re.M)]


def prose_of(path: Path) -> str:
    return "\n\n".join(source for kind, source, _ in cells(path) if kind == "markdown")


def number(path: Path) -> int:
    return int(path.stem.split("_")[0])


def module_of(path: Path) -> str | None:
    "What the notebook names in `#| default_exp`, None if it exports nothing."
    names = re.findall(r"^#\s*\|\s*default_exp\s+(\S+)", "\n".join(code_of(path)), re.M)
    assert len(names) <= 1, f"{path.name} has several default_exp"
    return names[0] if names else None


@cache
def numbers() -> dict[str, int]:
    "Module name -> number of its notebook."
    return {module_of(path): number(path) for path in NOTEBOOKS if module_of(path)}


def imported(tree: ast.AST) -> list[tuple[str, ast.AST]]:
    "Every (dotted module name, node) that is imported anywhere in the tree; `from sdfdiff import x` is `sdfdiff.x`."
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(name.name, node) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(["sdfdiff"] * bool(node.level) + [node.module] * bool(node.module))
            names = [f"{base}.{name.name}" for name in node.names] if base == "sdfdiff" else [base]
            found += [(name, node) for name in names]
    return found


def at_import(tree: ast.AST) -> set[str]:
    "Top-level names of the packages imported when the module is: not those inside functions or `if TYPE_CHECKING`."
    found, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {name.split(".")[0] for name, _ in imported(node)}
        waiting += ast.iter_child_nodes(node)
    return found


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf8"))


def tracked() -> list[Path]:
    "What git tracks, and what it would if asked."
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# ---- the house as a whole


def test_notebook_and_module_belong_together():
    "Each notebook is NN_name and exports sdfdiff/name.py; no module is left behind by a deleted notebook."
    assert not [path.name for path in NOTEBOOKS if not re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem)]
    exported = {path.name: module_of(path) for path in NOTEBOOKS}
    assert not [name for name, module in exported.items() if module is None and int(name[:2]) not in ANALYSIS]
    assert not [name for name, module in exported.items() if module and name != f"{name[:2]}_{module}.ipynb"]
    modules = [module for module in exported.values() if module]
    assert len(modules) == len(set(modules)), "two notebooks write the same module: the later overwrites the earlier"
    assert {path.stem for path in MODULES} == set(modules)


@each_module
def test_module_imports_lower_numbers(path):
    "Data flows one way: a module imports from strictly lower-numbered notebooks, by name."
    own = numbers()[path.stem]
    for name, node in imported(parsed(path)):
        if name.split(".")[0] == "sdfdiff":
            target = name.split(".")[1] if "." in name else None
            if target == "__version__":
                continue
            assert target in numbers(), f"line {node.lineno}: `{ast.unparse(node)}` names no module of the house"
            assert numbers()[target] < own, f"line {node.lineno}: {path.stem} may not import {target}"


@each_notebook
def test_notebook_imports_lower_numbers(path):
    "What a notebook shows rests on what came before it, and on its own module."
    for source in code_of(path):
        for name, node in imported(ast.parse(source)):
            if name.startswith("sdfdiff.") and name != "sdfdiff.__version__":
                target = name.split(".")[1]
                assert target in numbers(), f"`{ast.unparse(node)}` names no module of the house"
                lower = numbers()[target] < number(path) or target in (module_of(path), "exercises")
                assert lower, f"{path.stem} may not import {target}"


@each_module
def test_module_keeps_its_walls(path):
    "NumPy for geometry and metrics, torch for the model, xarray from the ensembles on; nbdev stays a tool."
    names = {name.split(".")[0] for name, _ in imported(parsed(path))}
    assert names.isdisjoint({"fastcore", "nbdev", "execnb"}), "the package never imports the tools that made it"
    early = at_import(parsed(path))
    assert path.stem not in NUMPY_ONLY or "torch" not in early, "torch belongs on the other side of the wall"
    assert numbers()[path.stem] >= 20 or "xarray" not in early, "arrays get names in the ensembles, not before"
    assert numbers()[path.stem] >= 31 or "matplotlib" not in early, "import matplotlib inside the function that draws"


def test_numpy_modules_load_without_torch():
    "The wall holds for what they import in turn."
    there = sorted(NUMPY_ONLY & set(numbers()))
    code = f"import sys, sdfdiff\nfor name in {there}: getattr(sdfdiff, name)\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "xarray", "matplotlib.pyplot"}.isdisjoint(loaded)


def test_imports_are_required():
    "Whatever is imported is named in settings.ini: for the package in requirements, for a notebook there or in `lab`."
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf8")
    about = settings["DEFAULT"]
    allowed, wrong, beside = {"sdfdiff"}, [], {file.stem for file in (ROOT / "tests").glob("*.py")}
    distributions = packages_distributions()
    steps = [
        ("requirements", [file.read_text(encoding="utf8") for file in MODULES], set()),
        ("lab_requirements", [source for path in NOTEBOOKS for source in code_of(path)], {"ipython", "ipykernel"}),
        ("docs_requirements", [file.read_text() for file in (ROOT / "nbs" / "_site").glob("*.py")], {"traitlets"}),
        ("dev_requirements", [file.read_text() for file in (ROOT / "tests").glob("*.py")], {"jupyter-client"}),
    ]
    for field, sources, come_along in steps:
        allowed |= come_along | {re.split(r"[<>=!~\[]", word)[0] for word in about[field].split()}
        names = {name.split(".")[0] for source in sources for name, _ in imported(ast.parse(source))}
        for name in sorted(names - sys.stdlib_module_names - beside):
            if not allowed & {found.lower().replace("_", "-") for found in distributions.get(name, [name])}:
                wrong.append(f"{name} is imported but not among the {field}")
    assert not wrong


@each_notebook
def test_analysis_touches_no_model(path):
    if number(path) in range(32, 40):
        names = {name for source in code_of(path) for name, _ in imported(ast.parse(source))}
        assert names.isdisjoint({"torch", "sdfdiff.diffusion.network", "sdfdiff.diffusion.training", "sdfdiff.diffusion.sampling"})


STATE = re.compile(
    r"torch\.(manual_seed|set_default_dtype|set_default_device)|(np\.|numpy\.)?random\.seed"
    r"|.*rcParams\.update|(plt|matplotlib)\.(style\.use|rc)"
)


@pytest.mark.parametrize("path", [*MODULES, *NOTEBOOKS], ids=lambda path: path.name)
def test_no_hidden_state_no_star(path):
    "No star import, no swallowed ImportError, no global seed, style or default type: they leak into what runs next."
    for source in [path.read_text(encoding="utf8")] if path.suffix == ".py" else code_of(path):
        tree = ast.parse(source)
        blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With)]
        forks = [node for node in blocks if "fork_rng" in ast.unparse(node.items[0].context_expr)]
        forked = {id(inner) for node in forks for inner in ast.walk(node)}
        for node in ast.walk(tree):
            here = ast.unparse(node) if isinstance(node, ast.stmt | ast.expr | ast.ExceptHandler) else ""
            if isinstance(node, ast.ImportFrom):
                assert node.names[0].name != "*", here
            if isinstance(node, ast.ExceptHandler) and node.type:
                swallowed = "ImportError" in ast.unparse(node.type) and all(isinstance(s, ast.Pass) for s in node.body)
                assert not swallowed, here
            if isinstance(node, ast.Call) and id(node) not in forked:  # torch.random.fork_rng() restores what it was
                assert not STATE.fullmatch(ast.unparse(node.func)), here
            if isinstance(node, ast.Assign | ast.AugAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                assert not any("rcParams" in ast.unparse(target) for target in targets), here


# ---- modules

DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def code_lines(source: str) -> int:
    "Lines with code in them: not blank, not a comment, not a docstring, not nbdev's __all__."
    skip = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | DEFINITIONS) and ast.get_docstring(node):
            skip |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            skip |= set(range(node.lineno, node.end_lineno + 1))
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    counted = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in empty:
            counted |= set(range(token.start[0], token.end[0] + 1))
    return len(counted - skip)


def test_code_lines_counts_code():
    source = '"Title."\n__all__ = ["f",\n  "g"]\n\n# why\ndef f(\n    a,  # meaning\n):\n    "Doc."\n'
    source += '    return """x\n\ny"""\n'
    assert code_lines(source) == 6


@each_module
def test_module_is_small(path):
    found, allowed = code_lines(path.read_text(encoding="utf8")), LINES.get(path.stem, 250)
    assert found <= allowed, f"{found} lines of code, {allowed} allowed"


@each_module
def test_public_names_are_documented(path):
    "Every public function and class says in its docstring what it is."
    tree = parsed(path)
    assert ast.get_docstring(tree), "nbdev takes the module's docstring from the notebook's `> claim`"
    public = [node for node in tree.body if isinstance(node, DEFINITIONS) and not node.name.startswith("_")]
    bare = [node.name for node in public if not ast.get_docstring(node)]
    assert not bare, f"no docstring: {bare}"


# ---- notebooks


@each_notebook
def test_notebook_reads_like_a_lecture(path):
    "A title and one claim first; a summary and exercises last."
    kind, first, _ = cells(path)[0]
    lines = first.splitlines()
    assert kind == "markdown" and re.match(r"# \S", lines[0]), "the first cell begins with `# Title`"
    claims = [line for line in lines if line.startswith("> ")]
    assert len(claims) == 1, "one `> claim`, on one line, under the title"
    assert claims[0].rstrip().endswith((".", "?", "!")), "the claim is a sentence"
    headings = re.findall(r"^## (.+?)\s*$", prose_of(path), re.M)
    assert headings[-2:] == ["Summary", "Exercises"], "the last two `## ` headings are Summary and Exercises"


@each_notebook
def test_notebook_is_small(path):
    assert len(cells(path)) <= 60, "at most 60 cells"
    sources = [source for kind, source, _ in cells(path) if kind == "code"]
    long = [f"{len(source.splitlines())} lines: {source[:60]!r}" for source in sources if len(source.splitlines()) > 30]
    assert not long, "a code cell has at most 30 lines"
    assert path.stat().st_size <= 300_000, "at most 300 kB"


@each_notebook
def test_notebook_ships_clean_outputs(path):
    "No error and no widget in the committed outputs, and every figure has its picture."
    for _, source, outputs in cells(path):
        for output in outputs:
            assert output["output_type"] != "error", source
            assert not [kind for kind in output.get("data", {}) if "widget" in kind], source
            assert output.get("name") != "stderr", f"a warning was committed below: {source}"
    assert "widgets" not in json.loads(path.read_text(encoding="utf8"))["metadata"]


@each_notebook
def test_notebook_was_executed(path):
    "A notebook whose code prints nothing at all was never run before it was committed."
    assert any(outputs for _, _, outputs in cells(path))


@each_notebook
def test_links_resolve(path):
    "A link to another notebook or file leads somewhere, its #anchor included."
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", prose_of(path), flags=re.S)):
        if re.match(r"[a-z]+:", target) or target.startswith(("attachment:", "<")):
            continue
        file, _, anchor = target.partition("#")
        there = path.parent / file if file else path
        assert there.exists(), f"{target} leads nowhere"
        if anchor and there.suffix == ".ipynb":
            headings = {name.strip().replace(" ", "-") for name in re.findall(r"^#+ (.+)$", prose_of(there), re.M)}
            assert anchor.lower() in {name.lower() for name in headings}, f"{target}: no such heading"


# ---- the repository


def test_files_are_small():
    "A file that is replaced often stays in the history for ever; the weights together stay below 15 MB."
    assert not [path for path in tracked() if path.stat().st_size > 8e6]
    assert sum(path.stat().st_size for path in (ROOT / "data").glob("*.safetensors")) <= 15e6


def test_text_names_no_machine():
    "No path of somebody's computer, and no address of a package registry: both are wrong on the next machine."
    binary = {".png", ".safetensors", ".nc", ".npz", ".tif", ".bmp", ".jpg", ".gif", ".woff2"}
    folder = re.compile(r"(?<![\w.~}*)])/(?:work|tmp|home|root|Users|mnt)/\w")
    hosts = ["py" + r"pi\.org", "python" + "hosted", "index" + "-url", "npm" + "js", r"deb\." + "debian"]
    wrong = []
    for path in tracked():
        if path.suffix not in binary and "zarr" not in str(path):
            text = path.read_text(encoding="utf8")
            if path.suffix == ".ipynb":
                text = re.sub(r'"image/png": "[^"]*"', "", text)  # base64, in which any word may turn up
            found = folder.search(text) or re.search("|".join(hosts), text)
            wrong += [f"{path.relative_to(ROOT)}: {found[0]}"] if found else []
    assert not wrong


def test_git_keeps_notebooks_mergeable():
    assert "*.ipynb merge=nbdev-merge" in (ROOT / ".gitattributes").read_text().splitlines()


# ---- the check of `make test` that works on a copy


def in_sync(root: Path, step: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, root / "tests" / "in_sync.py", step], capture_output=True, text=True)


@pytest.fixture
def small_house(tmp_path):
    "A project with one notebook, cleaned and exported."
    (tmp_path / "tests").mkdir()
    (tmp_path / "nbs").mkdir()
    (tmp_path / "sdfdiff").mkdir()
    shutil.copy(ROOT / "tests" / "in_sync.py", tmp_path / "tests")
    shutil.copy(ROOT / "settings.ini", tmp_path)
    shutil.copy(ROOT / "sdfdiff" / "__init__.py", tmp_path / "sdfdiff")
    sources = ["#| default_exp room", "#| export\ndef two():\n    return 2"]
    content = [{"cell_type": "markdown", "id": "a0", "metadata": {}, "source": ["# Room\n", "> One room."]}] + [
        {"cell_type": "code", "id": f"a{i + 1}", "metadata": {}, "execution_count": None, "outputs": [],
         "source": source.splitlines(True)} for i, source in enumerate(sources)
    ]  # fmt: skip
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    book = {"cells": content, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "nbs" / "01_room.ipynb").write_text(json.dumps(book))
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
    path = small_house / "nbs" / "01_room.ipynb"
    book = json.loads(path.read_text())
    book["cells"][1]["execution_count"] = 7
    book["metadata"]["language_info"] = {"name": "python", "version": "3.11.2"}
    book["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    path.write_text(dirty := json.dumps(book))
    done = in_sync(small_house, "clean")
    assert done.returncode == 1 and "nbs/01_room.ipynb" in done.stderr and "nbdev_clean" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert path.read_text() == dirty


def test_make_lab_saves_clean_notebooks(small_house, monkeypatch):
    "The hook of `make lab` turns what a browser sends into what nbdev_clean writes, so the two never fight."
    config = SimpleNamespace(ContentsManager=SimpleNamespace(), LabApp=SimpleNamespace())
    exec((ROOT / ".jupyter" / "jupyter_server_config.py").read_text(), {"c": config})
    clean = json.loads((small_house / "nbs" / "01_room.ipynb").read_text())
    sent = json.loads(json.dumps(clean))
    sent["cells"][1] |= {"execution_count": 7, "metadata": {"trusted": True}}
    sent["metadata"] |= {"language_info": {"name": "python"}}
    sent["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    monkeypatch.chdir(small_house / "nbs")
    config.ContentsManager.pre_save_hook(model={"type": "notebook", "content": sent}, path="01_room.ipynb")
    assert sent["cells"][1]["metadata"].pop("trusted"), "else Jupyter would not show its panels when the page is loaded again"
    assert sent == clean


def test_in_sync_names_stale_and_orphaned_modules(small_house):
    (small_house / "sdfdiff" / "room.py").write_text("two = 3\n")
    (small_house / "sdfdiff" / "orphan.py").write_text("# its notebook is gone\n")
    done = in_sync(small_house, "export")
    assert done.returncode == 1 and "nbdev_export" in done.stderr
    assert "sdfdiff/room.py" in done.stderr and "sdfdiff/orphan.py" in done.stderr
    assert (small_house / "sdfdiff" / "room.py").read_text() == "two = 3\n"


def test_slow_cells_are_skipped(small_house):
    "nbdev_test leaves out the cells of every flag in tst_flags, and runs the others."
    path = small_house / "nbs" / "01_room.ipynb"
    book = json.loads(path.read_text())
    cell = {"cell_type": "code", "metadata": {}, "execution_count": None, "outputs": []}
    book["cells"] += [cell | {"id": flag, "source": [f"#| {flag}\n", "1 / 0"]} for flag in ("slow", "notest", "gpu")]
    path.write_text(json.dumps(book))
    command = [Path(sys.executable).parent / "nbdev_test", "--n_workers", "0"]
    assert subprocess.run(command, cwd=small_house, capture_output=True).returncode == 0
    book["cells"] += [cell | {"id": "last", "source": ["1 / 0"]}]
    path.write_text(json.dumps(book))
    assert subprocess.run(command, cwd=small_house, capture_output=True).returncode == 1
