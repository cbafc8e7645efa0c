"The package as a user gets it: quick to import, and the wheel alone segments an image without a network."

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from configparser import ConfigParser
from importlib.metadata import distribution, distributions
from pathlib import Path
from shutil import copy2

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image

import sdfdiff

ROOT = Path(__file__).resolve().parents[1]


def project_files() -> list[Path]:
    "What git tracks, and what it would if asked: paths relative to the root."
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def python(code: str, **options) -> subprocess.CompletedProcess:
    "Run `code` in a new interpreter of this environment."
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **options)


def test_import_is_quick():
    "Nothing heavy is imported until it is used; seconds are not measured, since machines differ."
    heavy = {"torch", "matplotlib", "xarray", "numpy", "scipy", "skimage"}
    loaded = python("import sys, sdfdiff; print(*sys.modules)").stdout.split()
    assert "sdfdiff" in loaded
    assert heavy.isdisjoint(loaded)


def test_modules_are_attributes():
    "`import sdfdiff` is enough to reach `sdfdiff.files.read_image`; a wrong name is an AttributeError."
    python("import sdfdiff; sdfdiff.files.read_image; assert 'files' in dir(sdfdiff)")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        sdfdiff.nonsense  # noqa: B018


def test_broken_module_keeps_its_error(tmp_path):
    "A module that cannot be imported tells why; it is not reported as missing."
    package = tmp_path / "sdfdiff"
    package.mkdir()
    for file in ("__init__.py", "__init__.pyi"):
        copy2(ROOT / "sdfdiff" / file, package)
    (package / "broken.py").write_text("import a_package_that_is_not_there\n")
    code = "import sdfdiff\ntry: sdfdiff.broken\nexcept ModuleNotFoundError as error: print(error.name)"
    assert python(code, cwd=tmp_path).stdout.strip() == "a_package_that_is_not_there"


def test_version_stands_in_one_place():
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf8")
    assert sdfdiff.__version__ == settings["DEFAULT"]["version"]


def test_constraints_are_met():
    "constraints.txt pins every requirement to one plain version, and this environment is the one it describes."
    from importlib.metadata import version

    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf8")
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pins = dict(line.split("==") for line in lines)
    assert list(pins) == sorted(pins)
    assert not [name for name, pin in pins.items() if not re.fullmatch(r"[0-9.]+(post|rc)?[0-9]*", pin)]
    fields = ("requirements", "lab_requirements", "docs_requirements", "dev_requirements")
    required = [re.split(r"[<>=!~\[]", word)[0] for field in fields for word in settings["DEFAULT"][field].split()]
    assert not [name for name in required if name not in pins]
    assert not [name for name in required if version(name).split("+")[0] != pins[name]]


def roomy() -> Path | None:
    "Memory, where there is plenty: removing 20,000 files from a disk can take minutes. None means the usual place."
    memory = Path("/dev/shm")
    if not (memory.is_dir() and os.access(memory, os.W_OK)):
        return None
    state = os.statvfs(memory)
    return memory if state.f_bavail * state.f_frsize > 6e9 and not state.f_flag & os.ST_NOEXEC else None


@pytest.fixture(scope="module")
def place():
    "A folder that is removed at the end: a new environment takes more than a gigabyte."
    with tempfile.TemporaryDirectory(dir=roomy(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def wheel(place):
    "The wheel, built from a copy so that no build folder is left in the checkout."
    for name in project_files():
        (place / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        copy2(ROOT / name, place / "copy" / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(place), str(place / "copy")]
    subprocess.run(pip, check=True)
    (built,) = place.glob("*.whl")
    return built


def link_required(site: Path) -> None:
    """Link to what the wheel in `site` requires, and what that requires; installing would copy a gigabyte.

    The versions are those of `constraints.txt` (`test_constraints_are_met`); `pip check` tells if something is missing.
    """
    (own,) = distributions(name="sdfdiff", path=[str(site)])
    waiting, known = [(own, "")], set()
    while waiting:
        parent, extra = waiting.pop()
        for needed in map(Requirement, parent.requires or ()):
            if needed.marker is not None and not needed.marker.evaluate({"extra": extra}):
                continue
            found = distribution(needed.name)
            fresh = {(found.name, extra) for extra in ("", *needed.extras)} - known
            known |= fresh
            waiting += [(found, extra) for _, extra in fresh]
            for name in {file.parts[0] for file in found.files} - {"..", "__pycache__"}:
                if not (site / name).exists():
                    (site / name).symlink_to(found.locate_file(name))


@pytest.fixture(scope="module")
def offline(place, wheel):
    "Install the wheel alone in a new environment; return a function that runs a command there without a network."
    environment = place / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True)
    link_required(next(environment.glob("lib/python*/site-packages")))

    guard = place / "guard"
    guard.mkdir()
    (guard / "sitecustomize.py").write_text(
        "import socket\n"
        "def refuse(*arguments): raise OSError('this run has no network')\n"
        "socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse\n"
    )
    home = place / "home"
    home.mkdir()
    variables = {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(guard),
        "HOME": str(home), "OMP_NUM_THREADS": "1",
    }  # fmt: skip

    def run(*command) -> subprocess.CompletedProcess:
        name = environment / "bin" / command[0]
        arguments = [str(name), *map(str, command[1:])]
        return subprocess.run(arguments, cwd=home, env=variables, capture_output=True, text=True)

    return run


def test_wheel_holds_package_and_weights(wheel):
    inside = zipfile.ZipFile(wheel).namelist()
    names = {name for name in inside if name.startswith("sdfdiff/")}
    kinds = {".py", ".pyi", ".js", ".typed"}  # py.typed has the suffix .typed
    code = {str(file.relative_to(ROOT)) for file in (ROOT / "sdfdiff").rglob("*") if file.suffix in kinds}
    data = {f"sdfdiff/data/{file.name}" for file in (ROOT / "data").glob("*.safetensors")}
    note = {f"sdfdiff/data/{file.name}" for file in (ROOT / "data").glob("README.md")}
    assert names == code | data | note
    assert sum(1 for name in inside if name.endswith("LICENSE")) == 1
    assert wheel.stat().st_size < 21e6


def test_wheel_imports_offline(offline):
    run = offline("python", "-c", "import socket; socket.create_connection(('127.0.0.1', 9))")
    assert "no network" in run.stderr, "the guard against a network does not work"
    run = offline("python", "-c", "import sdfdiff; print(sdfdiff.__file__, sdfdiff.__version__)")
    assert run.returncode == 0, run.stderr
    assert "site-packages" in run.stdout and str(ROOT) not in run.stdout
    run = offline("python", "-c", "import sdfdiff\nfor name in dir(sdfdiff):\n    getattr(sdfdiff, name)")
    assert run.returncode == 0, run.stderr
    panel = "from sdfdiff.panels.pages import StackPanel; StackPanel([[[0.0, 1.0]]]).save('page.html')"
    run = offline("python", "-c", panel)
    assert run.returncode == 0, f"a panel cannot be made and saved: {run.stderr}"
    run = offline("python", "-m", "pip", "check")
    assert run.returncode == 0, run.stdout
    run = offline("python", "-c", "import nbdev")
    assert "No module named 'nbdev'" in run.stderr, "more is there than the wheel requires"


def test_wheel_segments_offline(offline, place):
    run = offline("sdfdiff", "--help")
    assert run.returncode == 0, run.stderr
    assert "segment" in run.stdout
    row, column = np.mgrid[:48, :64]
    nucleus = (row - 24) ** 2 + (column - 30) ** 2 < 100
    tissue = np.where(nucleus[..., None], (90, 60, 140), (225, 190, 215)).astype(np.uint8)
    Image.fromarray(tissue).save(place / "one.png")
    run = offline("sdfdiff", "segment", place / "one.png", "--out", place / "out", "--members", "2")
    assert run.returncode == 0, run.stderr
    made = sorted(file.name for file in (place / "out").rglob("*") if file.is_file())
    assert sum(name.endswith(".nc") for name in made) == 1, made
    pictures = [file for file in (place / "out").rglob("*.png") if Image.open(file).size == (64, 48)]
    assert len(pictures) == 2, f"mask and overlay have the image's size, the uncertainty has a bar beside it: {made}"


def test_first_look_runs_from_the_wheel(offline):
    "The first notebook needs nothing of the checkout."
    cells = json.loads((ROOT / "nbs" / "0_ground" / "0_first_look.ipynb").read_text(encoding="utf8"))["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    run = offline("python", "-c", f"{code}\npanel.save('look.html')")
    assert run.returncode == 0, run.stderr
    assert "single members say" in run.stdout
