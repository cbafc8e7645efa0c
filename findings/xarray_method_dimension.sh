#!/usr/bin/env bash
# A dimension called "method" cannot be selected by name in xarray: asked for "nearest", it gives everything.
#
# Versions: Python 3.11, xarray==2026.9.0, numpy==2.4.6, pandas==3.1.1.
# One would expect: scores.sel(method="nearest") picks the row "nearest" of a dimension that is called method, as
#   scores.sel(case="slide 1") picks a case; or an error says that this name is taken.
# What happens: sel, reindex and their like have a keyword of their own that is called method: how to look up values
#   between the labels. It wins. The dimension is not looked at, and whatever the word is, the whole array comes back
#   without a warning: a mean over all methods is taken for that of one. Beside another dimension the word is used: an
#   error about filling, or, for "nearest", the whole column. tolerance is taken in the same way.
# Source: xarray's documentation of DataArray.sel, parameters method, tolerance and drop.
# Consequence: tables of several methods, such as ways to resize a label map, are averaged silently. Select with a
#   dictionary, scores.sel({"method": "nearest"}), or call the dimension something else.
# Output seen:
#   scores of the ways to resize a label map, mean over two slides: nearest 0.60, linear 0.90
#   scores.sel({"method": "nearest"}).mean(): 0.60
#   scores.sel(method="nearest").mean(): 0.75, of the dimensions ('method', 'case')
#   scores.sel(method="linear").mean(): 0.75
#   scores.sel(case=1, method="nearest"): [0.5, 0.8]
#   scores.sel(case=1, method="linear"): ValueError, Invalid fill method. Expecting pad (ffill), backfill (bfill) or nearest. Got linear
#   scores.reindex(method="nearest"): the dimensions ('method', 'case')
#   table.sel(tolerance=1.0), a dimension of that name: the shape (2, 3)
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet xarray==2026.9.0 numpy==2.4.6 pandas==3.1.1
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import warnings

import numpy as np
import xarray as xr

warnings.simplefilter("error")
scores = xr.DataArray(
    [[0.5, 0.7], [0.8, 1.0]], {"method": ["nearest", "linear"], "case": ["slide 1", "slide 2"]}, ("method", "case")
)
means = ", ".join(f"{name} {value:.2f}" for name, value in zip(scores["method"].values, scores.mean("case").values))
print(f"scores of the ways to resize a label map, mean over two slides: {means}")
print(f'scores.sel({{"method": "nearest"}}).mean(): {float(scores.sel({"method": "nearest"}).mean()):.2f}')
found = scores.sel(method="nearest")
print(f'scores.sel(method="nearest").mean(): {float(found.mean()):.2f}, of the dimensions {found.dims}')
print(f'scores.sel(method="linear").mean(): {float(scores.sel(method="linear").mean()):.2f}')
numbered = scores.assign_coords(case=[1, 2])
print(f'scores.sel(case=1, method="nearest"): {numbered.sel(case=1, method="nearest").values.tolist()}')
try:
    numbered.sel(case=1, method="linear")
except (ValueError, KeyError) as error:
    print(f'scores.sel(case=1, method="linear"): {type(error).__name__}, {str(error).splitlines()[0]}')
print(f'scores.reindex(method="nearest"): the dimensions {scores.reindex(method="nearest").dims}')
table = xr.DataArray(np.zeros((2, 3)), {"tolerance": [1.0, 2.0], "case": [0, 1, 2]}, ("tolerance", "case"))
print(f"table.sel(tolerance=1.0), a dimension of that name: the shape {table.sel(tolerance=1.0).shape}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
