"What every test shares: one thread per process, examples that repeat, the long tests first."

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; two threads on two busy cores are slower

from hypothesis import settings  # noqa: E402

settings.register_profile("sdfdiff", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("sdfdiff")


def pytest_collection_modifyitems(items):
    "Start the tests of the installed wheel first: they take longest."
    items.sort(key=lambda item: item.path.name != "test_package.py")
