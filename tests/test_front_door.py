"What stands at the front door and in the wings' halls: there, quick, completed by Tab, and each name once."

import ast
import importlib
import pkgutil
import rlcompleter
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import sdfdiff

ROOT = Path(sdfdiff.__file__).parent
DOORS = ["sdfdiff", *(f"sdfdiff.{one.name}" for one in pkgutil.iter_modules(sdfdiff.__path__) if one.ispkg)]
MODULES = [
    one.name for one in pkgutil.walk_packages(sdfdiff.__path__, "sdfdiff.") if not one.ispkg and "._" not in one.name
]


def served(door):
    "Pairs (name, module that defines it) of the stub that editors read; a module itself stands with its own name."
    tree = ast.parse(Path(importlib.import_module(door).__file__).with_suffix(".pyi").read_text())
    block = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert all(one.asname == one.name for node in block for one in node.names), "`as` marks what is exported"
    return [(one.name, f"{door}.{node.module or one.name}") for node in block for one in node.names]


NAMES = [(door, *one) for door in DOORS for one in served(door)]


@pytest.mark.parametrize("door, name, module", NAMES, ids=lambda one: one.removeprefix("sdfdiff."))
def test_a_served_name_is_its_modules(door, name, module):
    "Not one that the module only imports: there is one place to read about it."
    there = importlib.import_module(module)
    found = getattr(importlib.import_module(door), name)
    if module == f"{door}.{name}":
        assert found is there
    else:
        assert found is getattr(there, name) and name in there.__all__


@pytest.mark.parametrize("door", DOORS)
def test_tab_completes_what_is_served(door):
    package = importlib.import_module(door)
    names = {name for name, _ in served(door)}
    assert set(dir(package)) == names and names
    completer = rlcompleter.Completer({"door": package})
    for name in names:
        offered = [completer.complete(f"door.{name[:3]}", k) for k in range(len(names))]
        assert any(one and one.startswith(f"door.{name}") for one in offered)


def test_a_wrong_name_is_an_attribute_error():
    for door in DOORS:
        with pytest.raises(AttributeError, match=f"module '{door}' has no attribute 'segmnt'"):
            getattr(importlib.import_module(door), "segmnt")  # noqa: B009


@pytest.mark.parametrize("door", DOORS)
def test_no_module_bears_the_name_of_what_is_served(door):
    "Imported, it would stand in front of the function."
    inside = {one.rsplit(".", 1)[1] for one in MODULES if one.rsplit(".", 1)[0] == door}
    assert not inside & {name for name, module in served(door) if module != f"{door}.{name}"}


def test_functions_stay_at_the_door_when_all_modules_are_imported():
    for module in MODULES:
        importlib.import_module(module)
    for door, name, module in NAMES:
        if module != f"{door}.{name}":
            assert getattr(importlib.import_module(door), name) is getattr(sys.modules[module], name)


def test_a_public_name_exists_once():
    "What two modules call by one name is read twice before it is understood."
    names = Counter(name for module in MODULES for name in importlib.import_module(module).__all__)
    assert {name: count for name, count in names.items() if count > 1} == {}


def test_the_front_door_imports_nothing():
    "`import sdfdiff` reads one file; NumPy, torch and the modules come when they are used."
    code = "import sys; before = {*sys.modules}; import sdfdiff; print(*sorted({*sys.modules} - before))"
    here = {"cwd": ROOT.parent, "capture_output": True, "text": True, "check": True}
    assert subprocess.run([sys.executable, "-S", "-c", code], **here).stdout.split() == ["sdfdiff"]
    code = "import sys, sdfdiff; dir(sdfdiff), dir(sdfdiff.uncertainty); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], **here).stdout.split()
    assert not {"numpy", "torch", "xarray"} & {*loaded}
