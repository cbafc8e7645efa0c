#!/usr/bin/env bash
# A Boolean mask that tifffile writes is inverted when Pillow or OpenCV reads it.
#
# Versions: Python 3.11, tifffile==2026.3.3, pillow==13.0.0, opencv-python-headless==5.0.0.93, simpleitk==2.5.7,
#   numpy==2.4.6.
# One would expect: True is foreground in every reader; or the readers at least treat all types of pixels alike.
# What happens: for Boolean arrays tifffile chooses the photometric interpretation MINISWHITE (zero is white) unless
#   told otherwise, and leaves the bits as they are. tifffile itself ignores the tag on reading. Pillow and OpenCV obey
#   it: foreground and background are exchanged. For images with that tag they invert 8 bits but not 16 bits, and
#   SimpleITK inverts Boolean pixels but not 8 bits. With photometric="minisblack" all agree.
# Source: documentation of tifffile.TiffWriter.write (photometric) and of the TIFF tag PhotometricInterpretation;
#   Pillow pull request 5655; ITK pull request 6636.
# Consequence: a mask of 10 % foreground becomes one of 90 % in the next program, and a conversion to 16 bits hides
#   the fault. Write masks as uint8 with photometric="minisblack".
# Output seen:
#   bool   photometric=None       (MINISWHITE): object/background in tifffile 1/0, Pillow 0/1, OpenCV 0/255, SimpleITK 0/255
#   bool   photometric=minisblack (MINISBLACK): object/background in tifffile 1/0, Pillow 1/0, OpenCV 255/0, SimpleITK 255/0
#   uint8  photometric=miniswhite (MINISWHITE): object/background in tifffile 1/0, Pillow 254/255, OpenCV 254/255, SimpleITK 1/0
#   uint8  photometric=minisblack (MINISBLACK): object/background in tifffile 1/0, Pillow 1/0, OpenCV 1/0, SimpleITK 1/0
#   uint16 photometric=miniswhite (MINISWHITE): object/background in tifffile 1/0, Pillow 1/0, OpenCV 1/0, SimpleITK 1/0
#   uint16 photometric=minisblack (MINISBLACK): object/background in tifffile 1/0, Pillow 1/0, OpenCV 1/0, SimpleITK 1/0
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet tifffile==2026.3.3 pillow==13.0.0 \
    opencv-python-headless==5.0.0.93 simpleitk==2.5.7 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import cv2
import numpy as np
import SimpleITK as sitk
import tifffile
from PIL import Image

mask = np.zeros((8, 16), bool)
mask[2:4, 3:9] = True
readers = {
    "tifffile": tifffile.imread,
    "Pillow": lambda path: np.asarray(Image.open(path)),
    "OpenCV": lambda path: cv2.imread(path, cv2.IMREAD_UNCHANGED),
    "SimpleITK": lambda path: sitk.GetArrayFromImage(sitk.ReadImage(path)),
}


def inside(array):
    "The value in the object and the value around it."
    array = array[..., 0] if array.ndim == 3 else array
    return f"{int(array[2, 3])}/{int(array[0, 0])}"


for kind in (bool, np.uint8, np.uint16):
    for photometric in (None, "minisblack") if kind is bool else ("miniswhite", "minisblack"):
        tifffile.imwrite("mask.tif", mask.astype(kind), photometric=photometric)
        with tifffile.TiffFile("mask.tif") as file:
            tag = file.pages[0].photometric.name
        found = ", ".join(f"{name} {inside(read('mask.tif'))}" for name, read in readers.items())
        print(f"{np.dtype(kind).name:<6} photometric={photometric!s:<10} ({tag}): object/background in {found}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
