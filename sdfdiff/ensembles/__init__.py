"Many masks of one image, and where they disagree."

from .. import _serve

TYPE_CHECKING = False

if TYPE_CHECKING:  # never true: for editors, type checkers and `_serve`
    from .collection import ensemble as ensemble
    from .segmentation import segment as segment

__getattr__, __dir__ = _serve(__name__, __file__)
