#!/usr/bin/env bash
# GroupNorm of PyTorch on the CPU loses its digits in the channels_last memory format when the mean is large.
#
# Versions: Python 3.11, torch==2.13.0, numpy==2.4.6.
# One would expect: the order of axes in memory changes the speed of a layer, not its result: in float32 the errors
#   stay near 1e-5.
# What happens: with a standard deviation of 1 and a mean of 1000 the errors exceed 1, a standard deviation;
#   contiguous tensors stay exact. The error grows about with the square of the mean, as it does when a variance is
#   computed as mean of squares minus square of the mean. With a mean of 0 nothing is seen.
# Source: PyTorch pull request 49821 (how channels_last reduces on the CPU); issue 54293 is the like on a GPU.
# Consequence: diffusion models for segmentation are full of GroupNorm; where the mean of a group is a hundred times
#   its spread or more (raw 16-bit intensities of a flat field, say), the result is wrong on the CPU in this format,
#   without a sign. Centre the input, or use contiguous tensors.
# Output seen:
#   mean    0: contiguous_format error below 1e-05, channels_last error below 1e-05
#   mean   10: contiguous_format error below 1e-05, channels_last error below 0.001
#   mean  100: contiguous_format error below 1e-05, channels_last error below 0.1
#   mean 1000: contiguous_format error below 0.0001, channels_last error below 10
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import torch

torch.manual_seed(0)
torch.set_num_threads(1)
signal = torch.randn(1, 8, 64, 64)
norm = torch.nn.GroupNorm(2, 8)
exact = torch.nn.GroupNorm(2, 8).double()
with torch.no_grad():
    for mean in (0, 10, 100, 1000):
        right = exact((signal + mean).double())
        errors = {}
        for form in (torch.contiguous_format, torch.channels_last):
            found = norm((signal + mean).contiguous(memory_format=form))
            error = float((found - right).abs().max())
            errors[form] = next(bound for bound in (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10) if error < bound)
        print(f"mean {mean:>4}:", ", ".join(f"{str(form)[6:]} error below {bound:g}" for form, bound in errors.items()))
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
