"""A slide of any size in constant memory, beside MONAI: `python -m benchmarks.whole_slides [SIDE ...]`.

Sides are in pixels at 0.25 um (default 8192 16384; tissue on 40 %). Each slide is segmented in a process of its own,
one thread. Processor seconds are printed. On a busy machine they grow, too (twice as many were seen where ten programs
shared two cores): only what ran in turn can be compared. MONAI's sliding window draws one member after another, and
the glass as well: of its factor, 2.5 are glass.
"""

import sys
import warnings
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time

import numpy as np
import torch

from benchmarks.resident import in_own_process, resident
from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.diffusion.one_call import noise_maps
from sdfdiff.images.preparation import see_image
from sdfdiff.images.synthetic import tissue

_SHARE, _MEMBERS = 0.4, 8  # _SHARE of the columns is tissue


def write_slide(
    path: Path,  # Tiled TIFF, three levels
    side: int,  # Rows and columns, a multiple of 4096
) -> None:
    "A slide of one synthetic scene again and again, at 0.25 um per pixel, with glass beside it; written tile by tile."
    import tifffile

    scene = np.round(255 * np.kron(tissue(1, (512, 512)).image, np.ones((2, 2, 1)))).astype(np.uint8)

    def tiles(step: int):
        for top in range(0, side, 256 * step):
            for left in range(0, side, 256 * step):
                rows, columns = (np.arange(start, start + 256 * step, step) for start in (top, left))
                tile = scene[np.ix_(rows % 1024, columns % 1024)]
                yield np.where((columns < _SHARE * side)[:, None], tile, np.uint8(245))

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        how = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", "dtype": np.uint8}
        size = {"resolution": (40000, 40000), "resolutionunit": "CENTIMETER"}
        for step in (1, 4, 16):
            more = {"subifds": 2, **size} if step == 1 else {"subfiletype": 1}
            file.write(tiles(step), shape=(side // step, side // step, 3), **how, **more)


def segment_alone(
    side: int,  # Of the slide
) -> dict[str, float]:  # Processor seconds of fields and of objects; peak: bytes; objects
    "One slide in this process, which should have done nothing else."
    from sdfdiff.ensembles.slide_results import draw_slide, open_store, slide_objects
    from sdfdiff.ensembles.whole_slides import open_whole
    from sdfdiff.options import prepare_process

    prepare_process()
    with TemporaryDirectory() as folder:
        write_slide(Path(folder) / "slide.tif", side)
        written, model = resident("VmRSS"), load_model("nuclei")
        start = process_time()
        whole = open_whole(Path(folder) / "slide.tif", model, members=_MEMBERS)
        store = open_store(whole, Path(folder) / "slide.ome.zarr")
        for _ in draw_slide(whole, store, workers=1):
            pass
        drawn, fields = process_time(), resident()
        table = slide_objects(store, progress=False)
        found = {
            "fields": drawn - start,
            "objects": process_time() - drawn,
            "before": written,
            "peak of fields": fields,
        }
        return found | {"peak": resident(), "count": table.sizes["object"]}


class _Member(torch.nn.Module):
    "The network as MONAI's inferer calls it: windows of an image in, one member out."

    def __init__(self, model: Model):
        super().__init__()
        self.network, self.generator = model.network, torch.Generator().manual_seed(0)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        noise = noise_maps(len(windows), windows.shape[2:], self.network.architecture, self.generator)
        return self.network.generate(noise, self.network.encode(windows))


@torch.inference_mode()
def sliding_window(
    side: int = 2048,  # Of a slide that fits into memory
    members: int = 1,  # Each is one run of the inferer
) -> float:  # Processor seconds
    "MONAI's sliding window over a prepared slide, with the same network, windows and overlap."
    model = load_model("nuclei")
    scene = np.kron(tissue(1, (512, 512)).image, np.ones((2, 2, 1), np.float32))
    image = np.tile(scene, (side // 1024, side // 1024, 1))
    image[:, int(_SHARE * side) :] = 245 / 255
    start, network = process_time(), _Member(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that glass is not seen
        prepared = torch.from_numpy(see_image(image, model.preparation.at_microns(0.25))[0])[None]
    inferer = import_module("monai.inferers").SlidingWindowInferer((288, 288), overlap=32 / 288, mode="gaussian")
    ready = process_time()
    for _ in range(members):
        inferer(prepared, network)
    return ready - start + (process_time() - ready) * _MEMBERS / members


def main(*sides: str) -> None:
    torch.set_num_threads(1)
    theirs = sliding_window() / (_SHARE * 2048**2 / 1e6)
    print(f"MONAI: {theirs:.2f} s per megapixel of tissue, {_MEMBERS} members, 2048 x 2048 px")
    for side in map(int, sides or (8192, 16384)):
        found, area = in_own_process("benchmarks.whole_slides.segment_alone", side), _SHARE * side**2 / 1e6
        fields, objects = found["fields"] / area, found["objects"] / area
        most = f"{found['peak of fields'] / 2**20:.0f} and {found['peak'] / 2**20:.0f} MiB at most"
        said = f"fields {fields:.2f} s and {found['count']} objects {objects:.2f} s per megapixel of tissue, {most}"
        print(f"{side} x {side} px: {said}; MONAI takes {theirs / fields:.1f} times as long for the fields")


if __name__ == "__main__":
    main(*sys.argv[1:])
