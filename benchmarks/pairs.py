"""Image and mask together: `python -m benchmarks.pairs train | measure | use | copies | glas DIR`, in this order.

`train` writes data/beyond/pairs.safetensors (3200 steps on 8000 scenes of synthetic tissue), and two small networks in
runs/ that saw 30 and 300 scenes only. `measure` judges the pairs, `use` trains small segmenters on real and generated
ones, `copies` looks at the small networks, `glas` trains on glands. Each adds its part to data/beyond/pairs.nc. Tissue
is held out by seed: 500 to 699 judge, training seeds begin at 1000.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch.nn.functional import avg_pool2d

from sdfdiff.beyond.generated_pairs import Mixed, fit_segmenter, nearest_differences, mask_f1
from sdfdiff.beyond.pairs import PairNetwork, architecture_for, draw_given, sample_pairs, load_pairs, pair_loss
from sdfdiff.beyond.pairs import save_pairs, tissue_pairs
from sdfdiff.diffusion.fitting import SETTINGS, Setting, load_training_data, validation_views
from sdfdiff.diffusion.losses import Recipe
from sdfdiff.diffusion.model import load_model
from sdfdiff.diffusion.sampling import last
from sdfdiff.diffusion.training import train
from sdfdiff.ensembles.members import Denoiser, draw_members, in_pixels
from sdfdiff.ensembles.method import METHODS
from sdfdiff.files import read_dataset, write_dataset
from sdfdiff.images.training_data import Augmentation, TrainingData
from sdfdiff.uncertainty.forecasts import crps

FOLDER, RUNS = Path("data/beyond"), Path("runs")
SHIPPED, RESULTS = FOLDER / "pairs.safetensors", FOLDER / "pairs.nc"
SCENES, STEPS, HELD_OUT = 8000, 3200, 500  # Training scenes, steps, seed of the first scene that judges
OWN, OWN_STEPS = (30, 300), 600  # Scenes of the small networks, and their steps
SIZES, SEEDS, GENERATED = (10, 30, 100, 300), (0, 1, 2), 400  # Of `use`


def fit_pairs(data: TrainingData, steps: int, path: Path, about: dict) -> PairNetwork:
    "Train, or continue, a pair network and write its weights; those that are there already are read."
    if not path.exists():
        RUNS.mkdir(exist_ok=True)
        recipe = Recipe(steps=steps, batch=32, learning_rate=2e-3, average=0.998)
        run = train(PairNetwork(architecture_for(data)), data, recipe, objective=pair_loss,
                    checkpoint=RUNS / f"{path.stem}.checkpoint.safetensors")  # fmt: skip
        step = last(run)
        save_pairs(path, step.average, about | {"steps": steps, "batch": 32, "seed": 0,
                                                "minutes": round(step.seconds / 60, 1)})  # fmt: skip
    return load_pairs(path)


def tissue_network(scenes: int) -> PairNetwork:
    "The shipped network, or one that saw so few scenes."
    shipped = scenes == SCENES
    path = SHIPPED if shipped else RUNS / f"pairs_{scenes}.safetensors"
    about = {"data": "tissue", "scenes": scenes, "licence": "made by this package, Apache-2.0"}
    return fit_pairs(tissue_pairs(scenes), STEPS if shipped else OWN_STEPS, path, about)


def stacked(data: TrainingData) -> tuple[torch.Tensor, torch.Tensor]:
    "Images and distances as two tensors."
    return torch.stack(data.images), torch.stack(data.distances)[:, None]


def as_data(images: torch.Tensor, distances: torch.Tensor) -> TrainingData:
    "Generated pairs as training data, flipped and turned like real ones."
    return TrainingData(list(images), list(distances[:, 0]), images.shape[-1], Augmentation(quarter_turns=True))


def tissue_members(images: torch.Tensor, members: int) -> Iterator[torch.Tensor]:
    "Members of each image by the conditional model `tissue`, ten calls each, px, (member, row, column)."
    model, method = load_model("tissue"), METHODS["default"]
    for case, image in enumerate(images):
        denoiser = Denoiser(model, image.numpy())
        numbers = range(members)
        with torch.inference_mode():
            *_, drawn = draw_members(denoiser, model, replace(method, seed=case), numbers)
        yield torch.from_numpy(in_pixels(model, drawn, denoiser.shape))


def fair_crps(members: np.ndarray, truth: np.ndarray) -> float:  # Both px, cut at 10
    labelled = xr.DataArray(members.clip(-10, 10), dims=("member", "row", "column"))
    return float(crps(labelled, xr.DataArray(truth.clip(-10, 10), dims=("row", "column"))))


def store(part: xr.Dataset, prefix: str) -> None:
    "Add variables to the results, in place of those with the same beginning."
    known = read_dataset(RESULTS) if RESULTS.exists() else xr.Dataset(attrs={"title": "sdfdiff pairs"})
    kept = known.drop_vars([name for name in known.variables if str(name).startswith(prefix)])
    found = xr.merge([kept, part.rename({name: f"{prefix}_{name}" for name in {*part.variables, *part.dims}})])
    write_dataset(found.assign_attrs(known.attrs | part.attrs), RESULTS, force=True)


def measure(count: int = 200, members: int = 16, crps_scenes: int = 60) -> None:
    "Judge the shipped network: pairs, both conditionals, copies."
    network, (images, distances) = tissue_network(SCENES), stacked(tissue_pairs(count, HELD_OUT))
    judge = fit_segmenter(tissue_pairs(2000), steps=300)
    made = {
        first or "together": sample_pairs(network, count, seed=7, first=first) for first in (None, "image", "distance")
    }
    again = draw_given(network, "distance", distances, seed=8)
    f1 = {"real": mask_f1(judge, images, distances), "image of a real mask": mask_f1(judge, again, distances)}
    f1 |= {f"pairs, {name}": mask_f1(judge, *pair) for name, pair in made.items()}
    training = torch.stack(tissue_pairs(2000).images)
    apart = {"real": nearest_differences(images, training)}
    apart["pairs"] = nearest_differences(made["together"][0], training)
    own = {}
    for calls in (10, 24):
        drawn = draw_given(network, "image", images[:crps_scenes].repeat_interleave(members, 0), seed=9, calls=calls)
        own[f"pairs, {calls} calls"] = drawn[:, 0].unflatten(0, (-1, members))
    own["tissue, 10 calls"] = torch.stack(list(tissue_members(images[:crps_scenes], members)))
    scored = {name: [fair_crps(one.numpy(), true[0].numpy()) for one, true in zip(found, distances)]
              for name, found in own.items()}  # fmt: skip
    areas = [(one <= 0.5).float().mean((1, 2, 3)).numpy() for one in (distances, made["together"][1])]
    part = xr.Dataset(
        {
            "f1": (("source", "case"), np.stack(list(f1.values()))),
            "nearest": (("sample", "case"), np.stack(list(apart.values()))),
            "crps": (("method", "scene"), np.array(list(scored.values()))),
            "area": (("sample", "case"), np.stack(areas)),
        },
        {"source": list(f1), "sample": list(apart), "method": list(scored)},
    )
    store(part, "quality")
    for what, found in (("F1", f1), ("nearest", apart), ("CRPS", scored)):
        print(what, ", ".join(f"{name}: {np.mean(values):.4f}" for name, values in found.items()))


def use(steps: int = 80) -> None:
    "F1 of small segmenters on 200 scenes, trained on real scenes, on generated ones, and on both."
    test, rows = stacked(tissue_pairs(200, HELD_OUT)), {}
    made = {n: as_data(*sample_pairs(tissue_network(n), GENERATED, seed=11)) for n in (*OWN, SCENES)}
    for seed in SEEDS:
        for n in SIZES:
            real = tissue_pairs(n)
            arms = {"real": real, "both, 8000": Mixed((real, made[SCENES]))}
            arms |= {"generated": made[n], "both": Mixed((real, made[n]))} if n in OWN else {}
            for name, data in arms.items():
                rows[name, n, seed] = mask_f1(fit_segmenter(data, steps, seed), *test)
                print(seed, n, name, f"{rows[name, n, seed].mean():.3f}", flush=True)
        rows["generated, 8000", SIZES[-1], seed] = mask_f1(fit_segmenter(made[SCENES], steps, seed), *test)
        print(seed, "generated, 8000", f"{rows['generated, 8000', SIZES[-1], seed].mean():.3f}", flush=True)
        keep_use(rows, len(test[0]))  # after each seed: a run that is stopped leaves what it has


def keep_use(rows: dict, cases: int) -> None:
    "Store F1 by arm, scenes, seed and case; NaN where nothing was trained."
    arms = list(dict.fromkeys(name for name, _, _ in rows))
    table = np.full((len(arms), len(SIZES), len(SEEDS), cases), np.nan)
    for (name, n, seed), values in rows.items():
        table[arms.index(name), SIZES.index(n), SEEDS.index(seed)] = values
    store(xr.Dataset({"f1": (("arm", "scenes", "seed", "case"), table)},
                     {"arm": arms, "scenes": list(SIZES), "seed": list(SEEDS)}), "use")  # fmt: skip


def copies(count: int = 64) -> None:
    "How near pairs of the small networks are to their own training scenes, beside fresh scenes."
    fresh, rows = stacked(tissue_pairs(count, HELD_OUT))[0], []
    for scenes in OWN:
        training = torch.stack(tissue_pairs(scenes).images)
        made, _ = sample_pairs(tissue_network(scenes), count, seed=11)
        rows.append(np.stack([nearest_differences(one, training) for one in (fresh, made)]))
    part = xr.Dataset({"nearest": (("scenes", "sample", "case"), np.stack(rows))})
    store(part.assign_coords(scenes=list(OWN), sample=["real", "pairs"]), "copies")
    print(part["nearest"].mean("case").values.round(4).tolist(), part["nearest"].min("case").values.round(4).tolist())


def gland_pairs(root: str) -> tuple[TrainingData, Setting, list[str]]:
    "GlaS at 4.96 um per pixel, 64 x 64 px crops; the patients of data/README.md stay out."
    setting = replace(SETTINGS["glas"], crop=64, augmentation=Augmentation(quarter_turns=True))
    data, held_out = load_training_data("glas", root, setting, progress=False, validate=True)
    images = [avg_pool2d(one[None], 2)[0] for one in data.images]
    distances = [avg_pool2d(one[None, None], 2)[0, 0] / 2 for one in data.distances]
    return TrainingData(images, distances, 64, setting.augmentation, data.groups), setting, held_out


def glas(root: str, steps: int = 300) -> None:
    "Train on glands, and look for copies. No image is stored, but those that were generated."
    data, setting, held_out = gland_pairs(root)
    about = {"data": "glas", "held_out": held_out, "licence": setting.licence}
    network = fit_pairs(data, steps, RUNS / "pairs_glas.safetensors", about)
    images, distances = sample_pairs(network, 64, seed=12)
    views = validation_views("glas", root, replace(setting, crop=128), count=64)
    unseen, true = avg_pool2d(views[0], 2), avg_pool2d(views[1], 2) / 2
    seen, own = data.draw(64, torch.Generator().manual_seed(13))
    judge = fit_segmenter(data, steps=200)
    sets = {"training": (seen, own), "held out": (unseen, true), "pairs": (images, distances)}
    values = {"f1": [mask_f1(judge, *pair) for pair in sets.values()]}
    values["nearest"] = [nearest_crop(pair[0], data) for pair in sets.values()]
    part = xr.Dataset({name: (("source", "case"), np.stack(rows)) for name, rows in values.items()})
    photos = (images[:8] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    part["image"] = ("drawn", "row", "column", "channel"), photos
    part["mask"] = ("drawn", "row", "column"), (distances[:8, 0] <= 0.5).numpy()
    store(part.assign_coords(source=list(sets)), "glas")
    print({name: part[name].mean("case").values.round(3).tolist() for name in values}, list(sets))


def nearest_crop(images: torch.Tensor, data: TrainingData) -> np.ndarray:
    "Difference to the nearest crop of a training image, at any place, in all flips and turns."
    best = np.full(len(images), np.inf)
    for one in data.images:
        crops = one.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        best = np.minimum(best, nearest_differences(images, crops)) if len(crops) else best
    return best


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("train", "measure", "use", "copies", "glas"))
    parser.add_argument("root", nargs="?", help="folder of GlaS, for glas")
    asked = parser.parse_args()
    if asked.part == "train":
        for scenes in (SCENES, *OWN):
            print(scenes, tissue_network(scenes).about)
    elif asked.part == "glas":
        glas(asked.root)
    else:
        {"measure": measure, "use": use, "copies": copies}[asked.part]()
