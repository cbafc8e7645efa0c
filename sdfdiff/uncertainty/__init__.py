"""Judges masks, probabilities and ensembles of any model, from NumPy or xarray; imports neither torch nor diffusion.

An array without names is (row, column) or (case, row, column); `members` and `raters` have one more axis before the
row; anything else has to be an `xarray.DataArray` (`named` makes one). What has names comes out with names, and so does
all that is measured over pixels; a single number is an array without dimensions, for `float`. Functions of plain arrays
give plain numbers: those of `metrics` (labelled for labelled masks), `grown`, `margin_trade_off`, `match_objects`,
`retained_error`, `split` and `tied_shares`.
"""

from .. import _serve

__getattr__, __dir__ = _serve(__name__, __file__)
