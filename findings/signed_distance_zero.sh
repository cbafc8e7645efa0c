#!/usr/bin/env bash
# Six ways to a signed distance of the same mask put its zero at three places.
#
# Versions: Python 3.11, scipy==1.17.1, edt==3.1.2, simpleitk==2.5.7, scikit-fmm==2025.6.23, mahotas==1.4.19,
#   opencv-python-headless==5.0.0.93, numpy==2.4.6.
# One would expect: the distance to the boundary is 0.5 in the pixels on both sides of it, as the boundary lies
#   between them, or at least the libraries agree.
# What happens: the difference of two transforms of SciPy, and edt.sdf, jump from +1 to -1: they measure to the
#   nearest pixel of the other side. SimpleITK's Maurer and Danielsson maps (negative inside) are 0 in the outermost
#   foreground pixels and 1 outside: the zero lies on pixels of the object. A bar one pixel wide has no inside at all.
#   scikit-fmm alone gives 0.5 on both sides. mahotas.distance gives squares unless told otherwise, and OpenCV's 3 x 3
#   mask gives 0.955 for one pixel.
# Source: documentation of scipy.ndimage.distance_transform_edt, edt.sdf, SimpleITK SignedMaurerDistanceMap,
#   skfmm.distance, mahotas.distance, cv2.distanceTransform; LIVIAETS/boundary-loss issue 42 on the missing pixel.
# Consequence: targets made by one library and read with the zero of another move every outline by half a pixel or by
#   one. A truncation distance of 3 pixels has another meaning in each. Say where the zero is, and test it on a straight
#   edge.
# Output seen:
#   SciPy, in - out:        outside -2, -1; inside 1, 2; bar of one pixel 1
#   edt.sdf:                outside -2, -1; inside 1, 2; bar of one pixel 1
#   SimpleITK Maurer:       outside -2, -1; inside 0, 1; bar of one pixel 0
#   SimpleITK Danielsson:   outside -2, -1; inside 0, 1; bar of one pixel 0
#   scikit-fmm:             outside -1.5, -0.5; inside 0.5, 1.5; bar of one pixel 0.5
#   mahotas, in - out:      outside -4, -1; inside 1, 4; bar of one pixel 1
#   OpenCV 3 x 3, in - out: outside -1.91, -0.955; inside 0.955, 1.91; bar of one pixel 0.955
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet scipy==1.17.1 edt==3.1.2 simpleitk==2.5.7 scikit-fmm==2025.6.23 \
    mahotas==1.4.19 opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import cv2
import edt
import mahotas
import numpy as np
import scipy.ndimage as ndi
import SimpleITK as sitk
import skfmm

mask = np.zeros((9, 9), np.uint8)
mask[3:6] = 1
thin = np.zeros((9, 9), np.uint8)
thin[4] = 1
image, array = sitk.GetImageFromArray, sitk.GetArrayFromImage


def two(transform, one):
    return transform(one) - transform(1 - one)


ways = {
    "SciPy, in - out": lambda m: two(ndi.distance_transform_edt, m),
    "edt.sdf": edt.sdf,
    "SimpleITK Maurer": lambda m: -array(sitk.SignedMaurerDistanceMap(image(m), squaredDistance=False)),
    "SimpleITK Danielsson": lambda m: -array(sitk.SignedDanielssonDistanceMap(image(m))),
    "scikit-fmm": lambda m: skfmm.distance(m - 0.5),
    "mahotas, in - out": lambda m: two(mahotas.distance, m.astype(np.int32)),
    "OpenCV 3 x 3, in - out": lambda m: two(lambda one: cv2.distanceTransform(one, cv2.DIST_L2, 3), m),
}
for name, way in ways.items():
    three, one = ([round(float(value), 3) + 0 for value in way(m)[:, 4]] for m in (mask, thin))
    print(f"{name + ':':<23} outside {three[1]:g}, {three[2]:g}; inside {three[3]:g}, {three[4]:g}; bar of one pixel {one[4]:g}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
