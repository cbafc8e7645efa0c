"The method: corruption, exact oracles, networks, training, sampling."

from .. import _serve

TYPE_CHECKING = False

if TYPE_CHECKING:  # never true: for editors, type checkers and `_serve`
    from .model import load_model as load_model

__getattr__, __dir__ = _serve(__name__, __file__)
