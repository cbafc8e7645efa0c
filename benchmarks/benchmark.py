"""A factor of a thousand is a product of small ones, and each of them can be measured by itself."""

import json
import os
import platform
import subprocess
import sys
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from benchmarks.competitors import STATISTICS, interleaved, race_distances, race_drivers, race_tiles, versions
from benchmarks.frontier import examples, judge
from sdfdiff.ensembles.method import Method
from sdfdiff.ensembles.method import METHODS, method_of
from sdfdiff import __version__
from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.diffusion.network import multiply_adds
from sdfdiff.diffusion.sampling import last
from sdfdiff.ensembles.collection import described, ensemble, plain
from sdfdiff.ensembles.members import Denoiser, batch_size, draw_members, sample_batches
from sdfdiff.images.preparation import prepare_image


@dataclass(frozen=True)
class Plan:
    "How much is measured; stored with the result."

    weights: str = "nuclei"  # For speed and memory: one of the shipped ones, or a file
    scenes: str = "tissue"  # Weights for quality, on synthetic tissue whose posterior is known
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
def one_thread():
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

    preparation = replace(
        model.preparation,
        size=None,
        scale=1.0,
        stain="haematoxylin" if model.preparation.stain == "vahadane" else "none",
    )
    image = prepare_image(immunohistochemistry().astype(np.float32) / 255, preparation)
    margin = [max(0, (length - side) // 2) for length in image.shape[1:]]
    image = image[:, margin[0] : margin[0] + side, margin[1] : margin[1] + side]
    return np.pad(image, [(0, 0), *((0, side - length) for length in image.shape[1:])], mode="symmetric")


def machine() -> dict[str, str | int]:  # Attributes
    "What the numbers depend on besides the code."
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
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


class Plain:
    "A model that has read one image, called without any of our tricks: ScoreNetwork.forward."

    # again: the image is read again at every call. Stands in for a Denoiser
    def __init__(self, model: Model, image: np.ndarray, again: bool = False):
        self.network, self.again, self.shape = model.network, again, image.shape[1:]
        self.canvas, self.image = self.shape, torch.from_numpy(image)[None]
        with torch.inference_mode():
            self.features = self.network.encode(self.image)
        self.initial_estimate = self.features.initial_estimate

    def __call__(self, noisy: torch.Tensor, noise_level: torch.Tensor) -> torch.Tensor:
        features = self.network.encode(self.image) if self.again else self.features
        return self.network(noisy, noise_level, features)


@torch.inference_mode()
def one_by_one(
    denoiser,  # A Denoiser or a Plain
    model: Model,  # Its model
    sampling: Method,  # How
    members: int,  # How many
    batch: int = 1,  # Members in one call
    seed: int = 0,  # Of the members
) -> torch.Tensor:  # Model units, (member, 1, row, column)
    "A plain loop over batches of members."
    groups = [range(first, min(first + batch, members)) for first in range(0, members, batch)]
    return torch.cat([last(draw_members(denoiser, model, replace(sampling, seed=seed), group)) for group in groups])


def _naive(plan: Plan) -> Model:
    "The weights as anybody would load them."
    model = load_model(plan.weights, dtype=torch.float32)
    model.network.to(memory_format=torch.contiguous_format)
    return model


def steps_of_chain(
    plan: Plan, model: Model, image: np.ndarray
) -> dict[str, tuple]:  # By name: call, how often it is needed, and what is done once
    "Settings from the naive loop to the whole ensemble, each with one change."
    slow, some, members, workers = _naive(plan), method_of("default"), plan.members, cores()
    short = replace(METHODS["paper-nuclei"], steps=plan.steps)
    batch, part = batch_size(Denoiser(model, image), members), min(plan.part, plan.members)
    go = partial(one_by_one, seed=plan.seed)
    naive, once, fast = Plain(slow, image, again=True), Plain(slow, image), Plain(model, image)

    def at_once():
        deque(
            sample_batches(
                Denoiser(model, image),
                model,
                replace(some, members=members, seed=plan.seed),
                workers=workers,
                progress=False,
            ),
            maxlen=0,
        )

    return {
        "naive loop": (partial(go, naive, slow, short, 1), METHODS["paper-nuclei"].calls / short.calls * members, None),
        "fewer calls": (partial(go, naive, slow, some, 1), members, None),
        "encoder once": (partial(go, once, slow, some, 1), members, partial(Plain, slow, image)),
        "number format": (partial(go, fast, model, some, 1), members, partial(Plain, model, image)),
        "members in batches": (
            partial(go, fast, model, some, part, batch),
            members / part,
            partial(Plain, model, image),
        ),
        "fused network": (lambda: go(Denoiser(model, image), model, some, part, batch), members / part, None),
        "workers": (at_once, 1, None),
        "the rest": (
            partial(ensemble, model, image, members, seed=plan.seed, workers=workers, progress=False),
            1,
            None,
        ),
    }


def other_settings(plan: Plan, model: Model, image: np.ndarray) -> dict[str, tuple]:  # As `steps_of_chain`
    "The paper's setting on our fast path, the naive loop with all cores, and the other qualities."

    def whole(sampling, steps):
        short = replace(sampling, steps=min(steps, sampling.steps))
        return (
            partial(
                ensemble, model, image, min(plan.part, plan.members), short, plan.seed, workers=cores(), progress=False
            ),
            sampling.calls / short.calls * plan.members / min(plan.part, plan.members),
            None,
        )

    naive = Plain(slow := _naive(plan), image, again=True)

    def all_cores():
        torch.set_num_threads(cores())
        try:
            one_by_one(naive, slow, replace(METHODS["paper-nuclei"], steps=1), 1, seed=plan.seed)
        finally:
            torch.set_num_threads(1)

    return {
        "naive loop, all cores in each call": (all_cores, METHODS["paper-nuclei"].calls / 3 * plan.members, None),
        "paper's setting, our fast path": whole(METHODS["paper-nuclei"], plan.steps),
        "draft": whole(method_of("draft"), 99),
        "reference": whole(method_of("reference"), 4 * plan.steps),
    }


def chain(
    plan: Plan,  # How much
    model: Model,  # In the fast number format
) -> xr.Dataset:  # Seconds and factor of each step, the share of the work that was timed; other settings
    "Time everything between the naive loop and the ensemble, taking turns."
    image = slide(model, plan.side)
    found, others = steps_of_chain(plan, model, image), other_settings(plan, model, image)
    calls = {name: call for name, (call, _, _) in (found | others).items()} | {
        (name,): once for name, (_, _, once) in found.items() if once
    }
    times = interleaved(calls, plan.rounds)
    seconds = {
        name: np.array(times[name]) * often + np.array(times.get((name,), 0.0))
        for name, (_, often, _) in (found | others).items()
    }
    along = np.stack([seconds[name] for name in found])
    factor = np.concatenate([np.ones((1, 2)), along[:-1] / along[1:]])

    def share(rows):
        return [1 / often for _, often, _ in rows.values()]

    data = {
        "chain_seconds": (("step", "statistic"), along, {"units": "s", "long_name": "wall time of the whole ensemble"}),
        "chain_factor": (
            ("step", "statistic"),
            factor,
            {"units": "1", "long_name": "time of the step before, relative to this one"},
        ),
        "chain_timed": (
            "step",
            share(found),
            {"units": "1", "long_name": "part of the work that was timed; the rest is extrapolated"},
        ),
        "setting_seconds": (("setting", "statistic"), np.stack([seconds[name] for name in others]), {"units": "s"}),
        "setting_timed": ("setting", share(others), {"units": "1"}),
    }
    work = {f"operations_{name}": 2 * number for name, number in multiply_adds(model.network, image.shape[1:]).items()}
    return xr.Dataset(data, {"step": list(found), "setting": list(others), "statistic": list(STATISTICS)}, work)


def resident(
    which: str = "VmHWM",  # "VmHWM": at its peak; "VmRSS": now
) -> int:  # Bytes
    "Memory of this process; without /proc the peak, wherever it came from."
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if line.startswith(which))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def draw_alone(weights: str, side: int, members: int, quality: str, seed: int) -> dict[str, float]:
    "Seconds of one ensemble in this process, its memory before and its peak; see `alone`."
    with one_thread():
        model = load_model(weights)
        ensemble(model, slide(model, 128), "draft", members=1, keep=1, workers=1, progress=False)  # warm up
        image = slide(model, side)
        before, start = resident("VmRSS"), perf_counter()
        ensemble(model, image, quality, members=members, seed=seed, keep=1, workers=1, progress=False)
    return {"seconds": perf_counter() - start, "before": before, "peak": resident()}


def alone(
    weights: str,  # Which
    side: int,  # Rows and columns of the image
    members: int,  # How many, one of them kept
    quality: str = "default",  # How
    seed: int = 0,  # Of the members
) -> dict[str, float]:  # seconds; before and peak: bytes
    "One ensemble in a process of its own, one thread."
    code = f"import json, sdfdiff.benchmark as b; print(json.dumps(b.draw_alone({str(weights)!r}, {side}, {members}, {quality!r}, {seed})))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        raise RuntimeError(
            f"An ensemble of {members} members, {side} x {side} px, failed in its own process: {done.stderr[-500:]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def memory(
    plan: Plan,
) -> xr.Dataset:  # Peak memory against members and against the image's side; seconds of large images
    "Peak memory of processes that draw one ensemble each."
    many = [alone(plan.weights, plan.side, count, "draft", plan.seed) for count in plan.counts]
    large = [alone(plan.weights, side, 1, "default", plan.seed) for side in plan.sides]
    data = {
        "members_peak": ("members", [one["peak"] for one in many]),
        "members_before": ("members", [one["before"] for one in many]),
        "large_peak": ("side", [one["peak"] for one in large]),
        "large_before": ("side", [one["before"] for one in large]),
    }
    data = {
        name: (dimension, np.array(values, float) / 2**20, {"units": "MiB"})
        for name, (dimension, values) in data.items()
    }
    data["large_seconds"] = (
        "side",
        np.array([one["seconds"] for one in large], float),
        {"units": "s", "long_name": "one member"},
    )
    return xr.Dataset(
        data, {"members": np.array(plan.counts, int), "side": ("side", np.array(plan.sides, int), {"units": "px"})}
    )


def precision(
    plan: Plan,
) -> xr.Dataset:  # By case: difference of F1, ratio and correlation of the spread, bfloat16 against float32
    "The same members in two number formats, on scenes whose posterior is known."
    exact, fast = (load_model(plan.scenes, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    rows, cases = [], examples("tissue", fast, plan.cases)
    for case in cases:
        drawn = [
            ensemble(model, case.image, members=plan.drawn, seed=plan.seed, keep=plan.drawn, progress=False)
            for model in (fast, exact)
        ]
        one, other = judge(*drawn, case), judge(drawn[1], drawn[1], case)
        rows.append(
            [
                one["f1_mean"] - other["f1_mean"],
                one["f1_one"] - other["f1_one"],
                one["spread_ratio"],
                one["spread_correlation"],
            ]
        )
    names = ("f1_mean", "f1_one", "spread_ratio", "spread_correlation")
    data = {f"precision_{name}": ("case", values, {"units": "1"}) for name, values in zip(names, np.array(rows).T)}
    return xr.Dataset(data, {"case": [case.name for case in cases]})


def benchmark(
    quick: bool = False,  # A minute instead of ten, with fewer repeats and sizes
    progress: bool = True,  # Show a progress bar
    plan: Plan | None = None,  # One's own amount; None: FULL or QUICK
) -> xr.Dataset:  # Variables by part: chain_, setting_, driver_, tiling_, large_, distance_, members_, precision_
    "Everything side by side in one run: see notebook 34 for what comes out."
    plan = plan or (QUICK if quick else FULL)
    model = load_model(plan.weights)
    about = {
        "title": "sdfdiff benchmark",
        "quick": int(quick),
        "number_format": str(next(model.network.parameters()).dtype).removeprefix("torch."),
    }
    about |= {f"version_of_{name}": found for name, found in versions().items()} | machine() | described(model)
    about |= {
        f"plan_{key}": list(value) if isinstance(value, tuple) else value for key, value in plain(asdict(plan)).items()
    }
    about |= {f"default_{key}": value for key, value in plain(asdict(method_of("default"))).items()}
    parts = {
        "chain of factors": lambda: chain(plan, model),
        "drivers": lambda: _drivers(plan),
        "tiles": lambda: _tiles(plan, model),
        "signed distance": lambda: _distances(plan),
        "precision": lambda: precision(plan),
        "memory": lambda: memory(plan),
    }
    found, spent = [], {}
    with one_thread(), tqdm(parts.items(), unit="part", disable=not progress) as bar:
        for name, part in bar:
            bar.set_description(name)
            start = perf_counter()
            found.append(part())
            spent[name] = perf_counter() - start
    whole = xr.merge(found, combine_attrs="drop_conflicts", join="outer", compat="no_conflicts").assign_attrs(about)
    return whole.assign_coords(part=list(spent)).assign(
        part_seconds=("part", list(spent.values()), {"units": "s", "long_name": "time of the benchmark itself"})
    )


def _prefixed(dataset: xr.Dataset, prefix: str) -> xr.Dataset:
    return dataset.rename({name: f"{prefix}_{name}" for name in dataset.data_vars}).drop_attrs(deep=False)


def _drivers(plan: Plan) -> xr.Dataset:
    model = load_model(plan.scenes)
    return _prefixed(
        race_drivers(
            model,
            examples("tissue", model, plan.cases),
            plan.drawn,
            plan.reference,
            max(1, plan.rounds // 2),
            plan.seed,
        ),
        "driver",
    )


def _tiles(plan: Plan, model: Model) -> xr.Dataset:
    overlap = plan.tile // 4
    image = slide(model, 2 * plan.tile - overlap)
    tiles = race_tiles(model, image, plan.drawn, plan.tile, overlap, min(2, plan.rounds), seed=plan.seed)
    return _prefixed(tiles.rename(row="tile_row", column="tile_column"), "tiling")


def _distances(plan: Plan) -> xr.Dataset:
    raced = race_distances(plan.sizes, plan.truncations, plan.batches, seconds=plan.seconds)
    return xr.Dataset({"distance_seconds": raced})
