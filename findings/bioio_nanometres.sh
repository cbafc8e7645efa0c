#!/usr/bin/env bash
# A pixel of 250 nm measures 250 in bioio, without a unit; tiffslide and SimpleITK know no size at all.
#
# Versions: Python 3.11, bioio==3.6.0, bioio-ome-tiff==1.4.0, tifffile==2026.3.3, tiffslide==3.0.1, simpleitk==2.5.7,
#   zarr==3.1.6, numpy==2.4.6.
# One would expect: the size of a pixel in OME metadata has a value and a unit, and a reader gives both or converts to
#   micrometres.
# What happens: bioio's physical_pixel_sizes gives the number of the file: 250 for nanometres, 0.25 for micrometres.
#   Its dimension_properties, made for units, say None. tiffslide and SimpleITK do not read OME metadata: None, and 1.0
#   for every axis. tifffile gives the text, with the unit.
# Source: aicsimageio issue 452 (bioio's predecessor): units of PhysicalPixelSizes; OME schema, PhysicalSizeXUnit
#   (preset: micrometre).
# Consequence: areas in square micrometres are wrong by a factor of 1,000,000, and a distance in micrometres by 1,000.
#   Read the unit from the OME metadata, and refuse sizes that no microscope has.
# Output seen:
#   file: 250.0 nm
#       bioio     250.0, unit None
#       tiffslide None
#       SimpleITK 1.0
#   file: 0.25 µm
#       bioio     0.25, unit None
#       tiffslide None
#       SimpleITK 1.0
set -euo pipefail
script="$(realpath "$0")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet bioio==3.6.0 bioio-ome-tiff==1.4.0 tifffile==2026.3.3 \
    tiffslide==3.0.1 simpleitk==2.5.7 zarr==3.1.6 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - > "$folder/output" <<'PYTHON'
import warnings
import xml.etree.ElementTree as xml

import bioio_ome_tiff
import numpy as np
import SimpleITK as sitk
import tifffile
from bioio import BioImage
from tiffslide import TiffSlide

warnings.simplefilter("ignore")
for value, unit in ((250.0, "nm"), (0.25, "µm")):
    size = {f"PhysicalSize{axis}{end}": one for axis in "XY" for end, one in (("", value), ("Unit", unit))}
    tifffile.imwrite("slide.ome.tif", np.zeros((32, 32), np.uint8), metadata={"axes": "YX", **size})
    image = BioImage("slide.ome.tif", reader=bioio_ome_tiff.Reader)
    with tifffile.TiffFile("slide.ome.tif") as file:
        pixels = next(one for one in xml.fromstring(file.ome_metadata).iter() if one.tag.endswith("}Pixels")).attrib
    with TiffSlide("slide.ome.tif") as slide:
        mpp = slide.properties["tiffslide.mpp-x"]
    print(f"file: {pixels['PhysicalSizeX']} {pixels['PhysicalSizeXUnit']}")
    print(f"    bioio     {image.physical_pixel_sizes.X}, unit {image.dimension_properties.X.unit}")
    print(f"    tiffslide {mpp}")
    print(f"    SimpleITK {sitk.ReadImage('slide.ome.tif').GetSpacing()[0]}")
PYTHON
cat "$folder/output"
diff <(sed -n '/^# Output seen/,/^set/s/^#   //p' "$script") "$folder/output" || { echo "The behaviour has changed." >&2; exit 1; }
