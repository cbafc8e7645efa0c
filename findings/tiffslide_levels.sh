#!/usr/bin/env bash
# tiffslide and OpenSlide read other pixels at the same place of a smaller level, unless the place is on its grid.
#
# Versions: Python 3.11, tiffslide==3.0.1, openslide-python==1.4.7, openslide-bin==4.0.1.2, tifffile==2026.3.3,
#   imagecodecs==2026.3.6, zarr==3.1.6, numpy==2.4.6.
# One would expect: read_region(location, level, size) is the same in both: tiffslide offers itself as a replacement,
#   and locations are in pixels of level 0.
# What happens: at level 1 (half size) an odd location lies between two pixels. tiffslide takes the pixel on the left
#   and above; OpenSlide interpolates between neighbours. At even locations both are equal, and at level 0 always.
# Source: documentation of tiffslide (drop-in replacement of OpenSlide) and of OpenSlide's read_region.
# Consequence: a tiling whose step is no multiple of the downsampling gives other pixels for each reader: on one of
#   these images the values differ by up to a third of the range. Tiles and masks are shifted by up to one pixel. Round
#   locations to the grid of the level.
# Output seen:
#   downsampling: 1.0 2.0 | 1.0 2.0
#   level 0, location (60, 60): 0 of 1024 pixels differ, by up to 0
#   level 0, location (61, 61): 0 of 1024 pixels differ, by up to 0
#   level 1, location (60, 60): 0 of 1024 pixels differ, by up to 0
#   level 1, location (61, 61): 124 of 1024 pixels differ, by up to 83
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tiffslide==3.0.1 openslide-python==1.4.7 openslide-bin==4.0.1.2 \
    tifffile==2026.3.3 imagecodecs==2026.3.6 zarr==3.1.6 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import numpy as np
import openslide
import tifffile
from tiffslide import TiffSlide

rng = np.random.default_rng(0)
coarse = rng.integers(40, 216, (16, 16, 3)).astype(np.uint8)
image = np.kron(coarse, np.ones((32, 32, 1), np.uint8))
with tifffile.TiffWriter("slide.tif") as file:
    for level, one in enumerate((image, image[::2, ::2])):
        file.write(one, photometric="rgb", tile=(128, 128), compression="zlib", subfiletype=int(level > 0))
with TiffSlide("slide.tif") as first, openslide.OpenSlide("slide.tif") as second:
    print("downsampling:", *first.level_downsamples, "|", *second.level_downsamples)
    for level in (0, 1):
        for place in ((60, 60), (61, 61)):
            one = np.asarray(first.read_region(place, level, (32, 32)).convert("RGB")).astype(int)
            other = np.asarray(second.read_region(place, level, (32, 32)).convert("RGB")).astype(int)
            unlike = (one != other).any(axis=-1)
            print(f"level {level}, location {place}: {int(unlike.sum())} of {unlike.size} pixels differ, by up to {abs(one - other).max()}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
