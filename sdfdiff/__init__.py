"""Score-based segmentation with signed distance functions: an image in, masks and a map of their uncertainty out.

`import sdfdiff` is quick; what stands below is imported when it is first used. The parts are `sdfdiff.images`,
`sdfdiff.uncertainty`, `sdfdiff.diffusion`, `sdfdiff.ensembles`, `sdfdiff.study` and `sdfdiff.panels`.
Besides `__version__`, which nbdev keeps equal to settings.ini, this file is written by hand.
"""

__version__ = "0.1.0"
TYPE_CHECKING = False

if TYPE_CHECKING:  # never true: for editors, type checkers and `_serve`
    from . import diffusion as diffusion
    from . import distance as distance
    from . import drawing as drawing
    from . import ensembles as ensembles
    from . import files as files
    from . import images as images
    from . import panels as panels
    from . import shapes as shapes
    from . import study as study
    from . import uncertainty as uncertainty
    from .diffusion.model import load_model as load_model
    from .distance import signed_distance as signed_distance, to_mask as to_mask
    from .ensembles.collection import ensemble as ensemble
    from .ensembles.method import Method as Method
    from .ensembles.segmentation import segment as segment
    from .files import read_image as read_image
    from .images.synthetic import tissue as tissue
    from .panels.ensembles import EnsemblePanel as EnsemblePanel, ErrorPanel as ErrorPanel
    from .panels.masks import CorruptionPanel as CorruptionPanel, PaintPanel as PaintPanel
    from .panels.pages import StackPanel as StackPanel
    from .panels.samplers import ReversePanel as ReversePanel
    from .study.evaluation import evaluate as evaluate
    from .study.plan import StudyPlan as StudyPlan, read_plan as read_plan
    from .study.report import write_report as write_report
    from .study.store import open_study as open_study, run_study as run_study
    from .study.verification import headline as headline, verify as verify


def _serve(package: str, file: str):
    """`__getattr__` and `__dir__` of a package whose names stand in one block below `if TYPE_CHECKING:`.

    The block is what editors and type checkers read, and here it is read as text: each name is listed once, and
    importing the package imports nothing.
    """
    known: dict[str, str] = {}

    def names() -> dict[str, str]:
        "Name -> module that has it; a module's own name stands for itself."
        if not known:
            import ast
            from pathlib import Path

            tree = ast.parse(Path(file).read_text(encoding="utf8"))
            (block,) = (node for node in tree.body if isinstance(node, ast.If))
            for node in block.body:
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

    def directory() -> list[str]:
        return sorted({*names(), *(["__version__"] if package == "sdfdiff" else [])})

    return getter, directory


__getattr__, __dir__ = _serve(__name__, __file__)
