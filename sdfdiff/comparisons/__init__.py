"Other methods behind the ensemble schema: trained, drawn and judged the same way, row by row of one table."

from .. import _serve

__getattr__, __dir__ = _serve(__name__, __file__)
