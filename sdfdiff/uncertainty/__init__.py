"Judges masks, probabilities and ensembles of any model, from NumPy or xarray; imports neither torch nor diffusion."

from .. import _serve

TYPE_CHECKING = False

if TYPE_CHECKING:  # never true: for editors, type checkers and `_serve`
    from .errors import auroc as auroc, uncertainty_maps as uncertainty_maps
    from .metrics import scores as scores

__getattr__, __dir__ = _serve(__name__, __file__)
