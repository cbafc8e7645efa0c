"Panels that answer while a slider moves, and pages that work without a kernel."

from .. import _serve

__getattr__, __dir__ = _serve(__name__, __file__)
