#!/usr/bin/env bash
# Labels that ome-zarr writes in version 0.5 are refused by ome-zarr-models, which checks the same specification.
#
# Versions: Python 3.11, ome-zarr==0.18.0, ome-zarr-models==1.7, zarr==3.1.6, dask==2026.8.0, numpy==2.4.6.
# One would expect: what the reference writer of OME-Zarr 0.5 writes passes the checks of the reference models.
# What happens: the group `labels` gets {"ome": {"labels": [...]}} without "version", which the models require. The
#   image alone is valid; with labels, reading them fails. Writing the version into the group repairs it.
# Source: ome-ngff-validator issue 66 (files of this kind are published); OME-Zarr specification 0.5, "labels"
#   metadata.
# Consequence: a store passes one tool and fails in the next. After write_labels set the version by hand.
# Output seen:
#   as written:   {'ome': {'labels': ['nuclei']}}
#                 ValidationError: [('version', 'Field required')]
#   with version: {'ome': {'labels': ['nuclei'], 'version': '0.5'}}
#                 valid, labels ['nuclei']
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet ome-zarr==0.18.0 ome-zarr-models==1.7 zarr==3.1.6 dask==2026.8.0 \
    numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import warnings

import numpy as np
import zarr
from ome_zarr.writer import write_image, write_labels
from ome_zarr_models.v05 import Image

warnings.simplefilter("ignore")
group = zarr.open_group("out.zarr", mode="w")
image = np.zeros((64, 64), np.uint8)
write_image(image, group, axes="yx")
write_labels((image + 1).astype(np.uint16), group, name="nuclei", axes="yx")


def check():
    try:
        return f"valid, labels {Image.from_zarr(zarr.open_group('out.zarr', mode='r')).labels.attributes.ome.labels}"
    except ValueError as error:
        return f"{type(error).__name__}: {[(one['loc'][-1], one['msg']) for one in error.errors()]}"


print("as written:  ", group["labels"].attrs.asdict())
print("             ", check())
group["labels"].attrs["ome"] = {**group["labels"].attrs["ome"], "version": "0.5"}
print("with version:", group["labels"].attrs.asdict())
print("             ", check())
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
