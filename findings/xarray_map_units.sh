#!/usr/bin/env bash
# Dataset.map of xarray puts the old attributes back over those that the mapped function has set.
#
# Versions: Python 3.11, xarray==2026.9.0, numpy==2.4.6, pandas==3.1.1.
# One would expect: a function that turns pixels into micrometres and sets units="um" gives a dataset in "um". With
#   keep_attrs=False, one expects that nothing is copied, so that what the function has set remains.
# What happens: by default the numbers are micrometres and `units` says "px" again; with keep_attrs=False `units` is
#   gone. Neither way gives a warning. One variable at a time, what the function has set is kept.
# Source: the code of Dataset.map, which copies or clears the attributes after the function was called.
# Consequence: a distance or a spread is read in the wrong unit. Set attributes after `map`, never inside it.
# Output seen:
#   default:            [0.25 0.5 ] px
#   keep_attrs=False:   [0.25 0.5 ] no units
#   one by one:         [0.25 0.5 ] um
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet xarray==2026.9.0 numpy==2.4.6 pandas==3.1.1
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import xarray as xr

distance = xr.Dataset({"distance": ("x", [1.0, 2.0], {"units": "px"})})


def micrometres(one):
    return (0.25 * one).assign_attrs(units="um")


ways = {
    "default": distance.map(micrometres),
    "keep_attrs=False": distance.map(micrometres, keep_attrs=False),
    "one by one": distance.assign({name: micrometres(one) for name, one in distance.items()}),
}
for way, found in ways.items():
    one = found["distance"]
    print(f"{way + ':':<19} {one.values} {one.attrs.get('units', 'no units')}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$0") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
