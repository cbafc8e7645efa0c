"The house rules: who may import whom, what a notebook looks like, how large things may grow, what git holds."

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from configparser import ConfigParser
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from course import BESIDE, CHAPTERS, INDEX, NOTEBOOKS, ROOT, SKIPPED, label, number

PACKAGE = ROOT / "sdfdiff"
MODULES = sorted(file for file in PACKAGE.rglob("*.py") if not file.name.startswith("_"))  # all of them exported
EVERY_NOTEBOOK = [*NOTEBOOKS, *BESIDE]
ROOMS = {  # part of the package: the parts that it may import; "" is the ground floor, "top" what may import everything
    "": set(),
    "images": {""},
    "uncertainty": {""},
    "diffusion": {"", "images"},
    "ensembles": {"", "images", "uncertainty", "diffusion"},
    "study": {"", "images", "uncertainty", "diffusion", "ensembles"},
    "comparisons": {"", "images", "uncertainty", "diffusion", "ensembles", "study"},
    "panels": {"", "images", "uncertainty", "diffusion", "ensembles", "study"},
    "beyond": {"", "images", "uncertainty", "diffusion", "ensembles", "study", "comparisons", "panels"},
    "top": {"", "images", "uncertainty", "diffusion", "ensembles", "study", "comparisons", "panels", "beyond"},
}
TOP = {"options", "inputs", "measuring", "studying", "command"}  # modules at the root that are no ground floor
TORCH = {
    "diffusion",
    "ensembles",
    "study",
    "comparisons",
    "panels",
    "beyond",
}  # parts that may import torch when they are imported
XARRAY = {"uncertainty", "ensembles", "study", "comparisons", "panels", "beyond"}
MATPLOTLIB = {"study", "panels"}
SHOW_ONLY = {
    "0_first_look",
    "1_short_path",
    "3_reverse_process",
    "8_any_ensemble",
    "8_who_wins",
    "4_blood_cells",
}  # lessons without a module
each_notebook = pytest.mark.parametrize("path", [INDEX, *EVERY_NOTEBOOK], ids=label)


def dotted(path: Path) -> str:
    "Name of a module below `sdfdiff`: study.plan."
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def room(name: str) -> str:
    "The part of the package that a module (study.plan) belongs to."
    return "top" if name in TOP else name.rpartition(".")[0]


each_module = pytest.mark.parametrize("path", MODULES, ids=dotted)


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


@cache
def module_of(path: Path) -> str | None:
    "What the notebook names in `#| default_exp`, None if it exports nothing."
    names = re.findall(r"^#\s*\|\s*default_exp\s+(\S+)", "\n".join(code_of(path)), re.M)
    assert len(names) <= 1, f"{path.name} has several default_exp"
    return names[0] if names else None


@cache
def known() -> dict[str, str]:
    "Dotted name of every module, and of every part, to the part it belongs to."
    return {dotted(path): room(dotted(path)) for path in MODULES} | {part: part for part in ROOMS if part}


def imported(tree: ast.AST, package: str = "sdfdiff") -> list[tuple[str, ast.AST]]:
    "Every (dotted name, node) imported anywhere in the tree; relative names start from `package`, the file's own."
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(name.name, node) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            base = ".".join([*above, *[node.module] * bool(node.module)])
            whole = base == "sdfdiff" or base.removeprefix("sdfdiff.") in ROOMS  # then what is imported may be a module
            found += [(f"{base}.{name.name}" if whole else base, node) for name in node.names]
    return found


def rooms_of(tree: ast.AST, package: str = "sdfdiff") -> list[tuple[str, ast.AST]]:
    "(Module of ours, node) for every import from our package; AssertionError for one that is not there."
    from sdfdiff import __dict__ as here

    found = []
    for name, node in imported(tree, package):
        if name.split(".")[0] == "sdfdiff" and name not in ("sdfdiff", "sdfdiff.__version__"):
            own = name.removeprefix("sdfdiff.")
            target = next((one for one in (own, own.rpartition(".")[0]) if one in known()), None)
            assert target or own in dir(__import__("sdfdiff")) or own in here, f"`{ast.unparse(node)}` names no module"
            found.append((target or own, node))
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


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf8"))


def tracked() -> list[Path]:
    "What git tracks, and what it would if asked."
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


# ---- the house as a whole


def test_notebook_and_module_belong_together():
    """A notebook N_name of chapter N_part exports sdfdiff/part/name.py, or sdfdiff/name.py if there is no such part.

    The engine room is under every part: what it holds may belong to any of them. Within a folder no two share a number;
    no module is left behind by a deleted notebook.
    """
    assert {path.parent.name for path in NOTEBOOKS} == set(CHAPTERS)
    assert not [path.name for path in EVERY_NOTEBOOK if not re.fullmatch(r"\d+_[a-z0-9_]+", path.stem)]
    numbers = [(path.parent, number(path.name)) for path in EVERY_NOTEBOOK]
    assert len(set(numbers)) == len(numbers)
    assert not [path for path in BESIDE if module_of(path)]
    exported = {path: module_of(path) for path in NOTEBOOKS}
    for path, module in exported.items():
        part, name = (one.name.split("_", 1)[1] for one in (path.parent, path.with_suffix("")))
        places = [*ROOMS, ""] if part == "engine_room" else [part] if part in ROOMS else [""]
        assert module in (None, *(f"{place}.{name}".lstrip(".") for place in places)), f"{label(path)} exports {module}"
        assert module or part == "results" or path.stem in SHOW_ONLY, f"{label(path)} exports nothing"
    modules = [module for module in exported.values() if module]
    assert len(modules) == len(set(modules)), "two notebooks write the same module: the later overwrites the earlier"
    assert {dotted(path) for path in MODULES} == set(modules)


def test_every_notebook_is_run():
    """The tests run each notebook of the course, each beside the benchmarks, and those that lead to them; `nbdev_test`
    finds the same ones, and `make test` calls pytest without leaving any out."""
    from nbdev.doclinks import nbglob
    from nbdev.test import _keep_file
    from test_notebooks import EVERY

    everything = sorted(path for path in tracked() if path.suffix == ".ipynb")
    assert everything == sorted([INDEX, *EVERY_NOTEBOOK]) == sorted(EVERY) and len(everything) > 50
    for folder, paths in (("nbs", [INDEX, *NOTEBOOKS]), ("benchmarks", BESIDE)):
        found = [path for path in nbglob(ROOT / folder, as_path=True) if _keep_file(path, ".notest")]
        assert sorted(path.absolute() for path in found) == sorted(paths)
    recipe = re.search(r"^test:(?:.*\n\t)+.*\n", (ROOT / "Makefile").read_text(), re.M)[0]
    assert re.findall(r"python -m pytest(.*)", recipe) == [" -n 3 --dist loadscope --no-loadscope-reorder"]


def test_cells_are_skipped_as_nbdev_skips_them():
    "What the tests leave out is what `nbdev_test` would, cell by cell."
    from fastcore.basics import AttrDict
    from nbdev.process import extract_directives

    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf8")
    flags, skipped = set(settings["DEFAULT"]["tst_flags"].split()), 0
    assert flags == {"notest", "slow", "gpu"}
    for path in EVERY_NOTEBOOK:
        for kind, source, _ in cells(path):
            if kind == "code":
                found = extract_directives(AttrDict(cell_type="code", source=source), remove=False)
                leaves_out = bool(flags & set(found)) or found.get("eval:", [""])[0].lower() == "false"
                assert leaves_out == bool(SKIPPED.search(source)), f"{label(path)}: {source[:80]}"
                skipped += leaves_out
    assert skipped


@each_module
def test_module_imports_what_its_room_may(path):
    "The house's table says who may import whom; by name, and never another room's private helper."
    own = room(dotted(path))
    package = ".".join(["sdfdiff", *path.relative_to(PACKAGE).parts[:-1]])
    for target, node in rooms_of(parsed(path), package):
        allowed = target in known() and (known()[target] in ROOMS[own] | {own})
        assert allowed or own == "top", f"line {node.lineno}: {dotted(path)} may not import {target}"
    private = [
        f"line {node.lineno}: {name.name}"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ImportFrom) and (node.level or node.module.startswith("sdfdiff"))
        for name in node.names if name.name.startswith("_") and name.name != "__version__"
    ]  # fmt: skip
    assert not private


def test_modules_import_in_no_circle():
    edges = {}
    for path in MODULES:
        package = ".".join(["sdfdiff", *path.relative_to(PACKAGE).parts[:-1]])
        edges[dotted(path)] = {target for target, _ in rooms_of(parsed(path), package)}
    while ready := [name for name, needed in edges.items() if not needed & set(edges)]:
        for name in ready:
            del edges[name]
    assert not edges, "each of these imports, directly or through others, one that imports it"


@each_notebook
def test_notebook_imports_what_was_taught(path):
    """What a notebook shows rests on its own chapter and those before it, and never on a private helper.

    The ground floor is open to all, and so is the engine room, whose notebooks no lesson needs. The first two notebooks
    show everything once. What a cell exports may import what its part may: the test of the modules looks at that.
    """
    taught = [one for one in NOTEBOOKS if not one.parent.name.endswith("engine_room")]
    chapter_of = {module_of(one): number(one.parent.name) for one in taught}
    for source in code_of(path):
        exported = re.match(r"#\s*\|\s*export\b", source)
        for target, node in rooms_of(ast.parse(source)):
            names = [name.name for name in node.names] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if re.match("_[^_]", name)], ast.unparse(node)
            early = (
                path in [INDEX, *NOTEBOOKS[:2], *BESIDE]
                or path.parent.name.endswith("engine_room")
                or chapter_of.get(target, 0) <= number(path.parent.name)
                or room(target) == ""
                or exported
            )
            assert early, f"{label(path)} may not import {target}"


@each_module
def test_module_keeps_its_walls(path):
    "NumPy for geometry, torch for the model, xarray where results have names; nbdev stays a tool."
    names = {name.split(".")[0] for name, _ in imported(parsed(path))}
    assert names.isdisjoint({"fastcore", "nbdev", "execnb"}), "the package never imports the tools that made it"
    early, own = at_import(parsed(path)), room(dotted(path))
    assert own in TORCH or dotted(path) == "images.training_data" or "torch" not in early, "torch has its own rooms"
    assert own in XARRAY or "xarray" not in early, "arrays get names where there are many masks, not before"
    assert own in MATPLOTLIB or "matplotlib" not in early, "import matplotlib inside the function that draws"


def loaded(names: list[str]) -> set[str]:
    "What a new process has imported after importing these modules of ours."
    code = f"import sys\nfrom importlib import import_module\nfor name in {names}: import_module('sdfdiff.' + name)\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_walls_hold_for_what_is_imported_in_turn():
    ground = [dotted(path) for path in MODULES if room(dotted(path)) == ""]
    ground += ["images.synthetic", "images.preparation", "images.layouts", "images.cases"]
    found = loaded(ground)
    assert {"torch", "xarray", "matplotlib.pyplot"}.isdisjoint(found)


def test_uncertainty_needs_no_torch_and_no_diffusion():
    names = [dotted(path) for path in MODULES if room(dotted(path)) == "uncertainty"]
    found = loaded(names)
    assert found.isdisjoint({"torch", "sdfdiff.diffusion", "sdfdiff.ensembles", "sdfdiff.images"})


def test_imports_are_required():
    "Whatever is imported is named in settings.ini: for the package in requirements, for a notebook there or in `lab`."
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf8")
    about = settings["DEFAULT"]
    own = [*(ROOT / "tests").glob("*.py"), *(ROOT / "nbs" / "_site").glob("*.py")]
    allowed, wrong, beside = {"sdfdiff"}, [], {file.stem for file in own} | {"benchmarks"}
    distributions = packages_distributions()
    rooms = {file: room(dotted(file)) for file in MODULES}
    plain = [file for file in MODULES if rooms[file] != "comparisons" and dotted(file) != "images.readers"]
    steps = [
        ("requirements", [file.read_text(encoding="utf8") for file in plain], set()),
        ("slides_requirements", [(PACKAGE / "images" / "readers.py").read_text(encoding="utf8")], set()),
        ("comparisons_requirements", [file.read_text() for file in MODULES if rooms[file] == "comparisons"], set()),
        ("lab_requirements", [source for path in NOTEBOOKS for source in code_of(path)], {"ipython", "ipykernel"}),
        ("docs_requirements", [file.read_text() for file in (ROOT / "nbs" / "_site").glob("*.py")], {"traitlets"}),
        ("dev_requirements", [file.read_text() for file in (ROOT / "tests").glob("*.py")], {"jupyter-client"}),
    ]
    for field, sources, come_along in steps:
        allowed |= come_along | {re.split(r"[<>=!~\[]", word)[0] for word in about[field].split()}
        names = {name.split(".")[0] for source in sources for name, _ in imported(ast.parse(source), "sdfdiff.part")}
        for name in sorted(names - sys.stdlib_module_names - beside):
            if not allowed & {found.lower().replace("_", "-") for found in distributions.get(name, [name])}:
                wrong.append(f"{name} is imported but not among the {field}")
    assert not wrong


@pytest.mark.parametrize("path", [path for path in NOTEBOOKS if path.parent.name == "6_results"], ids=label)
def test_analysis_touches_no_model(path):
    "Results are read from data; only 6.7, which repeats the paper's figures, touches a network itself."
    names = {name for source in code_of(path) for name, _ in imported(ast.parse(source))}
    used = "torch" in names or any(name.startswith("sdfdiff.diffusion") for name in names)
    assert not used or path.stem.endswith("paper")


STATE = re.compile(
    r"torch\.(manual_seed|set_default_dtype|set_default_device)|(np\.|numpy\.)?random\.seed"
    r"|.*rcParams\.update|(plt|matplotlib)\.(style\.use|rc)"
)


@pytest.mark.parametrize("path", [*MODULES, *EVERY_NOTEBOOK], ids=lambda path: str(path.relative_to(ROOT)))
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
    found = code_lines(path.read_text(encoding="utf8"))
    assert found <= 300, f"{found} lines of code, 300 are allowed"


def test_package_is_small():
    "Lines of all modules, the index left out, at a width of 120 columns (ruff checks the width)."
    files = [file for file in PACKAGE.rglob("*.py") if file.name != "_modidx.py"]
    assert sum(len(file.read_text(encoding="utf8").splitlines()) for file in files) <= 21_600


def unannotated(tree):
    "Public functions, and methods of public classes, that leave a type unsaid."
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            inside = node.body if isinstance(node, ast.ClassDef) else [node]
            for one in (one for one in inside if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")):
                given = [*one.args.posonlyargs, *one.args.args, *one.args.kwonlyargs]
                lacking = [each.arg for each in given if each.annotation is None and each.arg not in ("self", "cls")]
                if lacking or one.returns is None:
                    yield f"{one.name}: {', '.join(lacking) or 'what it returns'}"


@each_module
def test_public_functions_are_annotated(path):
    assert not [*unannotated(parsed(path))]


def test_what_is_not_annotated_is_found():
    code = "def f(a: int, b) -> int: ...\nclass C:\n    def g(self, c: int): ...\n    def _h(self, d): ...\n"
    assert [*unannotated(ast.parse(code))] == ["f: b", "g: what it returns"]


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
    long = [f"{len(source.splitlines())} lines: {source[:60]!r}" for source in sources if len(source.splitlines()) > 40]
    assert not long, "a code cell has at most 40 lines"
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


def test_scripts_can_be_run():
    "Git keeps the run bit; a script without it is refused by a shell that is given its name."
    kept = subprocess.run(["git", "ls-files", "-s", "*.sh"], cwd=ROOT, text=True, capture_output=True, check=True)
    assert [line for line in kept.stdout.splitlines() if not line.startswith("100755")] == []


def test_files_are_small():
    "A file that is replaced often stays in the history for ever; the weights together stay below 20 MB."
    assert not [path for path in tracked() if path.stat().st_size > 8e6]
    assert sum(path.stat().st_size for path in (ROOT / "data").glob("*.safetensors")) <= 20e6


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
