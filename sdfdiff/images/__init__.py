"Where images and true masks come from: synthetic tissue, files in the layouts of data sets, training data."

from .. import _serve

TYPE_CHECKING = False

if TYPE_CHECKING:  # never true: for editors, type checkers and `_serve`
    from .cases import find_cases as find_cases, read_case as read_case
    from .synthetic import tissue as tissue

__getattr__, __dir__ = _serve(__name__, __file__)
