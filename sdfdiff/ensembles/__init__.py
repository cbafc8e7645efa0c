"Many masks of one image, and where they disagree."

from .. import _serve

__getattr__, __dir__ = _serve(__name__, __file__)
