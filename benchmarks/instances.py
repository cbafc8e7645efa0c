"""Objects kept apart in training, on three folds of patients: `python -m benchmarks.instances DIR OUT.nc RUNS`.

DIR holds monuseg/ (train/ and instances/, label images of some of its images) and glas/. RUNS keeps weights and
ensembles, so that what was stopped goes on. `--fold K` trains and draws one fold of nuclei only.

- Nuclei: the images with label images are divided into three folds, every third in the order of their names. The
  network of a fold learns from all other images. Masks without label images are split by the distance to their edge.
- Each training begins with `tissue_fast`, which has seen synthetic tissue only. First the encoder learns, then the
  one-call generator; the score network does not, so members can be drawn by `fast` only.
- How to split is chosen, for each fold, on the images of the other two; P(exists) is also shown after a recalibration
  fitted to them. For glands the same is done patient by patient.
- Glands: `glands`, trained further without the validation patients, as before, with a line between glands.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from sdfdiff.diffusion.corruption import VE
from sdfdiff.diffusion.fitting import SETTINGS, Setting, described_model, new_network
from sdfdiff.diffusion.losses import one_call_loss
from sdfdiff.diffusion.model import Model, load_model, save_weights
from sdfdiff.diffusion.training import Step, train
from sdfdiff.distance import signed_distance
from sdfdiff.ensembles.collection import at_source, source_mask
from sdfdiff.ensembles.method import METHODS
from sdfdiff.ensembles.objects import objects_of
from sdfdiff.ensembles.segmentation import segment
from sdfdiff.files import read_dataset, write_dataset
from sdfdiff.images.cases import Case, CasePaths, find_cases, hold_out, read_case
from sdfdiff.images.preparation import Preparation, prepare_image, prepare_labels
from sdfdiff.images.training_data import TrainingData, folds, keep_apart
from sdfdiff.options import prepare_process
from sdfdiff.pixels import resized_labels
from sdfdiff.study.evaluation import promises_of
from sdfdiff.study.plan import case_seed
from sdfdiff.uncertainty.calibration import calibration_error, cross_fitted
from sdfdiff.uncertainty.errors import auroc
from sdfdiff.uncertainty.instances import instance_scores, instance_sums, split
from sdfdiff.uncertainty.metrics import scores
from sdfdiff.uncertainty.objects import match_objects

TITLE, FOLDS, MEMBERS, VIEWS = "sdfdiff instances", 3, 16, 4
STEPS, SHORT = 6000, 600  # Of the encoder: in the folds, and where short trainings are compared
HEIGHTS, SHARES, LEAST = (0.25, 0.75, 2.0), (0.1, 0.3), (16.0, 48.0)


def nuclei_setting(steps: int, line: int = 2, longer: int = 1, scale: float = 0.5, truncation: float = 3.0) -> Setting:
    "Nuclei one by one: one encoder, of the size of `tissue_fast`, so that a training can begin with it."
    whole = SETTINGS["monuseg"]
    preparation = replace(whole.preparation, scale=scale, microns=0.25 / scale)
    recipe = replace(
        whole.recipe, truncation=truncation, steps=longer * steps + steps // 6, encoder_steps=longer * steps
    )
    architecture = replace(whole.architecture, encoders=1)
    changes = {"preparation": preparation, "recipe": recipe, "architecture": architecture}
    return replace(whole, instances=True, line=line, reach=truncation / 3, **changes)


def known_one_by_one(root: Path) -> tuple[list, list]:
    "All training images of MoNuSeg, and those of them that have a label image in `instances`."
    cases = find_cases("monuseg", root, "train", instances=root / "instances")
    return cases, [one for one in cases if one.annotations[0].parent == root / "instances"]


def labels_of(case: Case, known: bool) -> np.ndarray:
    "Objects of a case; those of a mask are guessed: it is split by the distance to its edge."
    mask = case.labels > 0
    return case.labels if known else split(signed_distance(mask, 100.0), mask, height=1.0)


@cache
def prepared(paths: CasePaths, known: bool, preparation: Preparation) -> tuple[np.ndarray, np.ndarray]:
    "Image and objects as the network sees them."
    case = read_case(paths)
    preparation = preparation.at_microns(case.microns)
    return prepare_image(case.image, preparation), prepare_labels(labels_of(case, known), preparation)


def training_data(cases: list, known: set[str], setting: Setting) -> TrainingData:
    "Prepared images with the distances of their objects, a line between those that touch."
    images, labels = zip(*(prepared(one, one.name in known, setting.preparation) for one in cases))
    how = setting.crop, setting.augmentation, setting.boundary, [one.group for one in cases], setting.line
    return TrainingData.of(images, labels, *how)


def trained(data: TrainingData, setting: Setting, start: str, out: Path, seed: int = 0, **about) -> None:
    "Encoder first, then the generator alone; a checkpoint of each part survives an interruption."
    recipe = replace(setting.recipe, seed=seed)
    network = new_network(setting.architecture, data, recipe)
    network.load_state_dict(load_model(start, dtype=torch.float32).network.state_dict())
    count = setting.architecture.encoders
    unseen = [own for _, own in folds(data, count, recipe.folds)] if count > 1 else [data]
    first = replace(recipe, steps=recipe.encoder_steps + 1)  # encoders need one step of the rest behind them
    step = _last(train(network, data, first, VE(), out.with_suffix(".first.safetensors")), f"{out.stem}, encoder")

    def score(network, images, distances, generator):
        which = int(torch.randint(count, (), generator=generator))
        if count > 1:  # it learns from what an encoder says of patients that this encoder has not seen
            images, distances = unseen[which].draw(recipe.batch, generator)
        with torch.no_grad():
            said, features = network.answers(images, which)
        features = features._replace(maps=network.condition(said))
        return one_call_loss(network, features, distances, recipe, generator)

    second = replace(recipe, steps=recipe.steps - recipe.encoder_steps, encoder_steps=0 if count == 1 else count)
    network, seconds = step.average.requires_grad_(True), step.seconds
    run = train(network, data, second, VE(), out.with_suffix(".second.safetensors"), objective=score)
    step = _last(run, f"{out.stem}, generator")
    step = step._replace(number=recipe.steps, seconds=seconds + step.seconds)
    model = described_model(step, recipe, setting, name=out.stem, start=start, **about)
    save_weights(out, model)
    for part in (".first.safetensors", ".second.safetensors"):
        out.with_suffix(part).unlink(missing_ok=True)


def _last(steps: Iterator[Step], name: str) -> Step:
    for step in steps:
        if step.number % 100 == 0:
            losses = " ".join(f"{loss:.4f}" for loss in step.running)
            print(f"{name}: step {step.number}, {step.seconds:.0f} s, {losses}", flush=True)
    return step


def ensemble_of(paths, model: Model, folder: Path) -> tuple[xr.Dataset, Case]:
    "The ensemble of a case, drawn once and kept."
    case, kept = read_case(paths), folder / f"{paths.name}.nc"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        method = replace(METHODS["fast"], members=MEMBERS, views=VIEWS, seed=case_seed(0, case.name))
        found = segment(case.image, model, method, microns=case.microns, name=case.name, progress=False)
        write_dataset(found, kept)
    return read_dataset(kept, "sdfdiff ensemble", ("distance", "probability")).load(), case


@dataclass(frozen=True)
class Ways:
    "How objects are found in an ensemble; lengths in network px."

    height: float = 0.25
    share: float = 0.3
    least: float = 16.0

    def options(self, dataset: xr.Dataset) -> dict[str, float]:
        "For `split` and `objects_of`, in px of the image."
        side = float(np.sqrt(dataset.attrs["source_rows"] * dataset.attrs["source_columns"] / dataset["mean"].size))
        return {"height": self.height * side, "share": self.share, "least": self.least * side**2}


def found_by(dataset: xr.Dataset, way: Ways, line: float | None = None) -> np.ndarray:
    "Objects, as `objects_of` finds them, but without what the members say; `line` in network px, None: all of it."
    side = float(np.sqrt(dataset.attrs["source_rows"] * dataset.attrs["source_columns"] / dataset["mean"].size))
    distance = side * (at_source(dataset, dataset["initial_estimate"].values) - dataset.attrs["threshold_px"])
    line = side * (dataset.attrs.get("line_px", 0) if line is None else line)
    return split(distance, source_mask(dataset), **way.options(dataset), line=line)


def sums_of_ways(dataset: xr.Dataset, truth: np.ndarray) -> xr.Dataset:
    "The sums of one image for every way to find objects; dimension `way`."
    return xr.concat([instance_sums(found_by(dataset, way), truth) for way in WAYS], "way")


WAYS = [Ways(*one) for one in product(HEIGHTS, SHARES, LEAST)]


def ideal(dataset: xr.Dataset, truth: np.ndarray, way: Ways) -> np.ndarray:
    "Objects found in the true distances at the network's resolution: what a perfect network would give."
    side = dataset.attrs["source_rows"] / dataset.sizes["row"]
    line = dataset.attrs.get("line_px", 0)
    labels = keep_apart(resized_labels(truth, (dataset.sizes["row"], dataset.sizes["column"])), line)
    distance = side * (at_source(dataset, signed_distance(labels, dataset.attrs["truncation_px"])) - 0.5)
    return split(distance, **way.options(dataset), line=side * line)


def measured(dataset: xr.Dataset, case: Case, way: Ways) -> tuple[xr.Dataset, xr.Dataset]:
    "Sums of one image; id, P(exists) and IoU of its objects."
    labels, table = objects_of(dataset, **way.options(dataset))
    iou = match_objects(at_source(dataset, dataset["probability"].values), labels, case.labels)[0]["iou"]
    rows = xr.Dataset({"exists": ("object", table["exists"].values), "iou": ("object", iou)})
    sums = instance_sums(labels, case.labels, hausdorff=True)
    sums["pixel_f1"] = scores(labels > 0, case.labels > 0)["f1"]
    sums["aji_line_kept"] = instance_scores(instance_sums(found_by(dataset, way, 0.0), case.labels))["aji"]
    sums["aji_ideal"] = instance_scores(instance_sums(ideal(dataset, case.labels, way), case.labels))["aji"]
    return sums, rows.assign(of=("object", np.full(len(iou), case.name)))


def best_way(sums: xr.Dataset, score: str) -> Ways:
    "The way with the best mean over the images; of equal ones the first."
    return WAYS[int(instance_scores(sums)[score].mean("case").argmax("way"))]


def table_of(name: str, ensembles: dict[str, tuple[xr.Dataset, Case]], fold: dict[str, str], score: str) -> xr.Dataset:
    "Sums of all images and rows of all objects, each with the way that was chosen on the images of other folds."
    every, found = {case: sums_of_ways(drawn, one.labels) for case, (drawn, one) in ensembles.items()}, []
    for case, (drawn, one) in ensembles.items():
        way = best_way(xr.concat([every[other] for other in every if fold[other] != fold[case]], "case"), score)
        sums, rows = measured(drawn, one, way)
        sums = sums.assign({option: float(value) for option, value in vars(way).items()})
        found.append((sums.assign(fold=fold[case]), rows))
        said = ", ".join(f"{key} {float(value):.3f}" for key, value in instance_scores(sums).items())
        print(f"{name}, {case}: {said}; {way}", flush=True)
    sums, rows = (xr.concat(parts, dim) for parts, dim in zip(zip(*found), ("case", "object")))
    kinds = {"network": ("case", [name] * len(found)), "case_name": ("case", list(ensembles))}
    return sums.assign(kinds).merge(rows.assign(network_of=("object", [name] * rows.sizes["object"])))


def fold_ensembles(root: Path, runs: Path, setting: Setting, k: int, name: str) -> dict[str, tuple[xr.Dataset, Case]]:
    "Ensembles of the images of fold k, drawn with a network that has not seen their patients; trained if it must be."
    cases, known = known_one_by_one(root)
    shown, out = known[k::FOLDS], runs / f"{name}.safetensors"
    if not out.exists():
        without = [one for one in cases if one.group not in {other.group for other in shown}]
        data = training_data(without, {one.name for one in known}, setting)
        trained(data, setting, "tissue_fast", out, held_out=[one.name for one in shown])
    model = load_model(out)
    return {one.name: ensemble_of(one, model, runs / name) for one in shown}


def nuclei(root: Path, runs: Path, setting: Setting) -> xr.Dataset:
    "The three folds."
    fold, ensembles = {}, {}
    for k in range(FOLDS):
        own = fold_ensembles(root, runs, setting, k, f"nuclei_fold_{k}")
        fold, ensembles = fold | dict.fromkeys(own, str(k)), ensembles | own
    return table_of("nuclei folds", ensembles, fold, "aji")


def variants(root: Path, runs: Path) -> list[xr.Dataset]:
    """Short trainings on the first fold: as the folds; without a line; with an encoder of twice the steps.

    Images are split as is best on the other four.
    """
    settings = {"line": nuclei_setting(SHORT), "no line": nuclei_setting(SHORT, line=0)}
    settings["longer"], found = nuclei_setting(SHORT, longer=2), []
    for name, setting in settings.items():
        own = fold_ensembles(root, runs, setting, 0, f"nuclei_short_{name.replace(' ', '_')}")
        found.append(table_of(f"fold 0, {name}", own, {one: one for one in own}, "aji"))
    return found


def shipped_nuclei(root: Path, runs: Path) -> xr.Dataset:
    "The shipped `nuclei` on the images with label images that they held out: two, each judged by the other's choice."
    model, found = load_model("nuclei"), {}
    for one in known_one_by_one(root)[1]:
        if one.name in model.about["held_out"]:
            found[one.name] = ensemble_of(one, model, runs / "nuclei")
    return table_of("nuclei", found, {name: name for name in found}, "aji")


def glands(root: Path, runs: Path, steps: int, line: int = 2) -> list[xr.Dataset]:
    "`glands`, and the same trained further with a line between glands, on the validation images."
    whole = SETTINGS["glas"]
    recipe = replace(whole.recipe, steps=steps + steps // 4, encoder_steps=steps, learning_rate=5e-4)
    setting, out = replace(whole, recipe=recipe, line=line), runs / "glands_apart.safetensors"
    fitted, shown = hold_out(find_cases("glas", root, "train"), "glas")
    if not out.exists():
        data = training_data(fitted, {one.name for one in fitted}, setting)
        trained(data, setting, "glands", out, held_out=[one.name for one in shown])
    fold, found = {one.name: one.group for one in shown}, []
    for name, weights in (("glands", "glands"), ("glands apart", out)):
        model = load_model(weights)
        ensembles = {one.name: ensemble_of(one, model, runs / Path(weights).stem) for one in shown}
        found.append(table_of(name, ensembles, fold, "dice"))
    return found


def promises(found: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    "What P(exists) promised and what was found, for each image; and recalibrated, by a fit to the other folds."
    table = promises_of(found, "of")
    return table, cross_fitted(table, MEMBERS, found["fold"].values)[0]


def trust(found: xr.Dataset) -> dict[str, float]:
    "Calibration errors and AUROC of P(exists)."
    plain, corrected = (float(calibration_error(table.sum("case"))) for table in promises(found))
    false = found["iou"] <= 0.5
    numbers = {"objects": false.size, "false": int(false.sum()), "ece": plain, "ece_recalibrated": corrected}
    return numbers | {"auroc": float(auroc(1 - found["exists"], false, "object"))}


def of_network(found: xr.Dataset, name: str) -> xr.Dataset:
    "The images and objects of one network."
    cases = np.flatnonzero(found["network"] == name)
    return found.isel(case=cases, object=np.isin(found["of"], found["case"][cases]))


def text(found: xr.Dataset) -> str:
    "Scores of each image, their mean, those of all as one set, and what P(exists) is worth; for each network."
    lines, shown = [], ("aji", "pq", "dq", "sq", "f1", "dice")
    for name in dict.fromkeys(found["network"].values.tolist()):
        own = of_network(found, name)
        sums = own[[one for one in own if own[one].dims == ("case",) and own[one].dtype.kind == "f"]]
        each, whole = instance_scores(sums), instance_scores(sums.sum("case"))
        lines += [f"{name}: {own.sizes['case']} images", " " * 26 + "".join(f"{one:>7}" for one in (*shown, "pixels"))]
        for k, case in enumerate(own["case_name"].values.tolist()):
            numbers = [float(each[one][k]) for one in shown] + [float(own["pixel_f1"][k])]
            lines.append(f"{case:26}" + "".join(f"{one:7.3f}" for one in numbers))
        means = [float(each[one].mean()) for one in shown] + [float(own["pixel_f1"].mean())]
        lines.append(f"{'mean of the images':26}" + "".join(f"{one:7.3f}" for one in means))
        lines.append(f"{'as one set':26}" + "".join(f"{float(whole[one]):7.3f}" for one in shown))
        lines.append("P(exists): " + ", ".join(f"{key} {value:.3g}" for key, value in trust(own).items()))
    return "\n".join(lines)


ABOUT = {"title": TITLE, "members": MEMBERS, "views": VIEWS, "seed": 0}
ABOUT["command"] = "python -m benchmarks.instances DIR data/instances.nc RUNS"


def joined(found: list[xr.Dataset]) -> xr.Dataset:
    "Images and objects of all networks in one table; `of` becomes the place of an object's image, in 32 bits."
    sums, rows = ([one[[k for k in one if dim in one[k].dims]] for one in found] for dim in ("case", "object"))
    table = xr.concat(sums, "case").assign_coords(case=np.arange(sum(one.sizes["case"] for one in sums)))
    names = zip(table["network"].values.tolist(), table["case_name"].values.tolist())
    place = {pair: k for k, pair in enumerate(names)}
    rows = xr.concat(rows, "object")
    pairs = zip(rows["network_of"].values.tolist(), rows["of"].values.tolist())
    of = np.array([place[pair] for pair in pairs], np.int32)
    rows = rows[["exists", "iou"]].astype(np.float32).assign(of=("object", of))
    return table.merge(rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instances", description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, metavar="DIR", help="folder with monuseg/ and glas/")
    parser.add_argument("out", type=Path, metavar="OUT.nc", help="numbers")
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder for weights and ensembles")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the encoder of each fold")
    parser.add_argument("--fold", type=int, choices=range(FOLDS), help="train and draw one fold, measure nothing")
    arguments = parser.parse_args()
    prepare_process()
    arguments.runs.mkdir(parents=True, exist_ok=True)
    root, runs, setting = arguments.root / "monuseg", arguments.runs, nuclei_setting(arguments.steps)
    if arguments.fold is not None:
        fold_ensembles(root, runs, setting, arguments.fold, f"nuclei_fold_{arguments.fold}")
        return
    found, glass = [], arguments.root / "glas"
    parts = (partial(nuclei, root, runs, setting), partial(shipped_nuclei, root, runs))
    parts += (partial(glands, glass, runs, SHORT // 3), partial(variants, root, runs))
    for part in parts:  # what is measured is written at once
        made = part()
        found += made if isinstance(made, list) else [made]
        table = joined(found).assign_attrs(ABOUT, steps=arguments.steps)
        write_dataset(table, arguments.out, force=True)
    print(text(table))


if __name__ == "__main__":
    main()
