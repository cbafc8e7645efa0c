"""What do two choices of the training buy? `python -m benchmarks.ablations DIR data/ablations.nc` (20 minutes).

DIR holds monuseg/. Every arm learns for as many steps as fit into MINUTES of one core, with the training loop of the
package; arms differ in one choice only, and share the seeds of weights, crops and noise.

- members: a new generator learns on the answers of shipped encoders, which stay, with 2, 3 or 4 members per image;
- edges: an encoder learns P(object) of whole pixels (`hard`), or of the part of a pixel that is object (`parts`),
  from masks that are smaller in the network than they were drawn. Crops are turned and zoomed, tones stay as they are.

Judged on 24 scenes, and on the validation images; no test image is read. A finished arm lies in runs/ablations.
"""

import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from skimage.transform import resize_local_mean

from benchmarks.levers import QUANTITIES, SCENES, drawn, measured
from sdfdiff.diffusion.fitting import Setting, load_training_data, new_network, setting_of
from sdfdiff.diffusion.losses import Recipe, encoder_loss, mask_loss, one_call_loss
from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.diffusion.network import ScoreNetwork
from sdfdiff.diffusion.training import Step, train
from sdfdiff.files import read_dataset, write_dataset
from sdfdiff.images.cases import find_cases, hold_out, prepare_case, read_case
from sdfdiff.images.preparation import prepare_image, prepare_labels
from sdfdiff.images.synthetic import tissue
from sdfdiff.images.training_data import STRONG, TissueTrainingData, TrainingData, folds
from sdfdiff.study.plan import case_seed
from sdfdiff.uncertainty.errors import auroc
from sdfdiff.uncertainty.fields import bootstrap
from sdfdiff.uncertainty.metrics import scores

TITLE, MINUTES, SEEDS = "sdfdiff ablations", 1.5, {"members": 2, "edges": 1}  # Minutes of each arm
ARMS = {"members": ("2", "3", "4"), "edges": ("hard", "parts")}
PARTS = (("members", "tissue_fast", "tissue"), ("edges", "nuclei", "monuseg"))  # Choice, weights or setting, data set
SHOWN = {name: words for name, words in QUANTITIES.items() if name != "between"} | {
    "brier": ("1", "mean (P - truth)^2 of the encoder's P"),
    "brier_parts": ("1", "mean (P - part of the pixel that is object)^2"),
    "brier_mixed": ("1", "mean (P - truth)^2 of the pixels that are object in part"),
}


@dataclass(frozen=True, eq=False)
class Learner:
    "What the training loop needs for one arm."

    network: torch.nn.Module  # With random weights where it learns
    data: object  # Training data
    recipe: Recipe  # Its steps are not used
    objective: Callable  # The loss

    def trained(self, steps: int) -> Iterator[Step]:  # Of a copy of the network
        recipe = replace(self.recipe, steps=steps, encoder_steps=0)
        return train(copy.deepcopy(self.network), self.data, recipe, objective=self.objective)


def steps_of(
    arms: dict[str, Learner],  # Of one choice
    minutes: float,  # Of one core
    rounds: int = 4,  # The fastest counts: other programs make the others slower
) -> dict[str, int]:  # Steps that fit, by arm
    "Steps of all arms in turn are timed, so that all meet the same machine."
    best = dict.fromkeys(arms, np.inf)
    for name in rounds * [*arms]:
        times = [time.process_time() for _ in arms[name].trained(8)]
        best[name] = min(best[name], (times[6] - times[1]) / 5)  # the last step is a reading
    return {name: max(20, round(60 * minutes / seconds)) for name, seconds in best.items()}


class Alone(torch.nn.Module):
    "For the training loop, a network of one part: data and objective say which encoder reads."

    architecture = None

    def __init__(self, whole: ScoreNetwork):
        super().__init__()
        self.whole = whole

    @property
    def weight(self) -> torch.Tensor:
        return self.whole.weight

    @property
    def generator(self) -> torch.nn.Module:
        return self.whole.generator


class Turns:
    "Crops of patients that an encoder has not seen, of one encoder after the other."

    def __init__(self, data, encoders: int, divided: int):
        self.own = [own for _, own in folds(data, encoders, divided)]
        self.count = -1

    @property
    def which(self) -> int:  # Number of the encoder that has not seen what was drawn last
        return self.count % len(self.own)

    def draw(self, batch: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:  # As of TrainingData
        self.count += 1
        return self.own[self.which].draw(batch, generator)


def generator_of(
    members: int,  # Per image in the loss
    model: Model,  # Whose encoders are used
    data: TrainingData | TissueTrainingData,  # What they learned
    recipe: Recipe,  # With the seed
) -> Learner:
    "A generator with random weights; all else stays."
    recipe = replace(recipe, members=members)
    whole = model.network.architecture
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = ScoreNetwork(whole)
    kept = model.network.state_dict()
    network.load_state_dict({k: v if k.startswith("generator.") else kept[k] for k, v in network.state_dict().items()})
    turns = Turns(data, whole.encoders, recipe.folds)

    def objective(alone, images, distances, source):
        with torch.no_grad():
            said, features = alone.whole.answers(images, turns.which)
            features = features._replace(maps=alone.whole.condition(said))
        return one_call_loss(alone.whole, features, distances, recipe, source)

    return Learner(Alone(network), turns, recipe, objective)


def part_of_pixels(
    labels: np.ndarray,  # Integers, 0 is background, shape (row, column)
    shape: tuple[int, int],  # Rows and columns wanted
) -> np.ndarray:  # 0 to 1, float32: how much of each new pixel is object
    "Mean over the area that a new pixel covers."
    return resize_local_mean((labels > 0).astype(np.float32), shape, channel_axis=None).astype(np.float32)


def _with_parts(dataset: str, root: Path, setting: Setting) -> TrainingData:
    "Training data whose last channel is the part of each pixel that is object; tones do not change."
    fitted, _ = hold_out(find_cases(dataset, root, "train"), dataset)
    images, labels, groups = [], [], []
    for case in map(read_case, fitted):
        preparation = setting.preparation.at_microns(case.microns)
        image, label = prepare_image(case.image, preparation), prepare_labels(case.labels, preparation)
        images.append(np.concatenate([image, part_of_pixels(case.labels, label.shape)[None]]))
        labels.append(label if setting.instances else (label > 0).astype("int32"))
        groups.append(case.group)
    still = replace(STRONG, contrast=0.0, brightness=0.0, gamma=0.0, colour=0.0)
    return TrainingData.of(images, labels, setting.crop, still, setting.boundary, groups)


def encoder_of(
    target: str,  # "hard" or "parts"
    setting: Setting,  # Of the data set
    data: TrainingData,  # With parts as the last channel
    recipe: Recipe,  # With the seed
) -> Learner:
    "One encoder: it learns its distance as always, its P(object) on whole pixels or on parts of them."
    network = new_network(replace(setting.architecture, encoders=1, one_call=()), data, recipe)

    def objective(network, images, distances, source):
        _, features = network.answers(images[:, :-1])
        if target == "hard":
            return encoder_loss(network, features, distances, recipe)
        distance = encoder_loss(network, features._replace(probability=None), distances, recipe)
        return distance + mask_loss(features.probability.logit(1e-7), images[:, -1:].clamp(0, 1))

    return Learner(network, data, recipe, objective)


def judged_members(model: Model, dataset: str, root: Path | None) -> list[tuple[str, str, dict]]:
    "Name, patient and numbers of each image."
    scenes, found = [f"scene {seed}" for seed in SCENES], []
    for paths in find_cases(dataset, root, *(("all", scenes) if dataset == "tissue" else ("validation", None))):
        case = prepare_case(paths, model.preparation)
        row = measured(*drawn("one call", model, case.image, case_seed(0, paths.name)), case, model)
        spread = row.pop("areas")
        if dataset == "tissue":
            scene = tissue(int(paths.name.split()[-1]))
            raters = [(scene.rate(np.random.default_rng(k)) > 0).sum() for k in range(256)]
            row["area_spread"] = spread / np.std(raters, ddof=1)
        found.append((paths.name, case.group, row))
    return found


@torch.inference_mode()
def judged_edges(network: ScoreNetwork, dataset: str, root: Path) -> list[tuple[str, str, dict]]:
    "Name, patient and numbers of each validation image: of the encoder's P alone, padded as a network needs it."
    preparation, found = setting_of(dataset).preparation, []
    for paths in find_cases(dataset, root, "validation"):
        read = read_case(paths)
        case = prepare_case(read, preparation)
        rows, columns = case.truth.shape
        beyond = [(0, 0), (0, -rows % 16), (0, -columns % 16)]
        image = torch.from_numpy(np.pad(case.image, beyond, mode="reflect"))[None]
        p = network.answers(image)[1].probability[0, 0, :rows, :columns].double().numpy()
        truth, part = case.truth, part_of_pixels(read.labels, case.truth.shape)
        shown, mixed = p >= 0.5, (part > 0) & (part < 1)
        row = {"f1": float(scores(shown, truth)["f1"]), "auroc": float(auroc(-np.abs(p - 0.5), shown != truth))}
        row["brier"], row["brier_parts"] = np.square(p - truth).mean(), np.square(p - part).mean()
        found.append((paths.name, case.group, row | {"brier_mixed": np.square(p - truth)[mixed].mean()}))
    return found


def learners(choice: str, weights: str, dataset: str, root: Path | None, seed: int) -> dict[str, Learner]:
    "All arms of a choice, by name."
    setting = setting_of(dataset)
    recipe = replace(setting.recipe, seed=seed)
    if choice == "members":
        model = load_model(weights, dtype=torch.float32)
        data, _ = load_training_data(dataset, root, setting, progress=False)
        return {value: generator_of(int(value), model, data, recipe) for value in ARMS[choice]}
    data = _with_parts(dataset, root, setting)
    return {value: encoder_of(value, setting, data, recipe) for value in ARMS[choice]}


def judged(learner: Learner, steps: int, choice: str, weights: str, dataset: str, root: Path | None) -> xr.Dataset:
    "Train one arm and judge it; dims (case,)."
    start = time.process_time()
    *_, step = learner.trained(steps)
    spent = (time.process_time() - start) / 60
    if choice == "members":
        model = replace(load_model(weights, dtype=torch.float32), network=step.average.whole)
        rows = judged_members(model, dataset, root)
    else:
        rows = judged_edges(step.average, dataset, root)
    numbers = {name: ("case", [float(row.get(name, np.nan)) for *_, row in rows]) for name in SHOWN}
    coords = {"image": ("case", [name for name, *_ in rows]), "group": ("case", [group for _, group, _ in rows])}
    labels = {"choice": choice, "weights": weights, "steps": steps, "minutes": spent, "seed": learner.recipe.seed}
    return xr.Dataset(numbers, coords | {name: ("case", [one] * len(rows)) for name, one in labels.items()})


def main(root: str, out: str, minutes: str | float = MINUTES) -> None:
    kept, found = Path("runs/ablations"), []
    kept.mkdir(parents=True, exist_ok=True)
    for choice, weights, dataset in PARTS:
        folder, steps = None if dataset == "tissue" else Path(root, dataset), None
        for seed in range(SEEDS[choice]):
            files = {value: kept / f"{choice}-{weights}-{value}-{seed}.nc" for value in ARMS[choice]}
            missing = [value for value, file in files.items() if not file.exists()]
            arms = learners(choice, weights, dataset, folder, seed) if missing else {}
            if missing and steps is None:
                plan = kept / f"{choice}-{weights}.json"
                steps = json.loads(plan.read_text()) if plan.exists() else steps_of(arms, float(minutes))
                plan.write_text(json.dumps(steps))
            for value in missing:
                one = judged(arms[value], steps[value], choice, weights, dataset, folder)
                one = one.assign_coords(arm=("case", [value] * one.sizes["case"])).assign_attrs(title=TITLE)
                write_dataset(one, files[value])
                print(files[value].stem, flush=True)
            found += [read_dataset(file, TITLE) for file in files.values()]
    table = xr.concat(found, "case")
    for name, (unit, words) in SHOWN.items():
        table[name].attrs = {"units": unit, "long_name": words}
    command = "python -m benchmarks.ablations DIR data/ablations.nc"
    write_dataset(table.assign_attrs(title=TITLE, budget=float(minutes), command=command), Path(out), force=True)
    print(text(table))


def paired(
    table: xr.Dataset,  # From `main`
    choice: str,  # "members" or "edges"
    weights: str,  # A network of the table
    value: str,  # An arm
    first: str,  # The arm that it is compared with
    quantity: str,  # A name of SHOWN
) -> np.ndarray:  # Estimate, low and high end of the 95 % interval over patients and trainings
    "An arm less another, image by image and seed by seed."
    own = table.isel(case=(table["choice"].values == choice) & (table["weights"].values == weights))
    one, other = (own.isel(case=own["arm"].values == name) for name in (value, first))
    gap = xr.DataArray(one[quantity].values - other[quantity].values, dims="case")
    return bootstrap(gap, groups=one["group"].values, crossed=one["seed"].values, skipna=True).values


def text(
    table: xr.Dataset,  # From `main`
) -> str:  # Lines
    "Means of each arm, and how far it is from the first of its choice."
    lines = []
    for choice, weights, _ in PARTS:
        own = table.isel(case=(table["choice"].values == choice) & (table["weights"].values == weights))
        for value in (value for value in ARMS[choice] if own.sizes["case"]):
            one = own.isel(case=own["arm"].values == value)
            steps = ", ".join(map(str, dict.fromkeys(one["steps"].values.tolist())))
            said = [f"{choice} {weights} {value}: {steps} steps"]
            for name in (name for name in SHOWN if one[name].notnull().any()):
                gap = paired(table, choice, weights, value, ARMS[choice][0], name)
                beside = " ({:+.4f} [{:+.4f}, {:+.4f}])".format(*gap) if value != ARMS[choice][0] else ""
                said.append(f"{name} {float(one[name].mean()):.4f}{beside}")
            lines.append("; ".join(said))
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
