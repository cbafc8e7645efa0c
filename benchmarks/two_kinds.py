"Aleatoric and epistemic uncertainty: what the raters disagree about, and what networks of few scenes disagree about."

import json
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from benchmarks.epoch_choice import annotated
from benchmarks.plain_network import plain_network, probabilities, train_plain
from sdfdiff import __version__
from sdfdiff.diffusion.model import Model
from sdfdiff.diffusion.network import ScoreNetwork
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.images.synthetic import tissue
from sdfdiff.images.training_data import Augmentation, TrainingData

LAWS = ("as trained", "darker", "another stain", "more noise")
EXAMPLES = [0, 2]  # Laws of which the first scene's maps are kept


@dataclass(frozen=True)
class KindsPlan:
    "How much is trained and judged; stored with the numbers."

    sizes: tuple[int, ...] = (8, 32, 128, 512)  # Training scenes, 64x64 px, one rater each
    sets: int = 4  # Sets of scenes of each size, which share no scene
    starts: int = 2  # Networks of each set: other starting weights, and the scenes in another order
    steps: int = 200  # Optimiser steps of each network, whatever the size
    batch: int = 8  # Scenes per step
    width: int = 16  # Channels at the finest level
    first_scene: int = 100_000  # Seed of the first training scene
    scenes: int = 12  # Held-out scenes
    first_held_out: int = 3000  # Seed of the first of them
    members: int = 16  # Of the shipped network's ensemble
    weights: str = "tissue"  # Of that ensemble
    seed: int = 0  # Of the members


QUICK = KindsPlan(sizes=(2, 4), sets=2, steps=2, width=8, scenes=2, members=3)  # To see whether it works


def seen(
    seed: int,  # Of the scene
    law: str,  # One of LAWS
) -> tuple[np.ndarray, np.ndarray]:  # Image (row, column, 3), exact P(object): the same under every law
    "A held-out scene, and what becomes of it on another slide: the nuclei and the raters stay, the colours change."
    scene = tissue(seed)
    image = {
        "as trained": scene.image,
        "darker": scene.image**2,  # twice as much stain
        "another stain": np.ascontiguousarray(scene.image[..., [2, 1, 0]]),  # red and blue exchanged
        "more noise": tissue(seed, noise=0.08).image,
    }[law]
    return image, scene.probability()


def trained(plan: KindsPlan, size: int, group: int, start: int) -> ScoreNetwork:
    "One network of one set of scenes: cross-entropy alone, a falling rate, flips and quarter turns."
    images, labels = annotated(plan.first_scene + 1000 * group, size)
    data = TrainingData.of(list(np.moveaxis(images, -1, 1)), list(labels.astype(np.int32)), images.shape[1])
    data.augmentation = Augmentation(quarter_turns=True)
    seed = 10 * group + start
    *_, kept = train_plain(plain_network(seed, plan.width), data, plan.steps, plan.batch, dice=0.0, seed=seed)
    return kept


def parts_of_variance(
    p: np.ndarray,  # P(object) of networks, shape (set, start, ...)
    exact: np.ndarray,  # Exact P(object), shape (...)
) -> dict[str, np.ndarray]:  # Each of shape (...)
    "Law of total variance, pixel by pixel: within networks, between them (without bias), and what is really wrong."
    sets, starts = p.shape[:2]
    own = p.var(1, ddof=1).mean(0)  # networks of the same scenes
    centre = p.mean(1)
    between = centre.var(0, ddof=1) + (1 - 1 / starts) * own  # two networks of different scenes: half their squared gap
    return {
        "exact": exact * (1 - exact),
        "within": (p * (1 - p)).mean((0, 1)),
        "between_starts": own,
        "between_sets": between,
        "error_one": ((p - exact) ** 2).mean((0, 1)),
        "error_mean": (p.mean((0, 1)) - exact) ** 2,
    }


UNITS = {
    "exact": "exact variance of a rater's pixel: aleatoric",
    "within": "p (1 - p), mean over the networks: what they say is aleatoric",
    "between_starts": "variance of p between networks of the same scenes",
    "between_sets": "variance of p between networks of different scenes: what one network cannot know",
    "error_one": "squared error of one network's p against the exact probability",
    "error_mean": "squared error of the mean p of all networks",
    "ensemble_within": "p (1 - p) of the members of one shipped network, without bias",
    "ensemble_error": "squared error of their p, less what the finite number of members adds",
}


def kinds_study(
    plan: KindsPlan,  # How much
    model: Model,  # One network, from which an ensemble is drawn
    progress: bool = True,  # Show progress bars
) -> xr.Dataset:  # Means over pixels, dims (law, size, case); maps of the first scene
    "Train all networks and judge them under every law, beside the ensemble of one network."
    seeds = [plan.first_held_out + k for k in range(plan.scenes)]
    held_out = {law: [np.stack(both) for both in zip(*(seen(seed, law) for seed in seeds))] for law in LAWS}
    exact = held_out[LAWS[0]][1]
    shape = (len(LAWS), len(plan.sizes), plan.sets, plan.starts, *exact.shape)
    p = np.zeros(shape, np.float32)
    todo = [*product(range(len(plan.sizes)), range(plan.sets), range(plan.starts))]
    for k, group, start in tqdm(todo, desc="networks", disable=not progress):
        network = trained(plan, plan.sizes[k], group, start)
        for row, law in enumerate(LAWS):
            p[row, k, group, start] = probabilities(network, held_out[law][0])
    parts = [[parts_of_variance(p[row, k], exact) for k in range(len(plan.sizes))] for row in range(len(LAWS))]
    found = {
        name: (("law", "size", "case"), np.array([[one[name].mean((1, 2)) for one in row] for row in parts]))
        for name in parts[0][0]
    }
    beside = [one_network(model, plan, held_out[law][0], exact, progress) for law in LAWS]
    for name in beside[0]:
        found[name] = ("law", "case"), np.array([one[name] for one in beside])
    study = xr.Dataset(found, {"law": list(LAWS), "size": list(plan.sizes), "case": [f"scene {one}" for one in seeds]})
    for name, meaning in UNITS.items():
        study[name].attrs = {"units": "1", "long_name": f"{meaning}, mean over the pixels"}
    shown = np.rint(255 * p[EXAMPLES, :, :, :, 0]).astype(np.uint8)
    about = {"units": "1/255", "long_name": "P(object) of every network in the first scene"}
    study["example_p"] = ("example_law", "size", "set", "start", "row", "column"), shown, about
    return study.assign_coords(example_law=[LAWS[k] for k in EXAMPLES]).assign_attrs(
        title="sdfdiff two kinds of uncertainty",
        plan=json.dumps(asdict(plan)),
        weights_checksum=model.about.get("checksum", "none"),
        sdfdiff_version=__version__,
    )


def one_network(
    model: Model,  # The network
    plan: KindsPlan,  # How much
    images: np.ndarray,  # Shape (scene, row, column, 3)
    exact: np.ndarray,  # Exact P(object), shape (scene, row, column)
    progress: bool = True,  # Show a progress bar
) -> dict[str, np.ndarray]:  # ensemble_within, ensemble_error, shape (scene,)
    "What the spread of one network's members says, and how wrong their share is."
    how = {"members": plan.members, "seed": plan.seed, "progress": False, "workers": 1}
    rows = []
    for image, truth in zip(tqdm(images, desc="ensembles", disable=not progress), exact):
        p = ensemble(model, np.moveaxis(image, -1, 0), **how)["probability"].values.astype(float)
        variance = p * (1 - p) * plan.members / (plan.members - 1)
        rows.append([variance.mean(), ((p - truth) ** 2 - variance / plan.members).mean()])
    return dict(zip(("ensemble_within", "ensemble_error"), np.array(rows).T))
