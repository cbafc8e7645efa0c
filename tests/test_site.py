"The site of the course: built once, each page opened in a browser without a network."

import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import browser
import pytest
from course import BESIDE, INDEX, NOTEBOOKS, ROOT

pytestmark = pytest.mark.browser

# What a page shows, read in the page: prose is its text without code and formulas.
LOOK = """async () => {
    if (document.querySelector(".math")) await MathJax.startup.promise;
    const text = (document.querySelector("article") ?? document.body).cloneNode(true);
    for (const node of text.querySelectorAll("pre, code, mjx-container, script, style")) node.remove();
    const all = (selector, read) => [...document.querySelectorAll(selector)].map(read);
    return {
        prose: text.textContent,
        code: all("article pre", node => node.textContent),
        formulas: all(".math", node => node.textContent).length,
        drawn: all("mjx-container", node => node).length,
        refused: all("mjx-merror, merror, [data-mjx-error]", node => node.parentElement.textContent),
        links: [...all("a[href], link[href]", node => node.href), ...all("[src]", node => node.src)],
        sidebar: all(".bd-sidebar-primary .bd-links a", node => node.href),
        ids: all("[id]", node => node.id),
        wide: document.documentElement.scrollWidth - innerWidth,
    };
}"""


def build(project: Path, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, project / "nbs" / "_site" / "build.py", out]
    return subprocess.run(command, capture_output=True, text=True)


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextmanager
def served(folder: Path):
    "The address under which this computer alone can see `folder`."
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def look(tab, address: str) -> dict:
    "Open one page and its frames; what it shows, what went wrong, whom it asked."
    tab.goto("about:blank")  # what the page before was still asking for fails now, and is no problem of this one
    browser.answered(tab)
    tab.problems.clear()
    tab.requests.clear()
    tab.goto(address)
    seen = tab.evaluate(LOOK)
    frames = tab.query_selector_all("iframe.panel")
    for frame in frames:
        frame.scroll_into_view_if_needed()
        frame.content_frame().wait_for_load_state()
        tab.wait_for_function("frame => frame.style.height", arg=frame)  # the panel has said how tall it is
    seen["frames"] = [
        {
            "title": frame.get_attribute("title"),
            "text": frame.content_frame().inner_text("body"),
            **frame.bounding_box(),
        }
        for frame in frames
    ]
    browser.answered(tab)
    return seen | {"problems": list(tab.problems), "requests": list(tab.requests)}


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "site"
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def pages(site):
    "Path of each page, relative to the site -> what was seen there."
    found = [path.relative_to(site) for path in site.rglob("*.html")]
    names = sorted(str(path) for path in found if path.parts[0] not in ("_static", "panels", "index.html"))
    with served(site) as address, browser.page(offline=True) as tab:
        return {name: look(tab, f"{address}/{name}") | {"address": f"{address}/{name}"} for name in names}


def page_of(path: Path) -> str:
    return str(path.relative_to(ROOT).with_suffix(".html"))


def test_every_notebook_is_a_page_in_the_sidebar(pages):
    there = [page_of(path) for path in [*NOTEBOOKS, *BESIDE]]
    assert set(there) <= set(pages)
    sidebar = [urlparse(link).path.lstrip("/") for link in pages["nbs/index.html"]["sidebar"]]
    apart = {page_of(INDEX), "nbs/README.html", "nbs/glossary.html"}
    assert [name for name in sidebar if name.startswith(("nbs/", "benchmarks/")) and name not in apart] == there
    assert apart <= set(sidebar)


def test_the_reference_is_in_the_sidebar(pages):
    "A page per part of the package, which opens at the function that is asked for."
    sidebar = {urlparse(link).path.lstrip("/") for link in pages["nbs/index.html"]["sidebar"]}
    parts = [path.parent.name for path in (ROOT / "sdfdiff").glob("*/__init__.py")]
    assert {f"reference/{name}.html" for name in ("index", "sdfdiff", *parts)} <= sidebar and len(parts) > 5
    assert "auroc" in pages["reference/uncertainty.html"]["ids"]
    assert "Larger where more uncertain" in pages["reference/uncertainty.html"]["prose"]


def test_nothing_is_asked_of_others_and_nothing_fails(pages):
    foreign = {
        url for page in pages.values() for url in page["requests"] if urlparse(url).hostname not in ("127.0.0.1", None)
    }
    assert not foreign
    assert not {name: page["problems"] for name, page in pages.items() if page["problems"]}


def test_formulas_are_drawn(pages):
    "Every formula, none refused, and no dollar left in the prose."
    for name, page in pages.items():
        assert page["drawn"] == page["formulas"] and not page["refused"], name
        assert not re.findall(r"\$[^$\n]+\$|\$\\|\\[(\[]|Math input error", page["prose"]), name
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf8"))["cells"]
        prose = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        if re.search(r"\$[^$]+\$", re.sub(r"```.*?```|`[^`\n]*`", "", prose, flags=re.S)):
            assert pages[page_of(path)]["drawn"], path.name


def test_links_within_the_site_resolve(pages, site):
    ids, wrong = {name: set(page["ids"]) for name, page in pages.items()}, []
    for name, page in pages.items():
        for link in page["links"]:
            url, anchor = urldefrag(link)
            if urlparse(url).hostname != "127.0.0.1":
                continue
            target = unquote(urlparse(url).path).lstrip("/")
            if not (site / target).is_file() or anchor and target in ids and unquote(anchor) not in ids[target]:
                wrong.append(f"{name}: {link}")
    assert not wrong


def test_directives_are_not_shown(pages):
    assert not [name for name, page in pages.items() for code in page["code"] if re.search(r"^#\s*\|", code, re.M)]


def test_pages_fit_their_width(pages):
    assert not [name for name, page in pages.items() if page["wide"] > 0]


def test_panels_load(pages):
    frames = [(name, frame) for name, page in pages.items() for frame in page["frames"]]
    assert not [name for name, frame in frames if not (frame["title"] and frame["text"] and frame["height"] > 50)]


def test_site_opens_from_the_disk(site):
    "Without any server."
    with browser.page(offline=True) as tab:
        for name in ("nbs/index.html", "nbs/0_ground/3_distance.html"):
            seen = look(tab, (site / name).as_uri())
            assert not seen["problems"] and seen["drawn"] == seen["formulas"]
        tab.goto((site / "index.html").as_uri())
        tab.wait_for_url("**/nbs/index.html")
        tab.goto((site / "search.html").as_uri() + "?q=corrector")
        tab.wait_for_selector("#search-results a[href*='8_sampling']")
        assert not tab.problems


# ---- a small project with a panel, to see what the build does with one

PANEL = """
import ipywidgets

class Panel(ipywidgets.VBox):
    title = "A <panel>"

    def save(self, path, title):
        page = f"<title>{title}</title><p>It scrubs.</p>"
        path.write_text(page + '<script>parent.postMessage({sdfdiffHeight: 321}, "*")</script>')
"""
SOLUTION = "   <details><summary>Solution</summary>It is $\\sigma/2$, says `half`.</details>"
STAND_IN = [
    ("markdown", "# Panels\n> One panel."),
    ("code", "#| default_exp panels.scrub"),
    ("code", "#| hide\nfew = 2"),
    ("code", "#| export" + PANEL),
    ("code", "#| export\nfolded = 3"),
    ("code", "#| slow\nraise RuntimeError('tests skip this cell')"),
    ("code", "Panel([ipywidgets.IntSlider(max=few)])"),
    ("markdown", "Here\n$$x = 1$$\nis a formula.\n\n1. Half of $\\sigma$?\n" + SOLUTION),
]


@pytest.fixture
def small_project(tmp_path):
    "A function that writes a project of one notebook and builds its site."

    def notebook(cells) -> str:
        content = [
            {"cell_type": kind, "id": f"a{i}", "metadata": {}, "source": source}
            | ({"outputs": [], "execution_count": None} if kind == "code" else {})
            for i, (kind, source) in enumerate(cells)
        ]
        for cell in content:
            if "folded" in cell["source"]:
                cell["metadata"] = {"jupyter": {"source_hidden": True}}
        kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
        return json.dumps({"cells": content, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5})

    def make(cells, front="# Small\n[Panels](7_panels/1_scrub.ipynb)\n") -> subprocess.CompletedProcess:
        shutil.copytree(ROOT / "nbs" / "_site", tmp_path / "nbs" / "_site")
        shutil.copy(ROOT / "settings.ini", tmp_path)
        (tmp_path / "LICENSE").write_text("Free.\n")
        (tmp_path / "README.md").write_text("# Read me\n")
        (tmp_path / "nbs" / "index.ipynb").write_text(notebook([("markdown", front)]))
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "README.md").write_text("# Data\n")
        (tmp_path / "nbs" / "7_panels").mkdir()
        (tmp_path / "nbs" / "7_panels" / "1_scrub.ipynb").write_text(notebook(cells))
        return build(tmp_path, tmp_path / "out")

    return make


def test_panel_becomes_a_frame_that_scrubs(small_project, tmp_path):
    done = small_project(STAND_IN)
    assert done.returncode == 0, done.stderr
    with served(tmp_path / "out") as address, browser.page(offline=True) as tab:
        seen = look(tab, f"{address}/nbs/7_panels/1_scrub.html")
        (folded,) = tab.query_selector_all("details.hide")
        assert not folded.get_attribute("open") and "folded = 3" in folded.text_content()
    (frame,) = seen["frames"]
    assert frame["title"] == "A <panel>" and frame["text"] == "It scrubs."
    assert frame["height"] == 321 and frame["width"] > 700
    assert not seen["problems"]
    code = "\n".join(seen["code"])
    assert "class Panel" in code and "tests skip" in code and "few = 2" not in code and "default_exp" not in code
    assert seen["drawn"] == 3 and "$" not in seen["prose"] and "`" not in seen["prose"]


@pytest.mark.parametrize(
    "cells, front, message",
    [
        ([*STAND_IN[:6], ("code", "Panel.save = None"), *STAND_IN[6:]], "# Small\n", "not callable"),
        ([*STAND_IN[:6], ("code", "1 / 0")], "# Small\n", "division by zero"),
        (STAND_IN[:1], "# Small\n[Gone](9_gone/9_gone.ipynb)\n", "9_gone"),
    ],
    ids=["panel", "cell", "link"],
)
def test_build_stops_at(small_project, tmp_path, cells, front, message):
    "A panel that cannot be saved, a cell that raises, a link to nowhere: no site, and the reason."
    done = small_project(cells, front)
    assert done.returncode and message in done.stderr
    assert not (tmp_path / "out").exists()


def test_build_replaces_nothing_but_a_site(tmp_path):
    (tmp_path / "thesis.txt").write_text("five years")
    done = build(ROOT, tmp_path)
    assert done.returncode and "nothing was changed" in done.stderr
    assert (tmp_path / "thesis.txt").read_text() == "five years"
