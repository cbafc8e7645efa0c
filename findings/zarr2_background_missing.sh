#!/usr/bin/env bash
# xarray reads the background of a label map in a Zarr format 2 store as missing; in format 3 it does not.
#
# Versions: Python 3.11, xarray==2026.9.0, zarr==3.1.6, dask==2026.8.0, numpy==2.4.6.
# One would expect: the same array of object ids gives the same ids, whichever of the two formats of Zarr it was
#   written in.
# What happens: Zarr's fill value, which only says what a chunk that was never written holds, is 0 when nobody chooses
#   one. For format 2 xarray takes it for the mark of missing data. The ids become floating-point numbers (float64 from
#   uint32), the background becomes NaN, and a mean over the pixels leaves the background out. For format 3 nothing is
#   changed. `use_zarr_fill_value_as_mask=False`, made to switch this off, changes nothing; `mask_and_scale=False` does.
# Source: xarray issues 5475 and 10269, and the documentation of xarray.open_zarr (use_zarr_fill_value_as_mask).
# Consequence: stores of format 2 are common: OME-Zarr 0.4 is of that format, and ngff-zarr writes it with the names
#   of dimensions that xarray needs. Areas and shares of foreground change with the format of the store. Pass
#   `mask_and_scale=False` when label maps or masks are opened.
# Output seen:
#   format 2, {}: float64, foreground 1.00
#       [nan, nan, 7.0] [nan, 12.0, 12.0]
#   format 2, {'use_zarr_fill_value_as_mask': False}: float64, foreground 1.00
#       [nan, nan, 7.0] [nan, 12.0, 12.0]
#   format 2, {'mask_and_scale': False}: uint32, foreground 0.50
#       [0, 0, 7] [0, 12, 12]
#   format 3, {}: uint32, foreground 0.50
#       [0, 0, 7] [0, 12, 12]
#   format 3, {'use_zarr_fill_value_as_mask': False}: uint32, foreground 0.50
#       [0, 0, 7] [0, 12, 12]
#   format 3, {'mask_and_scale': False}: uint32, foreground 0.50
#       [0, 0, 7] [0, 12, 12]
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet xarray==2026.9.0 zarr==3.1.6 dask==2026.8.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import numpy as np
import xarray as xr
import zarr

labels = np.array([[0, 0, 7], [0, 12, 12]], dtype="uint32")
for number in (2, 3):
    store = f"labels{number}.zarr"
    group = zarr.open_group(store, mode="w", zarr_format=number)
    names = {"dimension_names": ("y", "x")} if number == 3 else {}
    array = group.create_array("labels", shape=labels.shape, dtype=labels.dtype, **names)
    array[:] = labels
    if number == 2:
        array.attrs["_ARRAY_DIMENSIONS"] = ["y", "x"]
    for options in ({}, {"use_zarr_fill_value_as_mask": False}, {"mask_and_scale": False}):
        read = xr.open_zarr(store, consolidated=False, **options).labels
        share = float((read > 0).where(read.notnull()).mean())
        print(f"format {number}, {options}: {read.dtype}, foreground {share:.2f}")
        print("   ", *read.values.tolist())
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
