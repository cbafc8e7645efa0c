"Labelled fields for tests of forecasts and margins."

import numpy as np
import xarray as xr

PLANE = ("row", "column")


def labelled(values, *first):
    "Values whose last dimensions are row and column; `first` names those before."
    return xr.DataArray(np.asarray(values), dims=(*first, *PLANE))
