#!/usr/bin/env bash
# A mask without any background has a distance all the same: to a pixel that does not exist.
#
# Versions: Python 3.11, scipy==1.17.1, edt==3.1.2, simpleitk==2.5.7, mahotas==1.4.19,
#   opencv-python-headless==5.0.0.93, numpy==2.4.6.
# One would expect: where no background is, a distance to it is infinite, or an error says so; in either case the same
#   everywhere.
# What happens: SciPy gives finite, plausible distances to a pixel one row above the upper left corner, so they depend
#   on the place and change when the mask is turned. edt gives infinity. OpenCV and SimpleITK give 1.8e19. mahotas gives
#   7.14 everywhere.
# Source: SciPy issues 1616 and 15585, pull request 25528 (open).
# Consequence: a tile that lies wholly in tissue gets a tilted target that a network learns without complaint, and a
#   full member of an ensemble draws its mean to one corner. Look for full and empty masks before the transform.
# Output seen:
#   SciPy:         corners 1 4.12 4 5.66, middle 3.61
#   SciPy, turned: corners 5.66 4 4.12 1, middle 2.83
#   edt:           corners inf inf inf inf, middle inf
#   OpenCV:        corners 1.84e+19 1.84e+19 1.84e+19 1.84e+19, middle 1.84e+19
#   SimpleITK:     corners 1.84e+19 1.84e+19 1.84e+19 1.84e+19, middle 1.84e+19
#   mahotas:       corners 7.14 7.14 7.14 7.14, middle 7.14
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet scipy==1.17.1 edt==3.1.2 simpleitk==2.5.7 mahotas==1.4.19 \
    opencv-python-headless==5.0.0.93 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import cv2
import edt
import mahotas
import numpy as np
import scipy.ndimage as ndi
import SimpleITK as sitk

image, array = sitk.GetImageFromArray, sitk.GetArrayFromImage
full = np.ones((4, 5), np.uint8)
ways = {
    "SciPy": ndi.distance_transform_edt,
    "SciPy, turned": lambda m: np.rot90(ndi.distance_transform_edt(np.rot90(m, 2)), 2),
    "edt": edt.edt,
    "OpenCV": lambda m: cv2.distanceTransform(m, cv2.DIST_L2, cv2.DIST_MASK_PRECISE),
    "SimpleITK": lambda m: array(sitk.SignedMaurerDistanceMap(image(m), squaredDistance=False)),
    "mahotas": lambda m: mahotas.distance(m.astype(bool), "euclidean"),
}
for name, way in ways.items():
    found = np.abs(np.asarray(way(full), float))
    corners = " ".join(f"{value:.3g}" for value in found[[0, 0, -1, -1], [0, -1, 0, -1]])
    print(f"{name + ':':<14} corners {corners}, middle {found[2, 2]:.3g}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
