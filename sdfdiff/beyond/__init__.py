"What the paper leaves to others: several classes, image and mask together, flow matching, variance-preserving noise."

from .. import _serve

__getattr__, __dir__ = _serve(__name__, __file__)
