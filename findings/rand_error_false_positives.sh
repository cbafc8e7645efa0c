#!/usr/bin/env bash
# Objects that do not exist, and objects that are missed, cost nothing in scikit-image's adapted_rand_error.
#
# Versions: Python 3.11, scikit-image==0.26.0, numpy==2.4.6, scipy==1.17.1.
# One would expect: a segmentation score falls when a third of the objects is invented or missing.
# What happens: unless told otherwise the label 0 of the truth is ignored: whatever is drawn on background does not
#   count. An object drawn as background counts as one object named 0, so a single missing object is a perfect match
#   too. The error is 0 in both cases. With ignore_labels=() both cost something, but then the background rules: two
#   objects that are merged cost almost nothing.
# Source: documentation of skimage.metrics.adapted_rand_error (ignore_labels); the measure comes from a challenge with
#   dense labels, where nothing is background.
# Consequence: on images of nuclei, which have background, the score cannot rank models on detection. Report
#   detections (found, missed, invented objects) beside it.
# Output seen:
#   one object invented: error 0.000 as preset, 0.075 with ignore_labels=()
#   one object missing:  error 0.000 as preset, 0.070 with ignore_labels=()
#   one object merged:   error 0.252 as preset, 0.006 with ignore_labels=()
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet scikit-image==0.26.0 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import numpy as np
from skimage.metrics import adapted_rand_error

truth = np.zeros((40, 40), int)
truth[4:14, 4:14] = 1
truth[4:14, 24:34] = 2
truth[24:34, 4:14] = 3
invented = truth.copy()
invented[24:34, 24:34] = 4
missing = truth.copy()
missing[truth == 3] = 0
merged = truth.copy()
merged[truth == 2] = 1
for name, found in (("invented", invented), ("missing", missing), ("merged", merged)):
    usual = adapted_rand_error(truth, found)
    every = adapted_rand_error(truth, found, ignore_labels=())
    print(f"one object {name + ':':<9} error {usual[0]:.3f} as preset, {every[0]:.3f} with ignore_labels=()")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
