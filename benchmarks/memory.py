"Peak memory and time of ensembles that are drawn in a process of their own."

from time import perf_counter

import numpy as np
import xarray as xr

from benchmarks.frontier import made_for_one_call
from benchmarks.plan import Plan, one_thread, slide
from benchmarks.resident import in_own_process, resident
from sdfdiff.diffusion.model import load_model
from sdfdiff.ensembles.collection import ensemble

DRAW = "benchmarks.memory.draw_alone"
LARGE = {"large": "default", "large_one_call": "fast"}  # Variables of large images: the method


def draw_alone(
    weights: str,  # Name or file
    side: int,  # Rows and columns of the image
    members: int,  # How many, one of them kept
    quality: str,  # Name of a method
    seed: int,  # Of the members
) -> dict[str, float]:  # seconds; before and peak: bytes
    "One ensemble in this process, which should have done nothing else; see `alone`."
    quiet = {"keep": 1, "workers": 1, "progress": False}
    with one_thread():
        model = load_model(weights)
        ensemble(model, slide(model, 128), "draft", members=1, **quiet)  # warm up
        image = slide(model, side)
        before, start = resident("VmRSS"), perf_counter()
        ensemble(model, image, quality, members=members, seed=seed, **quiet)
    return {"seconds": perf_counter() - start, "before": before, "peak": resident()}


def _of_processes(name: str, dimension: str, rows: list[dict[str, float]]) -> dict[str, tuple]:
    "Variables of the memory of some processes."
    return {
        f"{name}_{what}": (dimension, np.array([one[what] for one in rows], float) / 2**20, {"units": "MiB"})
        for what in ("peak", "before")
    }


def peak_memory(
    plan: Plan,  # How much
) -> xr.Dataset:  # Peak memory against members and against the image's side; seconds of large images
    "Peak memory of processes that draw one ensemble each."
    many = [in_own_process(DRAW, plan.weights, plan.side, count, "draft", plan.seed) for count in plan.counts]
    data = _of_processes("members", "members", many)
    for name, quality in LARGE.items():
        if quality != "fast" or made_for_one_call(plan.weights):
            large = [in_own_process(DRAW, plan.weights, side, 1, quality, plan.seed) for side in plan.sides]
            seconds = np.array([one["seconds"] for one in large], float)
            about = {"units": "s", "long_name": f"one member, method {quality}"}
            data |= _of_processes(name, "side", large) | {f"{name}_seconds": ("side", seconds, about)}
    sides = ("side", np.array(plan.sides, int), {"units": "px"})
    return xr.Dataset(data, {"members": np.array(plan.counts, int), "side": sides})
