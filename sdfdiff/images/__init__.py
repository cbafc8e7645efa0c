"Where images and true masks come from: synthetic tissue, files in the layouts of data sets, training data."

from .. import _serve

__getattr__, __dir__ = _serve(__name__, __file__)
