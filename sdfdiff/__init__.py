"""Score-based segmentation with signed distance functions: an image in, masks and a map of their uncertainty out.

`import sdfdiff` is quick; what stands below is imported when it is first used. The parts are `sdfdiff.images`,
`sdfdiff.uncertainty`, `sdfdiff.diffusion`, `sdfdiff.ensembles`, `sdfdiff.study` and `sdfdiff.panels`.
Besides `__version__`, which nbdev keeps equal to settings.ini, this file is written by hand.
"""

__version__ = "0.1.0"


def _serve(package: str, file: str):
    "`__getattr__` and `__dir__` of a package: what it serves stands in its __init__.pyi, which editors read as well."
    known: dict[str, str] = {}

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
        return module if module.__name__ == f"{package}.{name}" else getattr(module, name)

    return getter, lambda: sorted(names())


__getattr__, __dir__ = _serve(__name__, __file__)
