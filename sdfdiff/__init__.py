"""Score-based segmentation with signed distance functions: an image in, masks and a map of their uncertainty out.

`import sdfdiff` is quick; what stands below is imported when it is first used. The parts are `sdfdiff.images`,
`sdfdiff.uncertainty`, `sdfdiff.diffusion`, `sdfdiff.ensembles`, `sdfdiff.study` and `sdfdiff.panels`.
Besides `__version__`, which nbdev keeps equal to settings.ini, this file is written by hand.
"""

__version__ = "0.1.0"


_HELP = "sdfdiff.docstrings"  # Adds what stands beside the parameters to the docstrings


def _explain(package: str) -> None:
    "Where somebody may ask for help, at a prompt or in a notebook, complete the docstrings of each module imported."
    import sys

    if not (hasattr(sys, "ps1") or "IPython" in sys.modules):
        return

    class Package(type(sys)):
        def __setattr__(self, name: str, value: object) -> None:  # an import ends with it, of each module within
            super().__setattr__(name, value)
            if isinstance(value, type(sys)) and value.__name__ != _HELP:
                from importlib import import_module

                import_module(_HELP).complete(value)

    sys.modules[package].__class__ = Package


def _serve(package: str, file: str):
    "`__getattr__` and `__dir__` of a package: what it serves stands in its __init__.pyi, which editors read as well."
    known: dict[str, str] = {}
    _explain(package)

    def names() -> dict[str, str]:
        "Name -> module that has it; a module's own name stands for itself."
        if not known:
            import ast
            from pathlib import Path

            for node in ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf8")).body:
                if isinstance(node, ast.ImportFrom):
                    known.update({one.name: f"{package}.{node.module or one.name}" for one in node.names})
        return known

    def getter(name: str):
        from importlib import import_module
        from importlib.util import find_spec

        if name.startswith("__") or name not in names() and find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = import_module(names().get(name, f"{package}.{name}"))
        if module.__name__ != _HELP:
            import_module(_HELP).complete(module)
        return module if module.__name__ == f"{package}.{name}" else getattr(module, name)

    return getter, lambda: sorted(names())


__getattr__, __dir__ = _serve(__name__, __file__)
