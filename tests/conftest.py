"What every test shares: one thread per process, examples that repeat, the order, the times of the notebooks."

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; two threads on two busy cores are slower

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("sdfdiff", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("sdfdiff")


LONG = ("test_package.py", "test_site.py", "test_panels_in_lab.py")  # they start first, in this order
FREE = "test_notebooks.py"  # its tests come last and share nothing: a worker of `make test` takes one at a time


def pytest_collection_modifyitems(items):
    "The long files go first, the notebooks last."
    rank = {name: place - len(LONG) for place, name in enumerate(LONG)} | {FREE: 1}
    items.sort(key=lambda item: rank.get(item.path.name, 0))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    "A worker takes whole files: fixtures are shared within them. (In pytest 9.2, xdist's `loadgroup` does nothing.)"
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return nodeid if file.endswith(FREE) else file

    return Files(config, log)


def pytest_terminal_summary(terminalreporter):
    "What each notebook took."
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    times = [value for report in reports for name, value in report.user_properties if name == "notebook"]
    if len(times) > 1:
        terminalreporter.section("processor time of each notebook")
        for line in sorted(set(times), reverse=True):
            terminalreporter.line(line)


# What tests of commands need; `shell` imports torch, so not before one of them is asked for.


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder to work in."
    from shell import furnish

    return furnish(tmp_path, monkeypatch)


@pytest.fixture
def run(capsys):
    "Types a command."
    from shell import typist

    return typist(capsys)


@pytest.fixture
def small(monkeypatch):
    "Trainings are small."
    from shell import train_small

    train_small(monkeypatch)
