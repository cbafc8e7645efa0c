#!/usr/bin/env bash
# The reliability of an ensemble of five has an empty bin in xskillscore: 0.6 falls into the bin below.
#
# Versions: Python 3.11, xskillscore==0.0.29, xarray==2026.9.0, numpy==2.4.6, scipy==1.17.1.
# One would expect: five members give shares 0, 0.2, ... 1; the preset bins of width 0.2 hold one share each, the last
#   bin two.
# What happens: the preset edges are np.linspace(0, 1, 6), whose fourth edge is 0.6000000000000001. The share 3/5 lies
#   just below it and is counted with 2/5. The bin from 0.6 to 0.8 is empty and its reliability NaN; the one below mixes
#   two shares. Members and what is seen are drawn here with the same chance, so a share of k / 5 should be seen in (k +
#   1) / 7 of all cases. Edges between the shares put each into its own bin.
# Source: documentation of xskillscore.reliability (probability_bin_edges); xskillscore pull request 269 on its edges.
# Consequence: the diagram of a good ensemble of segmentations lacks a point at 0.7, and the one at 0.5 is a mixture.
#   Choose edges between the shares that the ensemble can give, (k - 0.5) / members.
# Output seen:
#   shares: 0.0 0.2 0.4 0.6 0.8 1.0 | fourth edge: 0.6000000000000001
#   preset edges:  0.1: 0.14 of 8329, 0.3: 0.28 of 8090, 0.5: 0.49 of 16878, 0.7: nan of 0, 0.9: 0.78 of 16703
#   edges between: 0.0: 0.14 of 8329, 0.2: 0.28 of 8090, 0.4: 0.42 of 8460, 0.6: 0.56 of 8418, 0.8: 0.71 of 8391, 1.0: 0.86 of 8312
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet xskillscore==0.0.29 xarray==2026.9.0 numpy==2.4.6 scipy==1.17.1
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import numpy as np
import xarray as xr
import xskillscore as xs

rng = np.random.default_rng(0)
chance = rng.uniform(size=50_000)
members = rng.uniform(size=(5, chance.size)) < chance
seen = xr.DataArray(rng.uniform(size=chance.size) < chance, dims="pixel")
share = xr.DataArray(members.mean(axis=0), dims="pixel")
print("shares:", *(f"{value:.1f}" for value in np.unique(share)), "| fourth edge:", np.linspace(0, 1, 6)[3])
edges = (np.arange(7) - 0.5) / 5
for name, options in (("preset edges", {}), ("edges between", {"probability_bin_edges": edges})):
    found = xs.reliability(seen, share, dim="pixel", **options)
    rows = zip(found.forecast_probability.values, found.samples.values, found.values)
    print(f"{name + ':':<14}", ", ".join(f"{middle:.1f}: {value:.2f} of {int(count)}" for middle, count, value in rows))
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
