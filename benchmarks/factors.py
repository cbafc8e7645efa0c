"The chain of factors between the naive loop and the ensemble that a user gets, one change at a time."

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import xarray as xr

from benchmarks.competitors import STATISTICS, interleaved
from benchmarks.plan import Plan, cores, slide
from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.diffusion.network import multiply_adds
from sdfdiff.diffusion.sampling import last
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.members import Denoiser, batch_size, draw_members, sample_batches
from sdfdiff.ensembles.method import METHODS, Method, method_of

PAPER = METHODS["paper-nuclei"]


class Plain:
    "A model that has read one image, called without any of our tricks: ScoreNetwork.forward. Stands in for a Denoiser."

    def __init__(
        self,
        model: Model,  # The model
        image: np.ndarray,  # Prepared, shape (channel, row, column), sides that the network can halve
        again: bool = False,  # Read the image again at every call
    ):
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
    denoiser: Denoiser | Plain,  # A model that has read an image
    model: Model,  # Its model
    method: Method,  # How, and with which seed
    members: int,  # How many
    batch: int = 1,  # Members in one call
) -> torch.Tensor:  # Model units, (member, 1, row, column)
    "A plain loop over batches of members."
    groups = [range(first, min(first + batch, members)) for first in range(0, members, batch)]
    return torch.cat([last(draw_members(denoiser, model, method, group)) for group in groups])


def _naive(plan: Plan) -> Model:
    "The weights as anybody would load them."
    model = load_model(plan.weights, dtype=torch.float32)
    model.network.to(memory_format=torch.contiguous_format)
    return model


def steps_of_chain(
    plan: Plan,  # How much
    model: Model,  # In the fast number format
    image: np.ndarray,  # Prepared, shape (channel, row, column)
) -> dict[str, tuple[Callable, float, Callable | None]]:  # By name: call, how often it is needed, what is done once
    "Settings from the naive loop to the whole ensemble, each with one change."
    members, workers, part = plan.members, cores(), min(plan.part, plan.members)
    some, paper = (method_of(one, members=members, seed=plan.seed) for one in ("default", PAPER))
    short, batch = replace(paper, steps=plan.steps), batch_size(Denoiser(model, image), members)
    slow, go = _naive(plan), one_by_one
    naive, once, fast = Plain(slow, image, again=True), Plain(slow, image), Plain(model, image)
    quiet = {"workers": workers, "progress": False}

    def at_once() -> None:
        deque(sample_batches(Denoiser(model, image), model, some, **quiet), maxlen=0)

    reads_slow, reads_fast = partial(Plain, slow, image), partial(Plain, model, image)
    in_one_call = replace(METHODS["fast"], members=members, seed=plan.seed)
    made_for_it = model.network.generator is not None
    return {
        "naive loop": (partial(go, naive, slow, short, 1), PAPER.calls / short.calls * members, None),
        "fewer calls": (partial(go, naive, slow, some, 1), members, None),
        "encoder once": (partial(go, once, slow, some, 1), members, reads_slow),
        "number format": (partial(go, fast, model, some, 1), members, reads_fast),
        "members in batches": (partial(go, fast, model, some, part, batch), members / part, reads_fast),
        "fused network": (lambda: go(Denoiser(model, image), model, some, part, batch), members / part, None),
        "workers": (at_once, 1, None),
        "the rest": (partial(ensemble, model, image, some, **quiet), 1, None),
    } | ({"one call": (partial(ensemble, model, image, in_one_call, **quiet), 1, None)} if made_for_it else {})


def other_settings(
    plan: Plan,  # How much
    model: Model,  # In the fast number format
    image: np.ndarray,  # Prepared, shape (channel, row, column)
) -> dict[str, tuple[Callable, float, None]]:  # As `steps_of_chain`
    "The paper's setting on our fast path, the naive loop with all cores, and the other qualities."
    part = min(plan.part, plan.members)

    def whole(method: str | Method, steps: int) -> tuple[Callable, float, None]:
        method = method_of(method, members=part, seed=plan.seed)
        short = replace(method, steps=min(steps, method.steps))
        call = partial(ensemble, model, image, short, workers=cores(), progress=False)
        return call, method.calls / short.calls * plan.members / part, None

    naive, short = Plain(slow := _naive(plan), image, again=True), replace(PAPER, steps=1, seed=plan.seed)

    def all_cores() -> None:
        torch.set_num_threads(cores())
        try:
            one_by_one(naive, slow, short, 1)
        finally:
            torch.set_num_threads(1)

    return {
        "naive loop, all cores in each call": (all_cores, PAPER.calls / short.calls * plan.members, None),
        "paper's setting, our fast path": whole(PAPER, plan.steps),
        "draft": whole("draft", 99),
        "reference": whole("reference", 4 * plan.steps),
    }


def chain(
    plan: Plan,  # How much
    model: Model,  # In the fast number format
) -> xr.Dataset:  # Seconds and factor of each step, the share of the work that was timed; other settings
    "Time everything between the naive loop and the ensemble, taking turns."
    image = slide(model, plan.side)
    found, others = steps_of_chain(plan, model, image), other_settings(plan, model, image)
    calls = {name: call for name, (call, _, _) in (found | others).items()}
    calls |= {(name,): once for name, (_, _, once) in found.items() if once}
    times = interleaved(calls, plan.rounds)
    seconds = {
        name: np.array(times[name]) * often + np.array(times.get((name,), 0.0))
        for name, (_, often, _) in (found | others).items()
    }
    along = np.stack([seconds[name] for name in found])
    factor = np.concatenate([np.ones((1, 2)), along[:-1] / along[1:]])
    share = {name: 1 / often for name, (_, often, _) in (found | others).items()}
    whole = {"units": "s", "long_name": "wall time of the whole ensemble"}
    ratio = {"units": "1", "long_name": "time of the step before, relative to this one"}
    timed = {"units": "1", "long_name": "part of the work that was timed; the rest is extrapolated"}
    beside = np.stack([seconds[name] for name in others])
    data = {
        "chain_seconds": (("step", "statistic"), along, whole),
        "chain_factor": (("step", "statistic"), factor, ratio),
        "chain_timed": ("step", [share[name] for name in found], timed),
        "setting_seconds": (("setting", "statistic"), beside, whole),
        "setting_timed": ("setting", [share[name] for name in others], timed),
    }
    work = {f"operations_{name}": 2 * number for name, number in multiply_adds(model.network, image.shape[1:]).items()}
    return xr.Dataset(data, {"step": list(found), "setting": list(others), "statistic": list(STATISTICS)}, work)
