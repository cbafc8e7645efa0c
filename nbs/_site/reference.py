"The reference: a page for each part of the package, written from what the source says beside every parameter."

import ast
import re
from html import escape
from pathlib import Path

from chapters import CHAPTERS, label, notebooks

from sdfdiff.docstrings import Entry, Parameter, entries

EXPORTS = re.compile(r'"#\s*\|\s*default_exp\s+([\w.]+)')
ROOT_PAGE = "sdfdiff"  # Of the modules that belong to no part


def modules(root: Path) -> dict[str, Path]:
    "Dotted name of each module below sdfdiff, and the notebook that it is exported from; in the order of the course."
    found = {}
    for path in notebooks(root / "nbs"):
        for name in EXPORTS.findall(path.read_text(encoding="utf8")):
            found[name] = path
    return {name: path for name, path in found.items() if source_of(root, name).exists()}


def source_of(root: Path, module: str) -> Path:
    return root / "sdfdiff" / f"{module.replace('.', '/')}.py"


def served(root: Path, part: str) -> list[str]:
    "Names that a part serves, or with an empty name the front door; modules are left out."
    stub = root / "sdfdiff" / part / "__init__.pyi"
    tree = ast.parse(stub.read_text(encoding="utf8") if stub.exists() else "")
    return [one.name for node in tree.body if isinstance(node, ast.ImportFrom) and node.module for one in node.names]


def public(source: str) -> list[str]:
    "Names in `__all__`, in the order of the module."
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            named = ast.literal_eval(node.value)
            return [name for name in entries(source) if name in named]
    return []


def html(text: str) -> str:
    "Prose: code between backticks, everything else as it is; braces and dollars stay letters."
    parts = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return " ".join(parts.replace("$", "&#36;").replace("{", "&#123;").split())


def listed(one: Parameter) -> str:
    "A parameter, or what is returned, as a row of a list."
    default = f" = {one.default}" if one.default else ""
    kind = f" <span>{html(f'{one.kind}{default}')}</span>" if one.kind or default else ""
    return f"<dt><code>{html(one.name) or 'returns'}</code>{kind}</dt><dd>{html(one.comment)}</dd>"


def block(one: Entry) -> str:
    "What is said about a function, a class or a member: prose, then a list."
    prose = "".join(f"<p>{html(part)}</p>" for part in one.text.split("\n\n") if part)
    rows = [listed(each) for each in one.parameters]
    rows += [listed(one.returns)] if one.returns and (one.returns.kind != "None" or one.returns.comment) else []
    return f"{prose}<dl>{''.join(rows)}</dl>" if rows else prose


def called(module: str, name: str, doors: dict[str, list[str]]) -> str:
    "The shortest name under which Python finds it."
    part = module.rpartition(".")[0]
    place = "" if name in doors[""] else part if part and name in doors[part] else module
    return ".".join(filter(None, ("sdfdiff", place, name)))


def section(root: Path, module: str, notebook: Path, doors: dict[str, list[str]]) -> list[str]:
    "A module: its sentence, where it is taught, and every public name."
    path = source_of(root, module)
    source = path.read_text(encoding="utf8")
    found, names = entries(source), public(source)
    taught = f"Taught in [{label(notebook)}](/{notebook.relative_to(root)})."
    lines = [f"## sdfdiff.{module}", f"{html(ast.get_docstring(ast.parse(source)) or '')}\n\n{taught}"]
    for name in names:
        one = found[name]
        lines.append(f"### `{name}`")
        where = f"{path.relative_to(root)}, line {one.line}"
        about = f'<p class="where">{one.kind} <code>{called(module, name, doors)}</code> · {where}</p>'
        if one.kind == "value":
            code = source.splitlines()[one.line - 1].partition("  # ")[0]
            about += f"<pre>{html(code)}</pre>" + (f"<p>{html(one.text)}</p>" if one.text else "")
        members = "".join(
            f"<dt><code>.{each.name}</code> <span>{each.kind.replace('function', 'method')}</span></dt>"
            f"<dd>{block(each)}</dd>"
            for each in one.members
        )
        whole = about + (block(one) if one.kind != "value" else "") + (f"<dl>{members}</dl>" if members else "")
        lines.append(f'<div class="reference">{whole}</div>')
    return lines


def front(pages: dict[str, list[str]], root: Path, doors: dict[str, list[str]]) -> str:
    "The first page: what the front door serves, in a sentence each."
    lines = [
        "# The reference",
        "Every public function and class, with the shape, the unit and the meaning of each parameter.",
    ]
    lines += ["`import sdfdiff` serves these names; all others are found under the name that stands with them.", ""]
    lines += ["| Name | What it is |", "|---|---|"]
    for page, named in pages.items():
        for module in named:
            found = entries(source_of(root, module).read_text(encoding="utf8"))
            for name in [one for one in found if one in doors[""]]:
                sentence = found[name].text.splitlines()[0].replace("|", "\\|").replace("$", "\\$")
                lines.append(f"| [`{name}`]({page}.md#{name.lower()}) | {sentence} |")
    lines += ["", "The parts:", ""]
    lines += [f"- [{title(page)}]({page}.md)" for page in pages]
    return "\n".join(lines) + "\n"


def title(page: str) -> str:
    return "sdfdiff: files, shapes, distances, the command line" if page == ROOT_PAGE else f"sdfdiff.{page}"


def write_reference(
    root: Path,  # The project
    folder: Path,  # To write pages to
) -> list[str]:  # Names of the pages, without suffix, in their order; none without a package
    "Write the reference as Markdown."
    known = modules(root)
    if not known:
        return []
    pages: dict[str, list[str]] = {}
    for module in known:
        pages.setdefault(module.rpartition(".")[0] or ROOT_PAGE, []).append(module)
    order = [name.split("_", 1)[1] for name in CHAPTERS]
    pages = dict(sorted(pages.items(), key=lambda row: order.index(row[0]) if row[0] in order else -1))
    doors = {part: served(root, part) for part in ("", *pages)}
    folder.mkdir(parents=True, exist_ok=True)
    for page, named in pages.items():
        lines = [f"# {title(page)}"]
        for module in named:
            lines += section(root, module, known[module], doors)
        (folder / f"{page}.md").write_text("\n\n".join(lines) + "\n", encoding="utf8")
    (folder / "index.md").write_text(front(pages, root, doors), encoding="utf8")
    return ["index", *pages]
