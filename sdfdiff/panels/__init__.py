"Panels that answer while a slider moves, and pages that work without a kernel."

from .. import _serve

TYPE_CHECKING = False

if TYPE_CHECKING:  # never true: for editors, type checkers and `_serve`
    from .widgets import EnsemblePanel as EnsemblePanel

__getattr__, __dir__ = _serve(__name__, __file__)
