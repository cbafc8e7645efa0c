#!/usr/bin/env bash
# Two empty masks: Dice is NaN, 1 or infinite, and in one library Dice is 1 while the overlap is 0.
#
# Versions: Python 3.11, medpy==0.5.2, miseval==1.3.0, simpleitk==2.5.7, scikit-image==0.26.0, scikit-learn==1.9.1,
#   scipy==1.17.1, numpy==2.4.6.
# One would expect: a tile without nuclei in which none are found is right. Dice and Jaccard of the same masks follow
#   from each other (J = D / (2 - D)).
# What happens: medpy gives NaN for Dice and 1 for Jaccard. miseval gives 1 and 0. SimpleITK gives infinity and the
#   greatest float. scikit-image has no Dice; its Hausdorff distance is 0. medpy and SimpleITK raise errors for that
#   distance. miseval gives a small finite Hausdorff distance for an object that does not exist.
# Source: documentation of medpy.metric.binary.dc and jc, miseval, SimpleITK LabelOverlapMeasuresImageFilter; pymia
#   issue 45 on the missing agreement.
# Consequence: the mean over images is NaN, infinite or moved by the share of empty tiles, which differs between data
#   sets. Decide what empty means before choosing a library, and count such images apart.
# Output seen:
#   both empty:
#       medpy         Dice nan, Jaccard 1, Hausdorff error
#       miseval       Dice 1, Jaccard 0, Hausdorff 0
#       SimpleITK     Dice inf, Jaccard 1.8e+308, Hausdorff error
#       scikit-image  Hausdorff 0
#   found in an empty image:
#       medpy         Dice 0, Jaccard 0, Hausdorff error
#       miseval       Dice 0, Jaccard 0, Hausdorff 2.24
#       SimpleITK     Dice 0, Jaccard 0, Hausdorff error
#       scikit-image  Hausdorff inf
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet medpy==0.5.2 miseval==1.3.0 simpleitk==2.5.7 scikit-image==0.26.0 \
    scikit-learn==1.9.1 scipy==1.17.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import warnings

import medpy.metric.binary as medpy
import miseval
import numpy as np
import SimpleITK as sitk
from skimage.metrics import hausdorff_distance

warnings.simplefilter("ignore")
empty = np.zeros((16, 16), np.uint8)
some = empty.copy()
some[3:8, 3:8] = 1


def value(function, *masks):
    try:
        return f"{float(function(*masks)):.3g}"
    except RuntimeError:
        return "error"


def overlap(name):
    def measured(found, truth):
        measure = sitk.LabelOverlapMeasuresImageFilter()
        measure.Execute(sitk.GetImageFromArray(found), sitk.GetImageFromArray(truth))
        return getattr(measure, name)()

    return measured


def furthest(found, truth):
    measure = sitk.HausdorffDistanceImageFilter()
    measure.Execute(sitk.GetImageFromArray(found), sitk.GetImageFromArray(truth))
    return measure.GetHausdorffDistance()


def of_miseval(metric):
    return lambda found, truth: miseval.evaluate(truth, found, metric=metric)


libraries = {
    "medpy": {"Dice": medpy.dc, "Jaccard": medpy.jc, "Hausdorff": medpy.hd},
    "miseval": {"Dice": of_miseval("DSC"), "Jaccard": of_miseval("IoU"), "Hausdorff": of_miseval("HD")},
    "SimpleITK": {"Dice": overlap("GetDiceCoefficient"), "Jaccard": overlap("GetJaccardCoefficient"), "Hausdorff": furthest},
    "scikit-image": {"Hausdorff": hausdorff_distance},
}
for case, masks in (("both empty", (empty, empty)), ("found in an empty image", (some, empty))):
    print(f"{case}:")
    for library, measures in libraries.items():
        print(f"    {library:<13}", ", ".join(f"{name} {value(measure, *masks)}" for name, measure in measures.items()))
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
