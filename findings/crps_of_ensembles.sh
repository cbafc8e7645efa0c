#!/usr/bin/env bash
# The CRPS of the same ensemble has two values; which one a library gives is not in the function's name.
#
# Versions: Python 3.11, xskillscore==0.0.29, properscoring==0.1, scoringrules==0.10.0, scores==2.7.0, crps==2.0.4,
#   xarray==2026.9.0, numpy==2.4.6, scipy==1.17.1.
# One would expect: crps_ensemble(observation, members) of five members estimates the score of the distribution they
#   were drawn from, and libraries agree.
# What happens: xskillscore, properscoring, scoringrules and scores, as preset, score the five steps themselves, which
#   is greater by a fifth here: 0.67 against 0.56. The fair estimate is scoringrules' estimator="fair", method="fair" of
#   scores, and the second of three numbers of crps. The true value for these normal forecasts is 1 / sqrt(pi) = 0.564.
#   A missing member (NaN) is left out silently by xskillscore, properscoring and scores, and makes the score NaN in
#   scoringrules and crps.
# Source: xskillscore issues 260 and 461, properscoring issue 7; Ferro 2014, Fair scores for ensemble forecasts.
# Consequence: an ensemble of 50 seems better than one of 5 of the same model, by the number of members alone. Compare
#   fair scores, and say which one it is.
# Output seen:
#   true value 0.56
#   xskillscore:         5 members 0.67, 50 members 0.57; one member missing: a number
#   properscoring:       5 members 0.67, 50 members 0.57; one member missing: a number
#   scoringrules:        5 members 0.67, 50 members 0.57; one member missing: NaN
#   scores, ecdf:        5 members 0.67, 50 members 0.57; one member missing: a number
#   crps, first number:  5 members 0.67, 50 members 0.57; one member missing: NaN
#   scoringrules, fair:  5 members 0.56, 50 members 0.56; one member missing: NaN
#   scores, fair:        5 members 0.56, 50 members 0.56; one member missing: a number
#   crps, second number: 5 members 0.56, 50 members 0.56; one member missing: NaN
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet xskillscore==0.0.29 properscoring==0.1 scoringrules==0.10.0 \
    scores==2.7.0 crps==2.0.4 xarray==2026.9.0 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import numpy as np
import properscoring
import scores
import scoringrules
import xarray as xr
import xskillscore
from CRPS.CRPS import CRPS

rng = np.random.default_rng(0)


def all_of(members, seen):
    names = xr.DataArray(members, dims=("pixel", "member")), xr.DataArray(seen, dims="pixel")
    every = scores.probability.crps_for_ensemble
    return {
        "xskillscore": xskillscore.crps_ensemble(names[1], names[0], dim=[]),
        "properscoring": properscoring.crps_ensemble(seen, members),
        "scoringrules": scoringrules.crps_ensemble(seen, members),
        "scores, ecdf": every(*names, "member", method="ecdf", preserve_dims="all"),
        "crps, first number": [CRPS(one, y).compute()[0] for one, y in zip(members, seen)],
        "scoringrules, fair": scoringrules.crps_ensemble(seen, members, estimator="fair"),
        "scores, fair": every(*names, "member", method="fair", preserve_dims="all"),
        "crps, second number": [CRPS(one, y).compute()[1] for one, y in zip(members, seen)],
    }


found = {count: all_of(rng.normal(size=(4000, count)), rng.normal(size=4000)) for count in (5, 50)}
holes = rng.normal(size=(3, 5))
holes[1, 2] = np.nan
gaps = all_of(holes, rng.normal(size=3))
print(f"true value {1 / np.sqrt(np.pi):.2f}")
for name in found[5]:
    mean = ", ".join(f"{count} members {np.mean(np.asarray(one[name])):.2f}" for count, one in found.items())
    print(f"{name + ':':<20} {mean}; one member missing: {'NaN' if np.isnan(np.asarray(gaps[name])[1]) else 'a number'}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
