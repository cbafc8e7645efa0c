#!/usr/bin/env bash
# The Hausdorff distance of the same two masks is 9, 6 or 7 pixels, and the 95th percentile of two others 0 or 2.
#
# Versions: Python 3.11, scikit-image==0.26.0, simpleitk==2.5.7, medpy==0.5.2, surface-distance==0.1, scipy==1.17.1,
#   numpy==2.4.6.
# One would expect: one distance with one definition; libraries for masks measure between outlines.
# What happens: scikit-image and SimpleITK measure between all pixels of the masks, so pixels deep in a filled gap
#   count: 9 between a full square and one with a hole. medpy measures between outermost pixels: 6. surface-distance
#   measures between corners of pixels: 7. The 95th percentile is taken of both directions pooled in medpy, and as the
#   greater of two percentiles weighted by length in surface-distance.
# Source: scikit-image issue 6890, documentation of skimage.metrics.hausdorff_distance, medpy.metric.binary.hd95,
#   SimpleITK HausdorffDistanceImageFilter.
# Consequence: a published distance needs the name of the library. With scikit-image pass outlines
#   (skimage.segmentation.find_boundaries, mode "inner") instead of masks.
# Output seen:
#   full square and one with a hole:
#       scikit-image     9.00, of outlines 6.00
#       SimpleITK        9.00
#       medpy            6.00, 95th percentile 6.00
#       surface-distance 7.00, 95th percentile 7.00
#   full square and one with a tail:
#       scikit-image     5.00, of outlines 5.00
#       SimpleITK        5.00
#       medpy            5.00, 95th percentile 0.00
#       surface-distance 5.00, 95th percentile 2.00
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet scikit-image==0.26.0 simpleitk==2.5.7 medpy==0.5.2 \
    surface-distance==0.1 scipy==1.17.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import medpy.metric.binary as medpy
import numpy as np
import SimpleITK as sitk
import surface_distance as surface
from skimage.metrics import hausdorff_distance
from skimage.segmentation import find_boundaries


def simpleitk(one, other):
    measure = sitk.HausdorffDistanceImageFilter()
    measure.Execute(*(sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in (one, other)))
    return measure.GetHausdorffDistance()


def surfaces(one, other, percent):
    return surface.compute_robust_hausdorff(surface.compute_surface_distances(one, other, (1, 1)), percent)


full = np.zeros((41, 41), bool)
full[5:36, 5:36] = True
hole = full.copy()
hole[12:29, 12:29] = False
tail = full.copy()
tail[36:41, 19:21] = True
for name, other in (("with a hole", hole), ("with a tail", tail)):
    outlines = [find_boundaries(mask, mode="inner") for mask in (full, other)]
    print(f"full square and one {name}:")
    print(f"    scikit-image     {hausdorff_distance(full, other):.2f}, of outlines {hausdorff_distance(*outlines):.2f}")
    print(f"    SimpleITK        {simpleitk(full, other):.2f}")
    print(f"    medpy            {medpy.hd(full, other):.2f}, 95th percentile {medpy.hd95(full, other):.2f}")
    print(f"    surface-distance {surfaces(full, other, 100):.2f}, 95th percentile {surfaces(full, other, 95):.2f}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
