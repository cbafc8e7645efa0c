"Help for every function that is served: what the source says beside its parameters, and nothing paid for it before."

import inspect
import pydoc
import subprocess
import sys
from functools import cache
from pathlib import Path
from shutil import copytree

import pytest
from test_front_door import DOORS, served

import sdfdiff
from sdfdiff.docstrings import docstring, entries

ROOT = Path(sdfdiff.__file__).parent


@cache
def entries_of(module: str) -> dict:
    path = ROOT / f"{module.removeprefix('sdfdiff.').replace('.', '/')}.py"
    return entries(path.read_text(encoding="utf8"))


def served_entries(door: str) -> list:
    "(Name, entry) of every function and class that is served there."
    found = [(name, entries_of(module)[name]) for name, module in served(door) if module != f"{door}.{name}"]
    return [(name, one) for name, one in found if one.kind != "value"]


def words(text: str) -> str:
    "On one line, without the bars that pydoc draws beside a class."
    return " ".join(text.replace("|", " ").split())


@pytest.mark.filterwarnings("ignore:Widget:DeprecationWarning")
@pytest.mark.parametrize("door", DOORS)
def test_help_says_what_the_source_says(door):
    "As `help(sdfdiff.segment)` prints it: every parameter with its comment, and what is returned."
    wrong = []
    for name, one in served_entries(door):
        shown = words(pydoc.render_doc(getattr(sys.modules[door], name), renderer=pydoc.plaintext))
        wrong += [] if words(one.text) in shown else [name]
        for each in one.parameters:
            wrong += [] if each.comment else [f"{each.name} of {name} has no comment"]
            wrong += (
                [] if f"{each.name} {':' if each.kind or each.default else ''}" in shown else [f"{name}, {each.name}"]
            )
        for part in (one, *one.members):
            noted = [*part.parameters, *[part.returns] * bool(part.returns)]
            wrong += [f"{name}, {each.comment}" for each in noted if words(each.comment) not in shown]
    assert not wrong


@pytest.mark.parametrize("door", DOORS)
def test_parameters_are_those_of_python(door):
    "What is read from the source is what a call takes: the same names in the same order."
    for name, one in served_entries(door):
        if one.kind == "function" or one.parameters:
            taken = inspect.signature(getattr(sys.modules[door], name)).parameters
            assert [each.name.lstrip("*") for each in one.parameters] == list(taken), name


def test_enough_is_served():
    assert sum(len(served_entries(door)) for door in DOORS) > 150


def python(code: str, *options, **where) -> str:
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, **where)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_is_read_before_a_name_is_asked_for():
    "Neither `import sdfdiff` nor a module that is imported by its own name reads a source; a served name does."
    code = "import sys, sdfdiff, sdfdiff.shapes\ndone = lambda: print('sdfdiff.docstrings' in sys.modules)\n"
    assert python(code + "done(); dir(sdfdiff); done(); sdfdiff.signed_distance; done()").split() == [
        "False",
        "False",
        "True",
    ]


def test_at_a_prompt_every_module_is_complete():
    "A notebook imports a function from its own module: help is the same."
    code, heading = "from sdfdiff.distance import to_mask; print(to_mask.__doc__)", "Parameters\n----------\n"
    assert heading not in python(code)
    assert heading in python(f"import sys; sys.ps1 = '> '\n{code}") and heading in python(f"import IPython\n{code}")


@pytest.mark.parametrize("options", [(), ("-OO",)], ids=["", "without docstrings"])
def test_without_sources_nothing_fails(tmp_path, options):
    "A package of compiled files: no comments, no error."
    import compileall

    copytree(ROOT, tmp_path / "sdfdiff", ignore=lambda _, names: {"__pycache__", "data"} & set(names))
    compileall.compile_dir(tmp_path / "sdfdiff", quiet=1, legacy=True)
    for path in [one for one in (tmp_path / "sdfdiff").rglob("*.py") if one.name != "__init__.py"]:
        path.unlink()
    shown = python("import sdfdiff; print(sdfdiff.signed_distance.__doc__, sdfdiff.__file__)", *options, cwd=tmp_path)
    assert str(tmp_path) in shown and "Parameters" not in shown


def test_forms():
    "Stars, keywords alone, types in quotation marks, letters of more than one byte, a hash in a text."
    source = """
def whole(
    a: int,  # ä, in µm
    /,
    b: "list[str] | None" = None,  # None: no "#"
    *more: str,  # Further names
    c: str = "# none",  # A sign
    d=1, e=2,
    **others,  # Settings
) -> "dict":  # By name
    "One line. ValueError."


def again(b, d, a=3):  # Both
    pass


class One(Base):
    "A class."

    def __init__(self, size: int):
        pass

    @classmethod
    def of(cls, text: str) -> "One":  # The same
        "From text."

    @property
    def half(self) -> int:  # px
        return 1

    def _hidden(self): ...


LIMIT = 3  # px
TABLE = {  # by name
    "a": 1,
}
"""
    found = entries(source)
    assert [one.name for one in found["whole"].parameters] == ["a", "b", "*more", "c", "d", "e", "**others"]
    comments = ["ä, in µm", 'None: no "#"', "Further names", "A sign", "", "", "Settings"]
    assert [one.comment for one in found["whole"].parameters] == comments
    assert found["whole"].parameters[1].kind == "list[str] | None" and found["whole"].returns.kind == "dict"
    assert [one.comment for one in found["again"].parameters] == ['None: no "#"', "", "ä, in µm"]
    assert [one.name for one in found["One"].members] == ["of", "half"]
    assert [one.name for one in found["One"].parameters] == ["size"]
    assert [one.name for one in found["One"].members[0].parameters] == ["text"]
    assert (found["LIMIT"].text, found["TABLE"].text) == ("px", "by name")
    assert docstring(found["whole"]).splitlines()[-3:] == ["-------", "dict", "    By name"]
    assert docstring(found["One"].members[1]) == "px" and docstring(found["LIMIT"]) == "px"
