"Signed distances: other libraries' distance transforms inside our edges and signs, beside ours."

from collections.abc import Callable
from functools import partial
from importlib import import_module

import numpy as np
import xarray as xr
from scipy import ndimage

from benchmarks.competitors import interleaved, library, seconds_table
from sdfdiff.distance import signed_distance
from sdfdiff.fast_distance import edge, signed_distance_batch


def transforms() -> dict[str, Callable]:  # By name: mask -> distance of its true pixels to the nearest false one
    "What the installed libraries offer, with one thread each."
    found = {"SciPy": ndimage.distance_transform_edt}
    if opencv := library("OpenCV"):
        opencv.setNumThreads(1)
        found["OpenCV"] = lambda mask: opencv.distanceTransform(
            mask.view(np.uint8), opencv.DIST_L2, opencv.DIST_MASK_PRECISE
        )
    if edt := library("edt"):
        found["edt"] = lambda mask: edt.edt(mask.view(np.uint8), parallel=1)
    if library("MONAI"):
        monai = import_module("monai.transforms.utils")
        found["MONAI"] = lambda mask: monai.distance_transform_edt(mask[None])[0]
    return found


def framed(
    name: str,  # A key of `transforms`
    transform: Callable,  # Its value
    masks: np.ndarray,  # Boolean, shape (batch, row, column)
    truncation: float,  # Pixels
    boundary: str,  # "inner" or "half_pixel"
) -> np.ndarray:  # Distances in pixels, float32, shape (batch, row, column)
    "Signed distances of a batch with somebody else's transform; our edges and signs, of the whole batch at once."
    if boundary == "inner":
        lines = edge(masks)
        away, signs = np.stack([transform(one) for one in ~lines]), masks & ~lines
    elif name == "edt":  # it knows several labels: one transform for both sides
        labels, transform = masks.view(np.uint8) + np.uint8(1), partial(import_module("edt").edt, parallel=1)
        away, signs = np.stack([transform(one) for one in labels]) - np.float32(0.5), masks
    else:
        away = np.stack([transform(one) + transform(~one) for one in masks]) - np.float32(0.5)
        signs = masks
    nearest = np.minimum(away, truncation).astype(np.float32, copy=False)
    return np.multiply(nearest, 1 - 2 * signs.view(np.int8), out=nearest)


def blobs(
    batch: int,  # Masks
    size: int,  # Rows and columns
    seed: int = 0,  # Of the shapes
) -> np.ndarray:  # Boolean, shape (batch, row, column)
    "Masks that look like nuclei: smooth noise above a threshold; beyond 512 pixels the same patch again."
    generator, side = np.random.default_rng(seed), min(size, 512)
    noise = ndimage.gaussian_filter(
        generator.normal(size=(batch, side, side)).astype(np.float32), (0, 4, 4), mode="wrap"
    )
    repeats = -(-size // side)
    return np.tile(noise > 0.7 * noise.std(), (1, repeats, repeats))[:, :size, :size]


LIBRARIES = ("sdfdiff", "SciPy", "OpenCV", "edt", "MONAI")


def race_distances(
    sizes: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048, 4096),  # Rows and columns
    truncations: tuple[float, ...] = (5, 10, 15, 32, 64),  # Pixels
    batches: tuple[int, ...] = (1, 8, 64),  # Masks in one call; the others are called mask by mask
    boundaries: tuple[str, ...] = ("inner", "half_pixel"),  # Zero sets
    seconds: float = 0.5,  # For each size, batch and boundary
    largest: int = 2**24,  # Larger batches, in pixels, are left out
) -> xr.DataArray:  # Seconds per batch, dimensions (boundary, size, batch, truncation, library, statistic)
    "Signed distance transforms of the same masks, taking turns."
    rows, others = {}, transforms()
    for size, batch in ((size, batch) for size in sizes for batch in batches if size**2 * batch <= largest):
        masks = blobs(batch, size)
        one, given = (signed_distance, masks[0]) if batch == 1 else (signed_distance_batch, masks)
        for boundary in boundaries:
            calls = {reach: partial(one, given, reach, boundary) for reach in truncations}
            calls |= {name: partial(framed, name, others[name], masks, truncations[0], boundary) for name in others}
            found = interleaved(calls, rounds=200, seconds=seconds)
            for reach in truncations:  # theirs does not depend on it
                rows[boundary, size, batch, reach] = {"sdfdiff": found[reach]} | {name: found[name] for name in others}
    names = ("boundary", "size", "batch", "truncation")
    array = seconds_table(names, rows, LIBRARIES, dict(zip(names, (boundaries, sizes, batches, truncations))))
    for name in ("size", "truncation"):
        array[name].attrs["units"] = "px"
    return array
