"A plain segmentation network, trained as most of them are, judged beside an ensemble where the truth is known."

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from sdfdiff import __version__
from sdfdiff.diffusion.model import Model
from sdfdiff.diffusion.network import Architecture, ScoreNetwork
from sdfdiff.diffusion.losses import Recipe, mask_loss
from sdfdiff.diffusion.training import train
from sdfdiff.ensembles.collection import ensemble, masks
from sdfdiff.images.synthetic import Tissue, tissue
from sdfdiff.images.training_data import TissueTrainingData, TrainingData
from sdfdiff.uncertainty.calibration import reliability
from sdfdiff.uncertainty.errors import auroc
from sdfdiff.uncertainty.fields import named
from sdfdiff.uncertainty.forecasts import energy_distance
from sdfdiff.uncertainty.metrics import counts, scores

# ---- the network and its training


def plain_network(
    seed: int,  # Of the starting weights
    width: int = 32,  # Channels at the finest level; 32: as the encoder of the shipped `tissue` weights
) -> ScoreNetwork:
    "The image encoder of this package with its one-channel output, read as the logit of P(object)."
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        architecture = Architecture(image_channels=3, encoder_blocks=1, width=width, mean=0.0, deviation=1.0)
        return ScoreNetwork(architecture).to(memory_format=torch.channels_last)


def encoder_size(network: ScoreNetwork) -> int:
    "Numbers that the plain network learns: those of the encoder and of its output."
    return sum(parameter.numel() for parameter in network.encoders[0].parameters())


def train_plain(
    network: ScoreNetwork,  # Changed in place
    data: TrainingData | TissueTrainingData,  # Anything that draws images and distances (px)
    steps: int,  # Optimiser steps
    batch: int = 16,  # Images per step
    dice: float = 1.0,  # Weight of the Dice part of the loss
    learning_rate: float = 1e-3,  # Highest; with `decay` it falls to zero as a cosine
    decay: bool = True,  # False: a constant rate, and the weights as they are instead of their average
    seed: int = 0,  # Of the crops
) -> Iterator[ScoreNetwork]:  # After each step the network to use: its moving average if `decay`
    """Train on masks: what the distance says is at most half a pixel outside is object.

    The stored studies were made by an earlier loop, whose moving average began one step later: their numbers differ a
    little from what this one gives. Without `decay` both give the same weights.
    """
    recipe = Recipe(steps=steps, batch=batch, learning_rate=learning_rate, decay=decay, average=0.99, seed=seed)

    def objective(network, images, distances, generator):
        images = images.contiguous(memory_format=torch.channels_last)
        return mask_loss(network.encode(images).initial_estimate, (distances <= recipe.edge).float(), dice)

    for step in train(network, data, recipe, dtype=torch.float32, objective=objective):
        yield step.average if decay else network


@torch.inference_mode()
def probabilities(
    network: ScoreNetwork,  # A plain network
    images: np.ndarray,  # In [0, 1], shape (image, row, column, 3)
) -> np.ndarray:  # P(object), float32, shape (image, row, column)
    "One look at each image."
    fields = torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, -1, 1)))
    return torch.cat([network.encode(one).initial_estimate.sigmoid()[:, 0] for one in fields.split(16)]).numpy()


# ---- what is compared


@dataclass(frozen=True)
class PlainPlan:
    "How much is trained and judged; stored with the numbers."

    steps: int = 500  # Of each plain network, of 16 fresh scenes each
    width: int = 32  # Channels at the finest level
    scenes: int = 24  # Held out, 64x64 px
    first_scene: int = 2000  # Seed of the first of them
    members: int = 32  # Of the ensemble
    raters: int = 8  # Of each scene, the truths
    masks: int = 32  # Drawn from each distribution, and raters that they are compared with
    sparse: float = 0.0008  # Attempted nuclei per square pixel of the scenes for the rules of a total miss
    weights: str = "tissue"  # Of the ensemble
    seed: int = 0  # Of weights, crops and members


QUICK = PlainPlan(steps=3, width=8, scenes=2, members=4, raters=3, masks=4)  # To see whether it works


LOSSES = {"plain network": 1.0, "plain, cross-entropy alone": 0.0}  # Name: weight of the Dice part
THRESHOLDS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999, 0.9997, 0.9999, 0.99999)  # Of P, for the two rules
SAMPLED = "plain, cross-entropy alone"  # Whose probabilities are made into masks: the better of the two
UNITS = {
    "f1_rater": ("1", "F1 of the mask, mean over the scene's raters"),
    "f1_majority": ("1", "F1 of the mask against the exact majority, P(object) >= 1/2"),
    "gap": ("1", "mean absolute difference of P(object) from the exact probability"),
    "auroc": ("1", "AUROC of finding the mask's wrong pixels, mean over the raters"),
    "area_std": ("px²", "standard deviation of the area"),
    "area_crps": ("px²", "fair CRPS of the area, mean over raters"),
    "ged": ("1", "GED² to raters, U-statistic"),
    "disagreement": ("1", "p (1 - p), mean over the pixels; of members without bias"),
    "torn": ("1", "share of uncertain nuclei that a mask holds by a part, 20 to 80 % of their inner pixels"),
}


def raters_of(scene: Tissue, seed: int, count: int, stream: int = 0) -> np.ndarray:
    "Masks of simulated raters, (rater, row, column); another stream has other raters."
    return np.stack([scene.rate(np.random.default_rng((seed, stream, k))) > 0 for k in range(count)])


def independent_pixels(probability: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    "Masks in which each pixel is drawn for itself, (mask, row, column)."
    return generator.random((count, *probability.shape)) < probability


def one_threshold(probability: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    "Masks in which one random threshold serves all pixels: each is a level set of P, (mask, row, column)."
    level = (np.arange(count) + generator.random(count)) / count
    return probability > generator.permutation(level)[:, None, None]


def area_scores(drawn: np.ndarray, truths: np.ndarray) -> tuple[float, float]:
    "Standard deviation of the areas of some masks, and their fair CRPS against other masks' areas, both px²."
    area, true = (one.sum((1, 2)).astype(float) for one in (drawn, truths))
    apart = np.abs(area[:, None] - area).sum() / (len(area) * (len(area) - 1))
    return area.std(ddof=1), np.abs(area[:, None] - true).mean() - apart / 2


def torn_share(drawn: np.ndarray, scene: Tissue) -> float:
    "Share of (mask, uncertain nucleus) pairs in which 20 to 80 % of the inner pixels are object; NaN without any."
    found = []
    for nucleus, corner, distance in zip(scene.nuclei, scene.corners, scene.distances):
        inside = np.argwhere(distance < -1.5) + corner
        inside = inside[((inside >= 0) & (inside < scene.image.shape[:2])).all(1)]
        if 0.1 < nucleus.accepted < 0.9 and len(inside) >= 12:
            covered = drawn[:, inside[:, 0], inside[:, 1]].mean(1)
            found.append(((covered > 0.2) & (covered < 0.8)).mean())
    return float(np.mean(found)) if found else math.nan


def _entropy_like(probability: np.ndarray) -> np.ndarray:
    "A map in the order of the entropy of a mask with these probabilities."
    return -np.abs(probability - 0.5)


def judge_masks(
    answers: dict[str, tuple],  # Name: mask, P(object) or None, map of uncertainty; each (row, column)
    exact: np.ndarray,  # Exact P(object)
    raters: np.ndarray,  # Masks (rater, row, column)
    bins: int,  # Of the reliability tables
) -> xr.Dataset:  # f1_rater, f1_majority, gap, auroc (method); pixels, forecast, ... (method, bin)
    "Each answer against the raters and against the exact probability."
    found, tables = {name: [] for name in ("f1_rater", "f1_majority", "gap", "auroc")}, []
    for mask, probability, uncertainty in answers.values():
        found["f1_rater"].append(scores(mask, raters)["f1"].mean())
        found["f1_majority"].append(scores(mask, exact >= 0.5)["f1"])
        found["gap"].append(math.nan if probability is None else np.abs(probability - exact).mean())
        wrong = named(raters != mask, "rater")
        many = named(np.broadcast_to(uncertainty, raters.shape), "rater")
        found["auroc"].append(float(auroc(many, wrong).mean(skipna=True)))
        p = named(np.broadcast_to(mask if probability is None else probability, raters.shape).astype(float), "rater")
        table = reliability(p, named(raters, "rater"), bins).sum("rater")
        tables.append(table.where(probability is not None))
    data = xr.Dataset({name: ("method", np.array(values, float)) for name, values in found.items()})
    return data.merge(xr.concat(tables, "method")).assign_coords(method=list(answers))


def judge_distributions(
    drawn: dict[str, np.ndarray],  # Name: masks (mask, row, column)
    scene: Tissue,  # Their scene
    raters: np.ndarray,  # Masks of other raters (mask, row, column)
) -> xr.Dataset:  # area_std, area_crps, ged, torn (distribution)
    "What is asked of whole masks: does their area vary as the raters' does, do objects come and go as wholes?"
    rows = []
    for masks_ in drawn.values():
        ged = energy_distance(named(masks_, "member"), named(raters, "rater"), estimator="u")
        rows.append([*area_scores(masks_, raters), float(ged), torn_share(masks_, scene)])
    names = ("area_std", "area_crps", "ged", "torn")
    data = {name: ("distribution", np.array(column)) for name, column in zip(names, zip(*rows))}
    return xr.Dataset(data, {"distribution": list(drawn)})


def judge_scene(
    seed: int,  # Of the scene
    networks: dict[str, ScoreNetwork],  # Plain networks, by name
    model: Model,  # Of the ensemble
    plan: PlainPlan,  # How much
) -> tuple[xr.Dataset, dict[str, np.ndarray]]:  # Numbers; and "map" and "masks", to be shown
    "One held-out scene: every answer, and every distribution."
    scene = tissue(seed)
    exact, truths = scene.probability(), raters_of(scene, seed, plan.raters)
    generator = np.random.default_rng((seed, plan.seed))
    image = np.moveaxis(scene.image, -1, 0)
    drawn = ensemble(model, image, members=plan.members, seed=plan.seed, progress=False, workers=1)
    share, edge = drawn["probability"].values, drawn.attrs["threshold_px"]
    estimate, single = drawn["initial_estimate"].values, drawn["distance"].values <= edge
    both = masks(drawn)
    plain = {name: probabilities(one, scene.image[None])[0] for name, one in networks.items()}
    answers = {name: (p >= 0.5, p, _entropy_like(p)) for name, p in plain.items()}
    answers |= {
        "ensemble": (both["majority"], share, _entropy_like(share)),
        "ensemble, mask of the mean": (both["mmse"], share, _entropy_like(share)),
        "initial estimate": (estimate <= edge, None, -np.abs(estimate - edge)),
        "one member": (single[0], None, np.zeros_like(share)),
        "exact probability": (exact >= 0.5, exact, _entropy_like(exact)),
    }
    honest = plain[SAMPLED]
    distributions = {
        "ensemble": single,
        "plain, pixels independent": independent_pixels(honest, plan.masks, generator),
        "plain, one threshold": one_threshold(honest, plan.masks, generator),
        "other raters": raters_of(scene, seed, plan.masks, stream=1),
    }
    found = judge_masks(answers, exact, truths, plan.members)
    found = found.merge(judge_distributions(distributions, scene, raters_of(scene, seed, plan.masks, stream=2)))
    maps = plain | {"ensemble": share, "exact probability": exact}
    spread = np.array([(p * (1 - p)).mean() for p in maps.values()])
    spread[list(maps).index("ensemble")] *= plan.members / (plan.members - 1)
    found["disagreement"] = "map", spread
    found = found.assign_coords(map=list(maps))
    return found, {"map": np.stack(list(maps.values())), "masks": np.stack([one[:4] for one in distributions.values()])}


def train_networks(
    plan: PlainPlan,  # How much
    progress: bool = True,  # Show progress bars
) -> dict[str, ScoreNetwork]:  # By the names of LOSSES
    "Plain networks that differ in their loss alone."
    networks = {}
    for name, dice in LOSSES.items():
        network = plain_network(plan.seed, plan.width)
        run = train_plain(network, TissueTrainingData(), plan.steps, dice=dice, seed=plan.seed)
        *_, networks[name] = tqdm(run, desc=name, total=plan.steps, unit="step", disable=not progress)
    return networks


def sparse_counts(
    network: ScoreNetwork,  # A plain network
    plan: PlainPlan,  # How much
) -> np.ndarray:  # Pixels (threshold, case, 3): true positive, false positive, false negative
    "Scenes with few nuclei, one rater each, at rising thresholds of P(object): at high ones nothing is object."
    seeds = [plan.first_scene + k for k in range(plan.scenes)]
    scenes = [tissue(seed, density=plan.sparse) for seed in seeds]
    p = probabilities(network, np.stack([scene.image for scene in scenes]))
    truth = np.stack([raters_of(scene, seed, 1)[0] for seed, scene in zip(seeds, scenes)])
    return np.stack([counts(p > level, truth) for level in THRESHOLDS])


def judge_networks(
    networks: dict[str, ScoreNetwork],  # From `train_networks`
    model: Model,  # Of the ensemble
    plan: PlainPlan,  # How much
    progress: bool = True,  # Show a progress bar
) -> xr.Dataset:  # Dimensions case, method, bin, distribution, map; maps and masks of the first scene
    "Plain networks and the ensemble on the same held-out scenes."
    seeds = [plan.first_scene + k for k in range(plan.scenes)]
    rows, shown = [], None
    for seed in tqdm(seeds, desc="judging", unit="scene", disable=not progress):
        found, fields = judge_scene(seed, networks, model, plan)
        rows, shown = [*rows, found], shown or fields
    study = xr.concat(rows, "case").assign_coords(case=[f"scene {seed}" for seed in seeds])
    study["example_map"] = ("map", "row", "column"), shown["map"].astype(np.float32)
    study["example_masks"] = ("distribution", "example", "row", "column"), shown["masks"]
    about = {"units": "1", "long_name": "pixels of scenes with few nuclei"}
    study["sparse_counts"] = ("threshold", "case", "count"), sparse_counts(networks[SAMPLED], plan), about
    study = study.assign_coords(threshold=list(THRESHOLDS), count=["true_positive", "false_positive", "false_negative"])
    for name, (unit, meaning) in UNITS.items():
        study[name].attrs = {"units": unit, "long_name": meaning}
    return study.assign_attrs(
        title="sdfdiff plain network",
        plan=json.dumps(asdict(plan)),
        weights_checksum=model.about.get("checksum", "none"),
        plain_parameters=encoder_size(next(iter(networks.values()))),
        sdfdiff_version=__version__,
        torch_version=str(torch.__version__),
    )
