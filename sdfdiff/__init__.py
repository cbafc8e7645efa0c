"""Score-based segmentation with signed distance functions: an image in, masks and a map of doubt out.

`import sdfdiff` is quick; a module is imported when it is first used, as in `sdfdiff.distance.signed_distance`.
Besides `__version__`, which nbdev keeps equal to settings.ini, this file is written by hand.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
    "The module `sdfdiff.name`, imported at first use (PEP 562)."
    from importlib import import_module
    from importlib.util import find_spec

    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    "What a notebook's completion shows: the modules beside what is already here."
    from pkgutil import iter_modules

    return sorted({*globals(), *(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))})
