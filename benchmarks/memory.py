"Peak memory and time of ensembles that are drawn in a process of their own."

import json
import os
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import numpy as np
import xarray as xr

from benchmarks.plan import Plan, one_thread, slide
from benchmarks.resident import resident
from sdfdiff.diffusion.model import load_model
from sdfdiff.ensembles.collection import ensemble

_ROOT = Path(__file__).resolve().parents[1]  # Of the checkout, where `benchmarks` is found


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


def alone(
    weights: str,  # Name or file
    side: int,  # Rows and columns of the image
    members: int,  # How many, one of them kept
    quality: str = "default",  # Name of a method
    seed: int = 0,  # Of the members
) -> dict[str, float]:  # seconds; before and peak: bytes
    "One ensemble in a process of its own, one thread. RuntimeError, with the process's last words, if it fails."
    given = f"{str(weights)!r}, {side}, {members}, {quality!r}, {seed}"
    code = f"import json\nfrom benchmarks.memory import draw_alone\nprint(json.dumps(draw_alone({given})))"
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    if done.returncode:
        what = f"An ensemble of {members} members, {side} x {side} px"
        raise RuntimeError(f"{what}, failed in its own process: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_memory(
    plan: Plan,  # How much
) -> xr.Dataset:  # Peak memory against members and against the image's side; seconds of large images
    "Peak memory of processes that draw one ensemble each."
    many = [alone(plan.weights, plan.side, count, "draft", plan.seed) for count in plan.counts]
    large = [alone(plan.weights, side, 1, "default", plan.seed) for side in plan.sides]
    data = {
        f"{name}_{what}": (dimension, np.array([one[what] for one in rows], float) / 2**20, {"units": "MiB"})
        for name, dimension, rows in (("members", "members", many), ("large", "side", large))
        for what in ("peak", "before")
    }
    about = {"units": "s", "long_name": "one member"}
    data["large_seconds"] = ("side", np.array([one["seconds"] for one in large], float), about)
    sides = ("side", np.array(plan.sides, int), {"units": "px"})
    return xr.Dataset(data, {"members": np.array(plan.counts, int), "side": sides})
