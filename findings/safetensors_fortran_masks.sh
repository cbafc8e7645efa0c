#!/usr/bin/env bash
# Masks that pycocotools decodes come back scrambled from safetensors: the order of axes in memory is forgotten.
#
# Versions: Python 3.11, safetensors==0.8.0, pycocotools==2.0.11, numpy==2.4.6.
# One would expect: an array that is saved and loaded is equal to itself, or saving refuses it.
# What happens: pycocotools gives masks column by column in memory (Fortran order). safetensors.numpy.save stores the
#   memory as it is, with the shape, and says nothing of the order. The loaded mask has the same shape and the same
#   number of pixels, at other places. A copy in C order is saved correctly.
# Source: safetensors issue 825 (since 0.8.0; 0.7.0 was right).
# Consequence: sums, areas and shares look right, so no such check notices it; overlap with the image is lost. Pass
#   np.ascontiguousarray(mask) to safetensors, and compare one whole array after loading.
# Output seen:
#   decoded equals drawn: True | C order in memory: False
#   as decoded: area 6, overlap with what was saved 0.33
#       ......
#       ...##.
#       .##..#
#       #.....
#   C order:    area 6, overlap with what was saved 1.00
#       ......
#       ..###.
#       ..###.
#       ......
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet safetensors==0.8.0 pycocotools==2.0.11 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import numpy as np
from pycocotools import mask as coco
from safetensors.numpy import load, save

drawn = np.zeros((4, 6), np.uint8)
drawn[1:3, 2:5] = 1
decoded = coco.decode(coco.encode(np.asfortranarray(drawn)))
print("decoded equals drawn:", np.array_equal(decoded, drawn), "| C order in memory:", decoded.flags.c_contiguous)
for name, one in (("as decoded", decoded), ("C order", np.ascontiguousarray(decoded))):
    back = load(save({"mask": one}))["mask"]
    overlap = (back & drawn).sum() / (back | drawn).sum()
    print(f"{name + ':':<11} area {back.sum()}, overlap with what was saved {overlap:.2f}")
    for row in back:
        print("   ", "".join(".#"[value] for value in row))
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
