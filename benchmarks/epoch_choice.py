"What a test score gains when the epoch is chosen on the test images, and when a total miss counts as perfect."

import json
from dataclasses import asdict, dataclass

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from benchmarks.plain_network import plain_network, probabilities, raters_of, train_plain
from sdfdiff.images.synthetic import tissue
from sdfdiff.images.training_data import Augmentation, TrainingData
from sdfdiff.uncertainty.metrics import counts

SETS = ("test", "validation", "fresh")


@dataclass(frozen=True)
class EpochPlan:
    "How much is trained and judged; stored with the numbers."

    runs: int = 6  # Trainings, each with scenes and weights of its own
    scenes: int = 24  # Training scenes of a run, 64x64 px, one rater each
    epochs: int = 40  # Passes over them
    every: int = 2  # Epochs between two checkpoints
    batch: int = 8  # Scenes per step
    width: int = 8  # Channels at the finest level
    images: tuple[int, int, int] = (14, 14, 28)  # Test, validation, fresh; MoNuSeg has 14 test images
    first_scene: int = 10_000  # Seed of the first scene; run k begins at first_scene + 1000 k
    dice: float = 0.0  # Weight of the Dice part of the loss


QUICK = EpochPlan(runs=2, scenes=4, epochs=2, every=1, width=8, images=(2, 2, 2))  # To see whether it works


def annotated(first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    "Images (scene, row, column, 3) and one rater's mask of each (scene, row, column)."
    scenes = [tissue(first + k) for k in range(count)]
    truths = [raters_of(scene, first + k, 1)[0] for k, scene in enumerate(scenes)]
    return np.stack([scene.image for scene in scenes]), np.stack(truths)


def checkpoint_counts(
    plan: EpochPlan,  # How much
    run: int,  # Which
) -> np.ndarray:  # int16 (checkpoint, image, 3): true positive, false positive, false negative; checkpoint 0: untrained
    "Train once at a constant rate, and count pixels at every checkpoint on all three sets."
    first = plan.first_scene + 1000 * run
    images, labels = annotated(first, plan.scenes)
    data = TrainingData.of(list(np.moveaxis(images, -1, 1)), list(labels.astype(np.int32)), images.shape[1])
    data.augmentation = Augmentation(quarter_turns=True)
    held_out, truth = annotated(first + plan.scenes, sum(plan.images))
    network = plain_network(run, plan.width)
    steps = -(-plan.scenes // plan.batch)
    found = [counts(probabilities(network, held_out) >= 0.5, truth)]
    training = train_plain(network, data, plan.epochs * steps, plan.batch, plan.dice, decay=False, seed=run)
    for step, kept in enumerate(training, start=1):
        if step % (steps * plan.every) == 0:
            found.append(counts(probabilities(kept, held_out) >= 0.5, truth))
    return np.stack(found).astype(np.int16)


def epoch_study(
    plan: EpochPlan,  # How much
    progress: bool = True,  # Show a progress bar
) -> xr.Dataset:  # checkpoint_counts, int16 (run, epoch, image, count)
    "All runs; which set an image belongs to stands beside it."
    runs = [checkpoint_counts(plan, run) for run in tqdm(range(plan.runs), desc="runs", disable=not progress)]
    about = {"units": "1", "long_name": "pixels"}
    where = np.repeat(SETS, plan.images)
    data = {"checkpoint_counts": (("run", "epoch", "image", "count"), np.stack(runs), about)}
    epochs = np.arange(runs[0].shape[0]) * plan.every
    names = ["true_positive", "false_positive", "false_negative"]
    coordinates = {"epoch": epochs, "set": ("image", where), "count": names}
    return xr.Dataset(data, coordinates, {"epoch_plan": json.dumps(asdict(plan))})
