#!/usr/bin/env bash
# In an xarray template of a Zarr store, what was never written is NaN for scores but empty for masks.
#
# Versions: Python 3.11, xarray==2026.9.0, zarr==3.1.6, dask==2026.8.0, numpy==2.4.6.
# One would expect: a store that is laid out first and filled image by image tells written from unwritten parts, in
#   all its variables alike.
# What happens: to_zarr(compute=False) writes only metadata. Unwritten floating-point numbers read NaN, unwritten
#   Boolean masks False and unwritten labels 0: the same as an image without any object. With write_empty_chunks left
#   alone, an image whose mask is truly empty leaves no file either, so the store itself cannot tell.
# Source: documentation of xarray.Dataset.to_zarr (compute, region, write_empty_chunks); Zarr 3 specification,
#   fill_value.
# Consequence: a run that stopped half way gives empty masks, with which areas, shares and overlaps are computed
#   without a warning. Write a flag or a time per image last, and select by it.
# Output seen:
#   first, with an object: score 1.0, mask True, labels 1; foreground 1.0; files of ['score', 'mask', 'labels']
#   second, without:       score 0.0, mask False, labels 0; foreground 0.0; files of ['score']
#   third, never written:  score nan, mask False, labels 0; foreground 0.0; files of []
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet xarray==2026.9.0 zarr==3.1.6 dask==2026.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
from pathlib import Path

import dask.array as da
import numpy as np
import xarray as xr

lazy = {"score": "float32", "mask": "bool", "labels": "uint16"}
chunks = {"image": 1, "y": 2, "x": 2}
template = xr.Dataset({name: (tuple(chunks), da.empty((3, 2, 2), chunks=(1, 2, 2), dtype=kind)) for name, kind in lazy.items()})
template.to_zarr("store.zarr", compute=False)
written = {"first, with an object": (0, 1), "second, without": (1, 0)}
for number, value in written.values():
    one = {name: (tuple(chunks), np.full((1, 2, 2), value, kind)) for name, kind in lazy.items()}
    xr.Dataset(one).to_zarr("store.zarr", region={"image": slice(number, number + 1)})
read = xr.open_zarr("store.zarr").load()
for number, name in enumerate([*written, "third, never written"]):
    one = read.isel(image=number, y=0, x=0)
    files = [variable for variable in lazy if Path("store.zarr", variable, "c", str(number), "0", "0").exists()]
    values = ", ".join(f"{variable} {one[variable].item()}" for variable in lazy)
    print(f"{name + ':':<22} {values}; foreground {float(read.mask[number].mean()):.1f}; files of {files}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
