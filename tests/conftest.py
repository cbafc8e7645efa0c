"What every test shares: one thread per process, examples that repeat, the long tests first."

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; two threads on two busy cores are slower

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

settings.register_profile("sdfdiff", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("sdfdiff")


def pytest_collection_modifyitems(items):
    "Start the tests of the installed wheel first: they take longest."
    items.sort(key=lambda item: item.path.name != "test_package.py")


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
