"""Other libraries under the same clock, with the same network and noise levels, so that a ratio means what it says.

This module: the clock, who is installed, diffusers' schedulers, MONAI's tiles; signed distances in `distances`.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from itertools import count
from time import perf_counter
from types import ModuleType

import numpy as np
import torch
import xarray as xr

from benchmarks.frontier import REFERENCE, judge_case, side_by_side
from sdfdiff.diffusion.model import Model
from sdfdiff.diffusion.sampling import gaussian, geometric_levels, last, member_generators
from sdfdiff.ensembles.collection import Collected, described, ensemble, label
from sdfdiff.ensembles.members import Denoiser, draw_members, in_pixels
from sdfdiff.ensembles.method import METHODS, QUALITIES, Method
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
    "The module of a competitor."
    return import_module(OPTIONAL[name]) if find_spec(OPTIONAL[name]) else None


def versions() -> dict[str, str]:  # By name: what is installed, or "not installed"
    "Which competitors take part."
    packages = packages_distributions()
    return {
        name: version(packages[module][0]) if find_spec(module) and module in packages else "not installed"
        for name, module in OPTIONAL.items()
    }


def seconds_table(
    names: tuple[str, ...],  # Dimensions
    rows: dict[tuple, dict[str, tuple[float, float]]],  # Place along the dimensions: seconds by library
    libraries: tuple[str, ...],  # All of them: who is not in a row gets NaN
    coordinates: dict[str, tuple],  # Values along the dimensions `names`
) -> xr.DataArray:  # Seconds, dimensions: names, then library and statistic
    "Measured seconds as a labelled array."
    whole = {name: list(values) for name, values in coordinates.items()}
    whole |= {"library": list(libraries), "statistic": list(STATISTICS)}
    about = {"units": "s", "long_name": "wall time"}
    array = xr.DataArray(np.nan, whole, (*names, "library", "statistic"), attrs=about)
    for place, found in rows.items():
        for name, seconds in found.items():
            array.loc[dict(zip(names, place), library=name)] = list(seconds)
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


def _start(denoiser: Denoiser, members: range, seed: int, levels: torch.Tensor) -> tuple[torch.Tensor, list]:
    "Where each member begins, and its generator for what follows."
    generators = member_generators(seed, members)
    noise = gaussian((len(members), 1, *denoiser.canvas), generators)
    return denoiser.initial_estimate + levels[0] * noise, generators


def drivers(
    one_call: bool = False,  # Whether the network has a one-call generator
    calls: int = 10,  # Network calls of the schedulers: those of `default`
) -> dict[str, Callable]:  # By name: (denoiser, model, members, seed) -> the last state
    "Ways to drive one network; those of a library that is missing are not among them."
    default = METHODS["default"]

    def ours(denoiser, model, members, seed, name):
        return last(draw_members(denoiser, model, replace(METHODS[name], seed=seed), members))

    def theirs(denoiser, model, members, seed, name):
        ends = default.lowest or model.schedule.sigma_min, model.schedule.sigma_max
        levels = geometric_levels(*ends, calls - 1, default.first, default.growth)
        noisy, generators = _start(denoiser, members, seed, levels)
        return last(scheduled(name, denoiser, noisy, levels, generators))

    found = {f"sdfdiff {name}": lambda *given, name=name: ours(*given, name) for name in QUALITIES[not one_call :]}
    found["FlowSDF's 3 Euler steps"] = lambda *given: ours(*given, "flow")
    if library("diffusers"):
        found |= {name: lambda *given, name=name: theirs(*given, name) for name in SCHEDULERS}
    return found


DRIVERS = (*(f"sdfdiff {name}" for name in QUALITIES), "FlowSDF's 3 Euler steps", *SCHEDULERS)


def gathered(
    model: Model,  # Its units
    denoiser: Denoiser,  # What the state was drawn with
    state: torch.Tensor,  # Last state of some members, model units, shape (member, 1, row, column)
) -> xr.Dataset:  # As from `ensemble`, all members kept
    "Mean, spread and members of a state that anybody may have drawn."
    shape, threshold = denoiser.shape, model.threshold("half_pixel")
    collected = Collected(shape, threshold, model.reach, len(state))
    collected.add(in_pixels(model, state, shape))
    fields = collected.fields() | {"initial_estimate": in_pixels(model, denoiser.initial_estimate, shape)[0]}
    return label(fields, described(model) | {"threshold_px": threshold, "members": len(state)}, shape)


def with_units(
    dataset: xr.Dataset,  # Ratios and shares
) -> xr.Dataset:
    "The same, with the unit 1 at each variable."
    return dataset.assign({name: values.assign_attrs(units="1") for name, values in dataset.items()})


_QUALITY = ("spread_ratio", "spread_correlation", "miscalibration", "raters", "f1_mean")


@torch.inference_mode()
def race_drivers(
    model: Model,  # The network
    cases: list[Prepared],  # Images
    members: int = 32,  # Per driver and image
    reference_members: int = 128,  # Of the long run, which has another seed
    rounds: int = 3,  # Runs that are timed
    seed: int = 0,  # Of the members
) -> (
    xr.Dataset
):  # Seconds for all members of one image; quality as in `benchmarks.frontier.UNITS`, mean over the images
    "Drivers of one network side by side."
    one_call = model.network.generator is not None
    found, denoisers = drivers(one_call), [Denoiser(model, case.image) for case in cases]
    runs = {name: lambda name=name: found[name](denoisers[0], model, range(members), seed) for name in found}
    seconds = seconds_table((), {(): interleaved(runs, rounds)}, DRIVERS, {}).rename(library="driver")
    long = {"members": reference_members, "seed": seed + 1, "keep": reference_members, "progress": False}
    judged = []
    for case, denoiser in zip(cases, denoisers):
        drawn = {
            name: gathered(model, denoiser, run(denoiser, model, range(members), seed)) for name, run in found.items()
        }
        drawn[REFERENCE] = ensemble(model, case.image, "reference", **long)
        judged.append(judge_case(side_by_side(drawn, case))[list(_QUALITY)])
    quality = xr.concat(judged, "case").mean("case", skipna=False).rename(method="driver")
    quality = quality.drop_vars("estimator", errors="ignore").reindex(driver=list(DRIVERS))
    return with_units(quality).assign(seconds=seconds).sel(driver=list(DRIVERS)[not one_call :])


@torch.inference_mode()
def finished_tiles(
    model: Model,  # The network
    image: np.ndarray,  # Prepared, shape (channel, row, column)
    method: Method,  # How, and with which seed for all tiles
    tile: int,  # Rows and columns of a tile
    overlap: int,  # Of neighbours, pixels
) -> torch.Tensor:  # Model units, (member, 1, row, column)
    "MONAI's sliding window around whole samplings: every tile is drawn by itself, and the results are averaged."
    numbers = count(0)

    def draw(windows: torch.Tensor) -> torch.Tensor:  # one tile; the members are its channels
        denoiser, first = Denoiser(model, windows[0].numpy(), tile=tile), next(numbers) * method.members
        return last(draw_members(denoiser, model, method, range(first, first + method.members))).transpose(0, 1)

    inferers = import_module("monai.inferers")
    inferer = inferers.SlidingWindowInferer((tile, tile), sw_batch_size=1, overlap=overlap / tile, mode="constant")
    return inferer(torch.from_numpy(image)[None], draw).transpose(0, 1)


TILINGS = ("one piece", "joint tiles", "MONAI's sliding window")


def _tilings(seconds: xr.DataArray, std: np.ndarray, tile: int, overlap: int, members: int) -> xr.Dataset:
    "Spread inside and outside the cross in which four tiles overlap."
    band = np.zeros(std.shape[1:], bool)
    band[tile - overlap : tile], band[:, tile - overlap : tile] = True, True
    about = {"units": "px", "long_name": "standard deviation of the distance"}
    data = {"seconds": seconds, "std": (("tiling", "row", "column"), std, about)}
    for name, part in (("spread_overlap", band), ("spread_elsewhere", ~band)):
        about = {"units": "1", "long_name": f"{name}, relative to one piece"}
        data[name] = ("tiling", std[:, part].mean(1) / std[0, part].mean(), about)
    return xr.Dataset(data, {"tiling": list(TILINGS)}, {"tile_px": tile, "overlap_px": overlap, "members": members})


@torch.inference_mode()
def race_tiles(
    model: Model,  # The network
    image: np.ndarray,  # Prepared, shape (channel, row, column), 2 * tile - overlap rows and columns
    method: Method,  # How, how many members and with which seed
    tile: int = 128,  # Rows and columns of a tile
    overlap: int = 32,  # Of neighbours, pixels
    rounds: int = 2,  # Runs that are timed
) -> xr.Dataset:  # Seconds; std maps; spread in the overlaps and elsewhere, relative to one piece
    "Tiles sampled jointly against finished tiles that are averaged, and against no tiles. ValueError for other sizes."
    shape, side, drawn = image.shape[1:], 2 * tile - overlap, {}
    if shape != (side, side):
        needed = f"2 x 2 tiles of {tile} px that overlap by {overlap} need {side} pixels a side"
        raise ValueError(f"The image has shape {shape}: {needed}.")

    def whole(name: str, **tiling: int) -> None:
        denoiser = Denoiser(model, image, **tiling)
        drawn[name] = last(draw_members(denoiser, model, method, range(method.members)))

    def averaged() -> None:
        drawn[TILINGS[2]] = finished_tiles(model, image, method, tile, overlap)

    runs = {
        TILINGS[0]: lambda: whole(TILINGS[0], tile=2 * tile),
        TILINGS[1]: lambda: whole(TILINGS[1], tile=tile, overlap=overlap),
    }
    seconds = interleaved(runs | ({TILINGS[2]: averaged} if library("MONAI") else {}), rounds)
    std, denoiser = np.full((3, *shape), np.nan, np.float32), Denoiser(model, image)
    for name, state in drawn.items():
        std[TILINGS.index(name)] = gathered(model, denoiser, state)["std"].values.round(2)
    table = seconds_table((), {(): seconds}, TILINGS, {}).rename(library="tiling")
    return _tilings(table, std, tile, overlap, method.members)
