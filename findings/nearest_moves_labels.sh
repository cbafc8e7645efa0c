#!/usr/bin/env bash
# "Nearest" moves a label map against its image: OpenCV by 1.5 pixels at a quarter of the size; SciPy stretches it.
#
# Versions: Python 3.11, opencv-python-headless==5.0.0.93, scipy==1.17.1, scikit-image==0.26.0, pillow==13.0.0,
#   numpy==2.4.6.
# One would expect: a label map that is made smaller by taking the nearest pixel lies where the image lies that was
#   made smaller by averaging.
# What happens: cv2.INTER_NEAREST takes the upper left pixel of every block instead of one at its middle: a shift of
#   (factor - 1) / 2 pixels. INTER_NEAREST_EXACT, Pillow and scikit-image take one next to the middle.
#   scipy.ndimage.zoom puts the outermost centres of both grids on each other: the map is stretched, from -1.5 to +1.5
#   pixels across the image, unless grid_mode=True with mode="nearest".
# Source: documentation of cv2.InterpolationFlags (INTER_NEAREST_EXACT) and of scipy.ndimage.zoom (grid_mode).
# Consequence: pairs of image and mask for training are off by more than a pixel, always in the same direction, and a
#   model learns it. The error is invisible on the mask alone. Test with a ramp, as here.
# Output seen:
#   one of 4 pixels; where the values come from, against the middle of the block:
#       OpenCV, INTER_NEAREST:       -1.5 on the left, -1.5 on the right
#       OpenCV, INTER_NEAREST_EXACT: +0.5 on the left, +0.5 on the right
#       OpenCV, INTER_AREA (image):  +0.0 on the left, +0.0 on the right
#       Pillow, NEAREST:             +0.5 on the left, +0.5 on the right
#       scikit-image, order 0:       +0.5 on the left, +0.5 on the right
#       SciPy zoom:                  -1.5 on the left, +1.5 on the right
#       SciPy zoom, grid_mode:       +0.5 on the left, +0.5 on the right
#   one of 8 pixels; where the values come from, against the middle of the block:
#       OpenCV, INTER_NEAREST:       -3.5 on the left, -3.5 on the right
#       OpenCV, INTER_NEAREST_EXACT: +0.5 on the left, +0.5 on the right
#       OpenCV, INTER_AREA (image):  +0.0 on the left, +0.0 on the right
#       Pillow, NEAREST:             +0.5 on the left, +0.5 on the right
#       scikit-image, order 0:       +0.5 on the left, +0.5 on the right
#       SciPy zoom:                  -3.5 on the left, +3.5 on the right
#       SciPy zoom, grid_mode:       +0.5 on the left, +0.5 on the right
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet opencv-python-headless==5.0.0.93 scipy==1.17.1 \
    scikit-image==0.26.0 pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import cv2
import numpy as np
import scipy.ndimage as ndi
from PIL import Image
from skimage.transform import resize

size = 64
columns = np.tile(np.arange(size, dtype=np.uint8), (size, 1))
for factor in (4, 8):
    small = size // factor
    middle = factor * (np.arange(small) + 0.5) - 0.5
    ways = {
        "OpenCV, INTER_NEAREST": cv2.resize(columns, (small, small), interpolation=cv2.INTER_NEAREST),
        "OpenCV, INTER_NEAREST_EXACT": cv2.resize(columns, (small, small), interpolation=cv2.INTER_NEAREST_EXACT),
        "OpenCV, INTER_AREA (image)": cv2.resize(columns.astype(np.float32), (small, small), interpolation=cv2.INTER_AREA),
        "Pillow, NEAREST": np.asarray(Image.fromarray(columns).resize((small, small), Image.Resampling.NEAREST)),
        "scikit-image, order 0": resize(columns, (small, small), order=0, preserve_range=True, anti_aliasing=False),
        "SciPy zoom": ndi.zoom(columns, 1 / factor, order=0),
        "SciPy zoom, grid_mode": ndi.zoom(columns, 1 / factor, order=0, grid_mode=True, mode="nearest"),
    }
    print(f"one of {factor} pixels; where the values come from, against the middle of the block:")
    for name, found in ways.items():
        shift = found[0].astype(float) - middle
        print(f"    {name + ':':<28} {shift[0]:+.1f} on the left, {shift[-1]:+.1f} on the right")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
