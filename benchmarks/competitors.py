"""Other people's code under the same clock, with the same network, the same noise levels and the same edges, so that a ratio means what it says."""

from dataclasses import replace
import math
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from itertools import count
from time import perf_counter
from types import ModuleType

import numpy as np
import torch
import xarray as xr
from scipy import ndimage

from benchmarks.frontier import judge
from benchmarks.noise_levels import flow_levels
from sdfdiff.ensembles.method import Method
from sdfdiff.ensembles.method import METHODS, QUALITIES
from sdfdiff.diffusion.model import Model
from sdfdiff.diffusion.sampling import SAMPLERS, gaussian, geometric_levels, last, member_generators
from sdfdiff.distance import signed_distance
from sdfdiff.ensembles.collection import Collected, ensemble, label
from sdfdiff.ensembles.members import Denoiser, draw_members, in_pixels
from sdfdiff.fast_distance import edge, signed_distance_batch
from sdfdiff.images.cases import Prepared

STATISTICS = ("minimum", "median")  # Of the seconds of several runs


def interleaved(
    calls: dict[str, Callable[[], object]],  # What to time, by name
    rounds: int = 5,  # Runs of each that count
    seconds: float = math.inf,  # Stop earlier when these are spent, but not before one round
    clock: Callable[[], float] = perf_counter,  # Seconds
) -> dict[str, tuple[float, float]]:  # Seconds of each: minimum and median
    "Time several calls in turn, round after round; the first round warms up and does not count."
    times, begin, number = {name: [] for name in calls}, clock(), 0
    while number <= rounds and not (number > 1 and clock() - begin > seconds):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
        number += 1
    return {name: (min(runs[1:]), float(np.median(runs[1:]))) for name, runs in times.items()}


OPTIONAL = {"diffusers": "diffusers", "MONAI": "monai", "edt": "edt", "OpenCV": "cv2"}  # Name: module


def library(
    name: str,  # A key of OPTIONAL
) -> ModuleType | None:  # None if it is not installed
    "A rival's module."
    return import_module(OPTIONAL[name]) if find_spec(OPTIONAL[name]) else None


def versions() -> dict[str, str]:  # By name: what is installed, or "not installed"
    "Which rivals take part."
    packages = packages_distributions()
    return {
        name: version(packages[module][0]) if find_spec(module) and module in packages else "not installed"
        for name, module in OPTIONAL.items()
    }


def table(
    names: tuple[str, ...],  # Dimensions
    rows: dict[tuple, dict[str, tuple[float, float]]],  # Place along the dimensions: seconds by library
    libraries: tuple[str, ...],  # All of them: who is not in a row gets NaN
    coordinates: dict,  # Values along the dimensions `names`
) -> xr.DataArray:  # Seconds, dimensions: names, then library and statistic
    "Measured seconds as a labelled array."
    whole = {name: list(values) for name, values in coordinates.items()} | {
        "library": list(libraries),
        "statistic": list(STATISTICS),
    }
    array = xr.DataArray(
        np.nan, whole, (*names, "library", "statistic"), attrs={"units": "s", "long_name": "wall time"}
    )
    for place, found in rows.items():
        for name, seconds in found.items():
            array.loc[dict(zip(names, place), library=name)] = list(seconds)
    return array


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
    "Signed distances of a batch with somebody else's transform inside our edges and signs."
    out = np.empty(masks.shape, np.float32)
    for mask, place in zip(masks, out):
        inside = mask
        if boundary == "inner":
            inside = mask & ~(line := edge(mask))
            away = transform(~line)
        elif name == "edt":  # it knows several labels: one transform for both sides
            away = import_module("edt").edt(mask.view(np.uint8) + np.uint8(1), parallel=1) - np.float32(0.5)
        else:
            away = transform(mask) + transform(~mask) - np.float32(0.5)
        np.multiply(
            np.minimum(away, np.float32(truncation)), 1 - 2 * inside.view(np.int8), out=place, casting="same_kind"
        )
    return out


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
    array = table(names, rows, LIBRARIES, dict(zip(names, (boundaries, sizes, batches, truncations))))
    for name in ("size", "truncation"):
        array[name].attrs["units"] = "px"
    return array


SCHEDULERS = {  # Name: diffusers' class, its options, whether its state is variance preserving
    "diffusers Euler": ("EulerDiscreteScheduler", {}, False),
    "diffusers DPM-Solver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}, True),
    "diffusers SDE-DPM-Solver++": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}, True),
    "diffusers UniPC": ("UniPCMultistepScheduler", {}, True),
}


def scheduled(
    name: str,  # A key of SCHEDULERS
    denoise: Callable,  # (noisy, noise_level) -> E[clean | noisy]
    noisy: torch.Tensor,  # Start, shape (member, 1, row, column)
    noise_levels: torch.Tensor,  # Decreasing, shape (steps + 1,); the last step goes on to zero noise
    generator: torch.Generator | list[torch.Generator] | None = None,  # For the stochastic one
) -> Iterator[torch.Tensor]:  # The state after each step
    "A scheduler of diffusers at our noise levels, with our denoiser."
    kind, options, preserving = SCHEDULERS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers' own, about NumPy
        scheduler = getattr(library("diffusers"), kind)(prediction_type="sample", **options)
        scheduler.set_timesteps(len(noise_levels))
    levels = torch.cat([noise_levels, torch.zeros(1)])
    scheduler.sigmas, scheduler._step_index, scheduler.is_scale_input_called = levels, 0, True
    scales = (1 + levels**2).sqrt() if preserving else torch.ones_like(levels)
    state, options = noisy / scales[0], {"generator": generator} if "sde" in options.get("algorithm_type", "") else {}
    for index, level in enumerate(noise_levels):
        clean = denoise(state * scales[index], level)
        state = scheduler.step(clean, scheduler.timesteps[index], state, **options).prev_sample
        yield state * scales[index + 1]


def drivers(
    calls: int = 10,  # Network calls of the schedulers: the default's
) -> dict[str, Callable]:  # By name: (denoiser, model, members, seed) -> the last state
    "Ways to drive one network; those of a library that is missing are not among them."
    default = METHODS["default"]
    found = {
        f"sdfdiff {name}": lambda denoiser, model, members, seed, name=name: last(
            draw_members(denoiser, model, replace(METHODS[name], seed=seed), members)
        )
        for name in QUALITIES
    }

    def start(denoiser, model, members, seed, levels):
        generators = member_generators(seed, members)
        return denoiser.initial_estimate + levels[0] * gaussian(
            (len(members), 1, *denoiser.canvas), generators
        ), generators

    def flow(denoiser, model, members, seed):
        levels = flow_levels(model.schedule.sigma_max, 3)
        return last(SAMPLERS["ddim"](denoiser, start(denoiser, model, members, seed, levels)[0], levels, final=True))

    def theirs(denoiser, model, members, seed, name):
        levels = geometric_levels(
            default.lowest or model.schedule.sigma_min,
            model.schedule.sigma_max,
            calls - 1,
            default.first,
            default.growth,
        )
        noisy, generators = start(denoiser, model, members, seed, levels)
        return last(scheduled(name, denoiser, noisy, levels, generators))

    found["FlowSDF's 3 Euler steps"] = flow
    if library("diffusers"):
        found |= {name: lambda *given, name=name: theirs(*given, name) for name in SCHEDULERS}
    return found


DRIVERS = (*(f"sdfdiff {name}" for name in QUALITIES), "FlowSDF's 3 Euler steps", *SCHEDULERS)


def gathered(
    model: Model,  # Its units
    state: torch.Tensor,  # Last state of some members, model units
    shape: tuple[int, int],  # Rows and columns of the image
) -> xr.Dataset:  # As from `ensemble`
    "Mean, spread and members of a state that anybody may have drawn."
    collected = Collected(shape, model.threshold("half_pixel"), model.reach, len(state))
    collected.add(in_pixels(model, state, shape))
    return label(collected.fields(), {"threshold_px": model.threshold("half_pixel"), "members": len(state)}, shape)


@torch.inference_mode()
def race_drivers(
    model: Model,  # The network
    cases: list[Prepared],  # Images
    members: int = 32,  # Per driver and image
    reference_members: int = 128,  # Of the long run, which has another seed
    rounds: int = 3,  # Runs that are timed
    seed: int = 0,  # Of the members
) -> xr.Dataset:  # Seconds for all members of one image; quality as in `sdfdiff.frontier.UNITS`, mean over the images
    "Drivers of one network side by side."
    found, denoisers = drivers(), [Denoiser(model, case.image) for case in cases]
    runs = {name: lambda name=name: found[name](denoisers[0], model, range(members), seed) for name in found}
    seconds = table((), {(): interleaved(runs, rounds)}, DRIVERS, {}).rename(library="driver")
    keys = ("spread_ratio", "spread_correlation", "miscalibration", "raters", "f1_mean")
    quality = np.full((len(keys), len(DRIVERS), len(cases)), np.nan)
    for place, (case, denoiser) in enumerate(zip(cases, denoisers)):
        reference = ensemble(
            model,
            case.image,
            "reference",
            members=reference_members,
            seed=seed + 1,
            keep=reference_members,
            progress=False,
        )
        for name in found:
            drawn = gathered(model, found[name](denoiser, model, range(members), seed), case.truth.shape)
            judged = judge(drawn, reference, case)
            quality[:, DRIVERS.index(name), place] = [judged[key] for key in keys]
    data = {key: (("driver",), values.mean(-1), {"units": "1"}) for key, values in zip(keys, quality)}
    return xr.Dataset({"seconds": seconds} | data, {"driver": list(DRIVERS)})


@torch.inference_mode()
def finished_tiles(
    model: Model,  # The network
    image: np.ndarray,  # Prepared, shape (channel, row, column)
    members: int,  # How many
    sampling: Method,  # How
    tile: int,  # Rows and columns of a tile
    overlap: int,  # Of neighbours, pixels
    seed: int = 0,  # Of all tiles
) -> torch.Tensor:  # Model units, (member, 1, row, column)
    "MONAI's sliding window around whole samplings: every tile is drawn by itself, and the results are averaged."
    numbers = count(0)

    def draw(windows):  # one tile; the members are its channels
        denoiser = Denoiser(model, windows[0].numpy(), tile=tile)
        first = next(numbers) * members
        return last(
            draw_members(denoiser, model, replace(sampling, seed=seed), range(first, first + members))
        ).transpose(0, 1)

    inferers = import_module("monai.inferers")
    inferer = inferers.SlidingWindowInferer((tile, tile), sw_batch_size=1, overlap=overlap / tile, mode="constant")
    return inferer(torch.from_numpy(image)[None], draw).transpose(0, 1)


TILINGS = ("one piece", "joint tiles", "MONAI's sliding window")


def _tilings(seconds: xr.DataArray, std: np.ndarray, tile: int, overlap: int, members: int) -> xr.Dataset:
    "Spread inside and outside the cross in which four tiles overlap."
    band = np.zeros(std.shape[1:], bool)
    band[tile - overlap : tile], band[:, tile - overlap : tile] = True, True
    data = {
        "seconds": seconds,
        "std": (("tiling", "row", "column"), std, {"units": "px", "long_name": "standard deviation of the distance"}),
    }
    for name, part in (("spread_overlap", band), ("spread_elsewhere", ~band)):
        data[name] = (
            "tiling",
            std[:, part].mean(1) / std[0, part].mean(),
            {"units": "1", "long_name": f"{name}, relative to one piece"},
        )
    return xr.Dataset(data, {"tiling": list(TILINGS)}, {"tile_px": tile, "overlap_px": overlap, "members": members})


@torch.inference_mode()
def race_tiles(
    model: Model,  # The network
    image: np.ndarray,  # Prepared, shape (channel, row, column), 2 * tile - overlap rows and columns
    members: int = 24,  # Per way
    tile: int = 128,  # Rows and columns of a tile
    overlap: int = 32,  # Of neighbours, pixels
    rounds: int = 2,  # Runs that are timed
    quality: str = "default",  # Of the members
    seed: int = 0,  # Of the members
) -> xr.Dataset:  # Seconds; std maps; spread in the overlaps and elsewhere, relative to one piece
    "Tiles sampled jointly against finished tiles that are averaged, and against no tiles."
    sampling, shape, drawn = METHODS[quality], image.shape[1:], {}
    if shape != (2 * tile - overlap,) * 2:
        raise ValueError(
            f"The image has shape {shape}: 2 x 2 tiles of {tile} px that overlap by {overlap} need {2 * tile - overlap} pixels a side."
        )

    def whole(name, **tiling):
        drawn[name] = last(
            draw_members(Denoiser(model, image, **tiling), model, replace(sampling, seed=seed), range(members))
        )

    def averaged():
        drawn[TILINGS[2]] = finished_tiles(model, image, members, sampling, tile, overlap, seed)

    runs = {
        TILINGS[0]: lambda: whole(TILINGS[0], tile=2 * tile),
        TILINGS[1]: lambda: whole(TILINGS[1], tile=tile, overlap=overlap),
    }
    seconds = interleaved(runs | ({TILINGS[2]: averaged} if library("MONAI") else {}), rounds)
    std = np.full((3, *shape), np.nan, np.float32)
    for name, state in drawn.items():
        std[TILINGS.index(name)] = gathered(model, state, shape)["std"].values.round(2)
    return _tilings(table((), {(): seconds}, TILINGS, {}).rename(library="tiling"), std, tile, overlap, members)
