"What the benchmark measures, how much of it, and on which machine."

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from sdfdiff import __version__
from sdfdiff.diffusion.model import Model
from sdfdiff.images.preparation import prepare_image


@dataclass(frozen=True)
class Plan:
    "How much is measured; stored with the result."

    weights: str = "nuclei"  # For speed and memory: one of the shipped ones, or a file
    scenes: str = "tissue_fast"  # Weights for quality, on synthetic tissue whose posterior is known
    members: int = 128  # Of the ensemble whose time is taken apart
    side: int = 128  # Rows and columns of its image
    rounds: int = 5  # Repeats
    part: int = 128  # Members that are timed where time is proportional to them
    steps: int = 4  # Steps that are timed of settings that have hundreds
    cases: int = 4  # Synthetic scenes
    drawn: int = 32  # Members per scene
    reference: int = 128  # Members per scene of the long run
    tile: int = 128  # Rows and columns of a tile; they overlap by a quarter
    sides: tuple[int, ...] = (512, 1000, 1024, 2048, 4096)  # Of large images, one member each
    counts: tuple[int, ...] = (16, 32, 128, 1024)  # Members whose peak memory is compared
    sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048, 4096)  # Of masks for the signed distance
    truncations: tuple[float, ...] = (5, 10, 15, 32, 64)  # Of signed distances, pixels
    batches: tuple[int, ...] = (1, 8, 64)  # Masks in one call
    seconds: float = 2.0  # For each size and batch of the signed distance
    seed: int = 0  # Of all members


FULL = Plan()
QUICK = Plan(
    rounds=2,
    part=32,
    steps=2,
    cases=2,
    drawn=16,
    reference=24,
    tile=64,
    sides=(1000,),
    counts=(16, 128),
    sizes=(64, 512),
    truncations=(5, 64),
    batches=(1, 8),
    seconds=0.3,
)


@contextmanager
def one_thread() -> Iterator[None]:
    "Compute with one thread inside, and with as many as before afterwards; workers are what uses the other cores."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cores() -> int:
    "Cores that this process may use."
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slide(
    model: Model,  # Tells how the image is prepared
    side: int,  # Rows and columns
) -> np.ndarray:  # In [0, 1], shape (channel, side, side)
    "scikit-image's immunohistochemistry picture as `sdfdiff demo` reads it: its centre, or mirrored on where it ends."
    from skimage.data import immunohistochemistry

    stain = "haematoxylin" if model.preparation.stain == "vahadane" else "none"
    preparation = replace(model.preparation, size=None, scale=1.0, stain=stain)
    image = prepare_image(immunohistochemistry().astype(np.float32) / 255, preparation)
    margin = [max(0, (length - side) // 2) for length in image.shape[1:]]
    image = image[:, margin[0] : margin[0] + side, margin[1] : margin[1] + side]
    return np.pad(image, [(0, 0), *((0, side - length) for length in image.shape[1:])], mode="symmetric")


def machine() -> dict[str, str | int]:  # Attributes
    "What the numbers depend on besides the code."
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": (names or [platform.processor() or platform.machine()])[0],
        "cores": cores(),
        "threads_per_worker": 1,
        "vector_unit": torch.backends.cpu.get_cpu_capability(),
        "amx": int(torch.cpu._is_amx_tile_supported()),
        "torch_version": str(torch.__version__),
        "numpy_version": np.__version__,
        "sdfdiff_version": __version__,
    }
