#!/usr/bin/env bash
# ome-zarr writes other pyramid levels than asked for, and invents object ids when labels are written as an image.
#
# Versions: Python 3.11, ome-zarr==0.18.0, zarr==3.1.6, dask==2026.8.0, scikit-image==0.26.0, numpy==2.4.6.
# One would expect: scale_factors=[4, 16] gives levels of a quarter and a sixteenth, for images and for labels; every
#   id of a level was in the label map.
# What happens: write_image makes as many levels as asked for, but halves each: 2, 4. write_labels ignores the
#   argument and makes 2, 4, 8, 16. Dictionaries ({"y": 4, "x": 4}) work in write_image alone. write_image smooths, also
#   integers: most ids of the smaller levels belong to no object. write_labels takes the nearest pixel and invents none,
#   but small objects vanish.
# Source: ome-zarr-py issues 606 and 617 (write_labels; repaired in 0.19), 482 (smoothed labels); documentation of
#   ome_zarr.writer.write_image.
# Consequence: a viewer that opens a smaller level shows objects that do not exist; a script that takes level 1 for a
#   quarter is wrong by a factor of 2. Look at shapes and ids of every level after writing.
# Output seen:
#   ids in the label map: 61
#   write_image([4, 16]):
#       factors written [2, 4], invented ids [261, 201], lost ids [5, 38]
#   write_image([{'y': 4, 'x': 4}, {'y': 16, 'x': 16}]):
#       factors written [4, 16], invented ids [196, 48], lost ids [36, 57]
#   write_labels([4, 16]):
#       factors written [2, 4, 8, 16], invented ids [0, 0, 0, 0], lost ids [1, 1, 21, 54]
#   write_labels([{'y': 4, 'x': 4}, {'y': 16, 'x': 16}]):
#       factors written [2, 4, 8, 16], invented ids [0, 0, 0, 0], lost ids [1, 1, 21, 54]
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet ome-zarr==0.18.0 zarr==3.1.6 dask==2026.8.0 scikit-image==0.26.0 \
    numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import warnings

import numpy as np
import zarr
from ome_zarr.writer import write_image, write_labels

warnings.simplefilter("ignore")
rng = np.random.default_rng(0)
labels = np.zeros((128, 128), np.uint16)
for number in range(1, 61):
    y, x = rng.integers(0, 121, 2)
    labels[y : y + 7, x : x + 7] = 10 * number
known = set(np.unique(labels))
print(f"ids in the label map: {len(known)}")
for write in (write_image, write_labels):
    for factors in ([4, 16], [{"y": 4, "x": 4}, {"y": 16, "x": 16}]):
        group = zarr.open_group("out.zarr", mode="w")
        write(labels, group, axes="yx", scale_factors=factors, **({"name": "nuclei"} if write is write_labels else {}))
        group = group["labels/nuclei"] if write is write_labels else group
        levels = [group[one["path"]][:] for one in group.attrs["ome"]["multiscales"][0]["datasets"]][1:]
        shape = [128 // len(level) for level in levels]
        invented = [len(set(np.unique(level)) - known) for level in levels]
        lost = [len(known - set(np.unique(level))) for level in levels]
        print(f"{write.__name__}({factors}):")
        print(f"    factors written {shape}, invented ids {invented}, lost ids {lost}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
