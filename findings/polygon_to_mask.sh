#!/usr/bin/env bash
# One polygon, five libraries: a square with an area of 16 becomes a mask of 16 pixels or of 25.
#
# Versions: Python 3.11, opencv-python-headless==5.0.0.93, pillow==13.0.0, scikit-image==0.26.0, rasterio==1.4.4,
#   pycocotools==2.0.11, shapely==2.2.0, numpy==2.4.6.
# One would expect: the polygon of an annotation has an area, and the mask that is drawn from it has about that area
#   and the same centre.
# What happens: rasterio and pycocotools take coordinates as corners of pixels and give 16. Pillow and OpenCV take
#   them as centres of pixels and also draw the outline: 25 for the same square, with the centre half a pixel to the
#   lower right. scikit-image counts pixel centres too: 25 when the corners lie on centres, 16 when they lie between
#   them. (OpenCV takes whole numbers only, so half ones are rounded here.) Of a round object with a radius of 6 pixels
#   they make 112 to 137 pixels.
# Source: documentation of rasterio.features.rasterize, skimage.draw.polygon2mask, PIL.ImageDraw.polygon and
#   cv2.fillPoly; OpenCV issue 26130 on what its outline covers.
# Consequence: annotations in GeoJSON (QuPath writes corners of pixels) give a mask that is up to one pixel too large
#   on the right and below when it is drawn with OpenCV or Pillow. That limits the overlap a model can reach, most for
#   small nuclei. Draw with one library on both sides, and say which.
# Output seen:
#   square: area 16.0, centre 4.00 (corners of pixels at whole numbers)
#       rasterio        16 pixels, centre 4.00
#       pycocotools     16 pixels, centre 4.00
#       scikit-image    25 pixels, centre 4.50
#       Pillow          25 pixels, centre 4.50
#       OpenCV          25 pixels, centre 4.50
#   square + 0.5: area 16.0, centre 4.50 (corners of pixels at whole numbers)
#       rasterio        16 pixels, centre 5.00
#       pycocotools     16 pixels, centre 5.00
#       scikit-image    16 pixels, centre 5.00
#       Pillow          25 pixels, centre 4.50
#       OpenCV          25 pixels, centre 4.50
#   round: area 112.6, centre 10.00 (corners of pixels at whole numbers)
#       rasterio       112 pixels, centre 10.00
#       pycocotools    116 pixels, centre 10.00
#       scikit-image   113 pixels, centre 10.50
#       Pillow         126 pixels, centre 10.06
#       OpenCV         137 pixels, centre 10.50
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet opencv-python-headless==5.0.0.93 pillow==13.0.0 \
    scikit-image==0.26.0 rasterio==1.4.4 pycocotools==2.0.11 shapely==2.2.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import cv2
import numpy as np
import shapely
import skimage.draw
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from rasterio.features import rasterize

size = 20


def pillow(corners):
    image = Image.new("L", (size, size))
    ImageDraw.Draw(image).polygon([tuple(corner) for corner in corners.tolist()], fill=1)
    return np.asarray(image)


drawers = {
    "rasterio": lambda c: rasterize([(shapely.Polygon(c), 1)], out_shape=(size, size)),
    "pycocotools": lambda c: coco.decode(coco.frPyObjects([c.ravel().tolist()], size, size))[..., 0],
    "scikit-image": lambda c: skimage.draw.polygon2mask((size, size), c[:, ::-1]),
    "Pillow": pillow,
    "OpenCV": lambda c: cv2.fillPoly(np.zeros((size, size), np.uint8), [np.round(c).astype(np.int32)], 1),
}
angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
square = np.array([(2.0, 2.0), (6.0, 2.0), (6.0, 6.0), (2.0, 6.0)])
shapes = {"square": square, "square + 0.5": square + 0.5, "round": 10 + 6 * np.stack([np.cos(angle), np.sin(angle)], axis=1)}
for name, corners in shapes.items():
    polygon = shapely.Polygon(corners)
    print(f"{name}: area {polygon.area:.1f}, centre {polygon.centroid.x:.2f} (corners of pixels at whole numbers)")
    for library, draw in drawers.items():
        columns = np.nonzero(draw(corners))[1]
        print(f"    {library:<13} {len(columns):>4} pixels, centre {columns.mean() + 0.5:.2f}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
