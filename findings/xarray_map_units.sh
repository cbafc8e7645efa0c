#!/usr/bin/env bash
# Dataset.map of xarray puts the old attributes back over those that the mapped function has set.
#
# xarray 2026.9.0, numpy 2.4.6, pandas 3.1.1.
# Expected: a function that turns pixels into micrometres and sets units="um" gives a dataset in "um". With
#   keep_attrs=False, one expects that nothing is copied, so that what the function has set remains.
# Happens: by default the numbers are micrometres and `units` says "px" again; with keep_attrs=False `units` is gone.
#   Neither way gives a warning. DataArray by DataArray (`assign`, or a dict) keeps what the function has set.
# Consequence: a distance or a spread is read in the wrong unit. Set attributes after `map`, never inside it.
# Seen:
#   default:            [0.25 0.5 ] px
#   keep_attrs=False:   [0.25 0.5 ] no units
#   one by one:         [0.25 0.5 ] um
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    numpy==2.4.6 pandas==3.1.1 xarray==2026.9.0
"$folder/venv/bin/python" - <<'PYTHON'
import xarray as xr

distance = xr.Dataset({"distance": ("x", [1.0, 2.0], {"units": "px"})})


def micrometres(one):
    return (0.25 * one).assign_attrs(units="um")


found = {
    "default": distance.map(micrometres),
    "keep_attrs=False": distance.map(micrometres, keep_attrs=False),
    "one by one": distance.assign({name: micrometres(one) for name, one in distance.items()}),
}
units = {way: one["distance"].attrs.get("units", "no units") for way, one in found.items()}
for way, one in found.items():
    print(f"{way + ':':<19} {one['distance'].values} {units[way]}")
assert units == {"default": "px", "keep_attrs=False": "no units", "one by one": "um"}, "the behaviour has changed"
assert all(one["distance"].values.tolist() == [0.25, 0.5] for one in found.values())
PYTHON
