"Panels that answer while a slider moves, and pages that work without a kernel."

from .. import _serve

TYPE_CHECKING = False

if TYPE_CHECKING:  # never true: for editors, type checkers and `_serve`
    from .ensembles import EnsemblePanel as EnsemblePanel, ErrorPanel as ErrorPanel
    from .masks import CorruptionPanel as CorruptionPanel, PaintPanel as PaintPanel
    from .pages import Panel as Panel, StackPanel as StackPanel
    from .samplers import ReversePanel as ReversePanel, method_with as method_with, reverse_run as reverse_run

__getattr__, __dir__ = _serve(__name__, __file__)
