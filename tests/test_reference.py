"The reference: every public name once, with all that the source says about it."

import re
import sys
from html import unescape

import pytest
from course import ROOT
from test_front_door import served

sys.path.insert(1, str(ROOT / "nbs" / "_site"))

from reference import modules, public, source_of, write_reference  # noqa: E402

from sdfdiff.docstrings import entries  # noqa: E402

MODULES = modules(ROOT)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    "Markdown of each page by its name."
    folder = tmp_path_factory.mktemp("reference")
    names = write_reference(ROOT, folder)
    assert sorted(names) == sorted(path.stem for path in folder.iterdir())
    return {name: (folder / f"{name}.md").read_text(encoding="utf8") for name in names}


def plain(text: str) -> str:
    "The words and signs of a page as a reader sees it: no tags, no spaces, no marks of code."
    return bare(unescape(re.sub(r"<[^>]+>", " ", text)))


def bare(text: str) -> str:
    return re.sub(r"[\s`]", "", text)


def parts(page: str) -> dict[str, str]:
    "What stands under each name of a page."
    found = re.split(r"^### `(\w+)`$", page, flags=re.M)
    assert len({*found[1::2]}) == len(found[1::2]), "a name stands twice"
    return dict(zip(found[1::2], found[2::2]))


def test_every_module_of_the_package_is_there():
    files = {path.relative_to(ROOT / "sdfdiff").with_suffix("") for path in (ROOT / "sdfdiff").rglob("[!_]*.py")}
    assert {".".join(path.parts) for path in files} == {*MODULES}


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_stands_once_with_every_comment(pages, module):
    page = parts(pages[module.rpartition(".")[0] or "sdfdiff"])
    source = source_of(ROOT, module).read_text(encoding="utf8")
    found, names = entries(source), public(source)
    for name in names:
        shown = plain(page[name])
        assert [name in parts(one) for one in pages.values()].count(True) == 1
        assert f"sdfdiff/{module.replace('.', '/')}.py, line {found[name].line}".replace(" ", "") in shown
        for one in (found[name], *found[name].members):
            noted = [*one.parameters, *[one.returns] * (one.returns is not None and one.returns.kind != "None")]
            said = [one.text, *(word for each in noted for word in (each.name, each.kind, each.default, each.comment))]
            assert not [word for word in said if bare(word) not in shown]


def test_the_first_page_leads_to_what_the_front_door_serves(pages):
    links = re.findall(r"^\| \[`(\w+)`\]\((\w+)\.md#(\w+)\)", pages["index"], re.M)
    names = {name for name, module in served("sdfdiff") if module != f"sdfdiff.{name}"}
    assert {name for name, _, _ in links} == names and len(links) == len(names)
    for name, page, anchor in links:
        assert anchor == name.lower() and f"sdfdiff.{name}" in plain(parts(pages[page])[name])
