"The method: noise schedules, exact oracles, networks and their files, training, sampling, fitting to a data set."

from .. import _serve

__getattr__, __dir__ = _serve(__name__, __file__)
