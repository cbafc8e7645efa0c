"Many images and several methods: plan, run, verify, draw, report."

from .. import _serve

__getattr__, __dir__ = _serve(__name__, __file__)
