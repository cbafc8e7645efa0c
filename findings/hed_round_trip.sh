#!/usr/bin/env bash
# Stain separation with scikit-image and back does not give the colours of the image back: grey turns purple.
#
# Versions: Python 3.11, scikit-image==0.26.0, numpy==2.4.6, scipy==1.17.1.
# One would expect: rgb2hed followed by hed2rgb is a change of coordinates by an invertible matrix, so it gives the
#   image back.
# What happens: negative amounts of a stain are set to 0. Every colour that is not a mixture of the three stains with
#   amounts of at least 0 changes: grey, pale blue, and the pink of eosin by up to 20 of 255. Purple and white come
#   back.
# Source: scikit-image issue 6104, pull request 5172.
# Consequence: data augmentation that varies stains between the two calls also changes what it should leave alone: an
#   augmentation of strength 0 is no identity, and dust and eosin get other colours. Multiply with the matrix yourself
#   (hed_from_rgb) where negative amounts must be kept.
# Output seen:
#   white:          (255, 255, 255) -> stains 0.000, 0.000, 0.000 -> (255, 255, 255)
#   purple nucleus: (120, 60, 140) -> stains 0.069, 0.043, 0.024 -> (120, 60, 140)
#   pink eosin:     (230, 120, 160) -> stains 0.000, 0.038, 0.042 -> (210, 109, 154)
#   grey dust:      (90, 90, 90) -> stains 0.091, 0.000, 0.066 -> (88, 63, 86)
#   pale blue:      (180, 200, 220) -> stains 0.040, 0.000, 0.000 -> (178, 173, 216)
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet scikit-image==0.26.0 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import numpy as np
from skimage.color import hed2rgb, rgb2hed

colours = {
    "white": (255, 255, 255),
    "purple nucleus": (120, 60, 140),
    "pink eosin": (230, 120, 160),
    "grey dust": (90, 90, 90),
    "pale blue": (180, 200, 220),
}
for name, colour in colours.items():
    stains = rgb2hed(np.array([[colour]], np.uint8))
    back = np.rint(255 * hed2rgb(stains))[0, 0].astype(int)
    amounts = ", ".join(f"{value:.3f}" for value in stains[0, 0])
    print(f"{name + ':':<15} {colour} -> stains {amounts} -> {tuple(back.tolist())}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
