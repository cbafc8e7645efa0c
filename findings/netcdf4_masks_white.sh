#!/usr/bin/env bash
# A mask of 0 and 255 that xarray writes is empty when netCDF4 reads it: 255 is taken for missing.
#
# Versions: Python 3.11, xarray==2026.9.0, netCDF4==1.7.5.1.post1, h5netcdf==1.8.2, h5py==3.16.0, numpy==2.4.6,
#   pandas==3.1.1.
# One would expect: a file without any fill value keeps every value that was written, whichever library reads it.
# What happens: netCDF4 hides values that are equal to netCDF's preset fill value of the type, also when the variable
#   has no `_FillValue`: 65535 for uint16, and 255 for uint8, the latter only when the netCDF library itself wrote the
#   file (engine netcdf4, xarray's first choice), not h5netcdf. Every pixel of the foreground is hidden and the sum is
#   0. xarray reads the same file unchanged. `set_auto_mask(False)` gives all values back.
# Source: netCDF4-python issue 209 and the documentation of Dataset.set_auto_mask.
# Consequence: a mask of an image program, stored as 0 and 255, is an empty mask in one of two readers, and the object
#   with the id 65535 is lost. Store masks as 0 and 1, or set `_FillValue` yourself to a value that does not occur.
# Output seen:
#   written with netcdf4; read with xarray: sum 1530, ids [0, 7, 65534, 65535]
#       netCDF4, set_auto_mask(True): sum 0, ids [0, 7, 65534, None]
#       netCDF4, set_auto_mask(False): sum 1530, ids [0, 7, 65534, 65535]
#   written with h5netcdf; read with xarray: sum 1530, ids [0, 7, 65534, 65535]
#       netCDF4, set_auto_mask(True): sum 1530, ids [0, 7, 65534, None]
#       netCDF4, set_auto_mask(False): sum 1530, ids [0, 7, 65534, 65535]
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet xarray==2026.9.0 netCDF4==1.7.5.1.post1 h5netcdf==1.8.2 \
    h5py==3.16.0 numpy==2.4.6 pandas==3.1.1
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import netCDF4
import numpy as np
import xarray as xr

mask = np.zeros((4, 4), np.uint8)
mask[1:3, 1:4] = 255
labels = np.array([0, 7, 65534, 65535], np.uint16)
dataset = xr.Dataset({"mask": (("y", "x"), mask), "labels": ("object", labels)})
for engine in ("netcdf4", "h5netcdf"):
    dataset.to_netcdf("masks.nc", engine=engine)
    with xr.open_dataset("masks.nc", engine=engine) as read:
        print(f"written with {engine}; read with xarray: sum {int(read['mask'].sum())}, ids {read['labels'].values.tolist()}")
    for hide in (True, False):
        with netCDF4.Dataset("masks.nc") as read:
            read.set_auto_mask(hide)
            mask, ids = read["mask"][:], read["labels"][:]
            print(f"    netCDF4, set_auto_mask({hide}): sum {int(mask.sum())}, ids {ids.tolist()}")
            assert not read["mask"].ncattrs(), "the file has no _FillValue"
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
