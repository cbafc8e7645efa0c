"""What else could make members differ in the right way? `python -m benchmarks.levers DIR data/levers.nc`.

DIR holds monuseg/ and glas/; their validation images and 24 scenes of tissue get 32 members in each way (seed 0, noise
of its own for each image; no test image is read). All ways use the shipped weights, nothing is trained:

- one call, and two: a member of one call gets noise of a middle level and is denoised once;
- groups of members see the image in a turn or flip of their own, or their own encoder; or all see the mean of these;
- each member's features get white noise, in units of their own standard deviation.

P(object) is half the encoders' and half the share of the members, the same for all ways. Ways of groups have spread
from two sources; `between` says how much of the variance of the distance lies between the groups' means.
"""

import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from scipy import ndimage

from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.diffusion.network import Features
from sdfdiff.diffusion.sampling import member_generators
from sdfdiff.ensembles.members import Denoiser, draw_members, in_pixels
from sdfdiff.ensembles.method import METHODS
from sdfdiff.files import write_dataset
from sdfdiff.images.cases import Prepared, find_cases, prepare_case
from sdfdiff.images.synthetic import tissue
from sdfdiff.study.plan import case_seed
from sdfdiff.uncertainty.errors import auroc
from sdfdiff.uncertainty.fields import bootstrap, mask_distance, named
from sdfdiff.uncertainty.forecasts import crps
from sdfdiff.uncertainty.metrics import scores

TITLE, MEMBERS, VIEWS, SCENES = "sdfdiff levers", 32, 8, range(2000, 2024)
MIDDLE, FEATURE_NOISE = (0.05, 0.2, 0.5), (0.1, 0.3)  # Model units; standard deviations of a feature
WAYS = ("one call", *(f"two calls, {level:g}" for level in MIDDLE), "ten calls", f"mean of {VIEWS} views",
        "views apart", "encoders apart", *(f"feature noise {size:g}" for size in FEATURE_NOISE))  # fmt: skip
QUANTITIES = {
    "crps": ("px", "fair CRPS of the distance, mean over all pixels"),
    "f1": ("1", "F1 of the mask P >= 1/2"),
    "f1_member": ("1", "mean F1 of the members"),
    "auroc": ("1", "AUROC of the entropy of P for the wrong pixels of the mask P >= 1/2"),
    "variance": ("px^2", "predicted squared error of the mean, mean over the image"),
    "squared_error": ("px^2", "squared error of the mean, mean over the image"),
    "between": ("1", "share of the members' variance that lies between the means of their groups"),
    "parts": ("1", "connected parts of a member over those of the truth"),
    "gap": ("1", "mean |P - exact P|, tissue only"),
    "area_spread": ("1", "standard deviation of the members' areas over that of 256 raters, tissue only"),
}


def _calls(denoiser: Denoiser, model: Model, method, numbers: range) -> torch.Tensor:
    "Model units, (member, 1, row, column) of the padded canvas."
    *_, last = draw_members(denoiser, model, method, numbers)
    return last


def _turned(image: np.ndarray, view: int) -> np.ndarray:
    "Flipped from the fifth view on, then turned; the last two axes."
    return np.rot90(image[..., ::-1] if view >= 4 else image, view % 4, (-2, -1)).copy()


def _back(fields: np.ndarray, view: int) -> np.ndarray:
    fields = np.rot90(fields, -(view % 4), (-2, -1))
    return fields[..., ::-1] if view >= 4 else fields


def _groups(count: int) -> list[range]:
    "Members in as many equal groups."
    return [range(MEMBERS * k // count, MEMBERS * (k + 1) // count) for k in range(count)]


@torch.inference_mode()
def drawn(
    way: str,  # One of WAYS
    model: Model,  # Weights that can draw in one call
    image: np.ndarray,  # Prepared, shape (channel, row, column)
    seed: int,  # Of the members
) -> tuple[np.ndarray, np.ndarray, list[range]]:  # Distances (member, row, column), px; the encoders' P; the groups
    "Members of one image; LookupError for encoders apart where there is one."
    shape, alone = image.shape[1:], [range(MEMBERS)]
    method = replace(METHODS["default" if way == "ten calls" else "fast"], members=MEMBERS, seed=seed)
    denoiser = Denoiser(model, image, views=VIEWS if way.startswith("mean") else 1)
    p = denoiser.probability[0, 0, : shape[0], : shape[1]].numpy()
    if way == "views apart":
        found = []
        for view, numbers in enumerate(_groups(VIEWS)):
            seen = Denoiser(model, _turned(image, view))
            members = in_pixels(model, _calls(seen, model, method, numbers), seen.shape)
            found.append(_back(members, view))
        return np.concatenate(found), p, _groups(VIEWS)
    if way == "encoders apart":
        encoders, found = list(model.network.encoders), []
        if len(encoders) < 2:
            raise LookupError("These weights have one encoder.")
        for encoder, numbers in zip(encoders, _groups(len(encoders))):
            single = copy.deepcopy(model.network)
            single.encoders = torch.nn.ModuleList([copy.deepcopy(encoder)])
            one = replace(model, network=single)
            found.append(in_pixels(one, _calls(Denoiser(one, image), one, method, numbers), shape))
        return np.concatenate(found), p, _groups(len(encoders))
    if way.startswith("feature noise"):
        return in_pixels(model, _with_noisy_features(denoiser, model, method, float(way.split()[-1])), shape), p, alone
    state = _calls(denoiser, model, method, range(MEMBERS))
    if way.startswith("two calls"):
        level = torch.tensor(float(way.split()[-1]))
        generators = member_generators(seed + 1, range(MEMBERS))
        noise = torch.stack([torch.randn(state.shape[1:], generator=one) for one in generators])
        state = torch.cat([denoiser(one, level) for one in (state + level * noise).split(4)])
    return in_pixels(model, state, shape), p, alone


def _noisy(features: Features, size: float, generator: torch.Generator) -> Features:
    "White noise, in standard deviations of each feature."
    maps = features.maps.float()
    noise = size * maps.std(dim=(2, 3), keepdim=True) * torch.randn(maps.shape, generator=generator)
    return features._replace(maps=(maps + noise).to(features.maps.dtype))


def _with_noisy_features(denoiser: Denoiser, model: Model, method, size: float) -> torch.Tensor:
    "One call per member, each with features of its own."
    tiles, found = denoiser.tiles, []
    for number in range(MEMBERS):
        generator = torch.Generator().manual_seed(method.seed + 1000 * number)
        denoiser.tiles = [(r, c, weight, _noisy(one, size, generator)) for r, c, weight, one in tiles]
        found.append(_calls(denoiser, model, method, range(number, number + 1)))
    return torch.cat(found)


def measured(
    distances: np.ndarray,  # Members, px, shape (member, row, column)
    p: np.ndarray,  # The encoders' P(object), shape (row, column)
    groups: list[range],  # Of members
    case: Prepared,  # With its truth
    model: Model,  # Its units
) -> dict[str, float]:  # By the names of QUANTITIES
    "The numbers of one image and one way."
    edge, reach = model.threshold("half_pixel"), model.reach
    if case.unseen is not None:
        distances, p = np.where(case.unseen, np.float32(reach), distances), np.where(case.unseen, np.float32(0), p)
    cut, masks, truth = distances.clip(-reach, reach), distances <= edge, case.truth
    p = (p + masks.mean(0)) / 2
    shown, mean = p >= 0.5, cut.mean(0, dtype=float)
    true = mask_distance(truth, reach, boundary=model.boundary)
    found = {"crps": float(crps(named(cut, "member"), true)), "f1": float(scores(shown, truth)["f1"])}
    found["f1_member"] = float(np.mean(scores(masks, np.broadcast_to(truth, masks.shape))["f1"]))
    found["auroc"] = float(auroc(-np.abs(p - 0.5), shown != truth))
    variance = cut.var(0, ddof=1, dtype=float)
    found["variance"] = float(variance.mean() * (MEMBERS + 1) / MEMBERS)
    found["squared_error"] = float(np.square(mean - np.asarray(true)).mean())
    means = np.stack([cut[one].mean(0, dtype=float) - mean for one in groups])
    within = np.mean([cut[one].var(0, ddof=1, dtype=float) for one in groups]) / (MEMBERS / len(groups))
    found["between"] = float((np.square(means).sum(0) / max(1, len(groups) - 1)).mean() - within) / float(
        variance.mean()
    )
    found["between"] = max(0.0, found["between"]) if len(groups) > 1 else 0.0
    found["parts"] = np.mean([ndimage.label(one)[1] for one in masks]) / max(1, ndimage.label(truth)[1])
    if case.posterior is not None:
        found["gap"] = float(np.abs(p - case.posterior).mean())
    return found | {"areas": float(masks.sum((1, 2)).std(ddof=1))}


def judged(weights: str, dataset: str, root: Path | None) -> Iterator[xr.Dataset]:
    "One image after the other; dims (case, way)."
    model = load_model(weights)
    scenes = [f"scene {seed}" for seed in SCENES]
    ways = [way for way in WAYS if way != "encoders apart" or len(model.network.encoders) > 1]
    for paths in find_cases(dataset, root, *(("all", scenes) if dataset == "tissue" else ("validation", None))):
        case, rows = prepare_case(paths, model.preparation), []
        for way in ways:
            row = measured(*drawn(way, model, case.image, case_seed(0, paths.name)), case, model)
            spread = row.pop("areas")
            if dataset == "tissue":
                scene = tissue(int(paths.name.split()[-1]))
                raters = [(scene.rate(np.random.default_rng(k)) > 0).sum() for k in range(256)]
                row["area_spread"] = spread / np.std(raters, ddof=1)
            rows.append([row.get(name, np.nan) for name in QUANTITIES])
        values = {name: (("case", "way"), [[one[k] for one in rows]]) for k, name in enumerate(QUANTITIES)}
        labels = {"way": ways, "case": [paths.name], "group": ("case", [case.group])}
        yield xr.Dataset(values, labels | {"weights": ("case", [weights])})


def main(root: str, out: str) -> None:
    found = []
    for weights, dataset in (("tissue_fast", "tissue"), ("nuclei", "monuseg"), ("glands", "glas")):
        for one in judged(weights, dataset, None if dataset == "tissue" else Path(root, dataset)):
            found.append(one)
            print(weights, one["case"].values[0], flush=True)
    table = xr.concat(found, "case", join="outer").reindex(way=list(WAYS))
    for name, (unit, words) in QUANTITIES.items():
        table[name].attrs = {"units": unit, "long_name": words}
    command = "python -m benchmarks.levers DIR data/levers.nc"
    write_dataset(table.assign_attrs(title=TITLE, members=MEMBERS, seed=0, command=command), Path(out), force=True)
    print(text(table))


def text(
    table: xr.Dataset,  # From `main`
) -> str:  # Lines
    "Means over the images of each network, and how far each way is from one call, with intervals over patients."
    lines = []
    for weights in dict.fromkeys(table["weights"].values.tolist()):
        own = table.isel(case=table["weights"].values == weights)
        groups = own["group"].values
        lines.append(f"{weights}: {own.sizes['case']} images of {len(set(groups.tolist()))} patients or scenes")
        for way in own["way"].values.tolist():
            one, first = own.sel(way=way), own.sel(way=WAYS[0])
            if not one["crps"].notnull().any():
                continue
            skill = float(np.sqrt(one["variance"].mean() / one["squared_error"].mean()))
            said = [f"spread/error {skill:.2f}, between {float(one['between'].mean()):.2f}"]
            for name in ("crps", "f1", "f1_member", "auroc", "parts", "gap", "area_spread"):
                if one[name].notnull().any():
                    gap = bootstrap(
                        (one[name] - first[name]).reset_coords(drop=True), groups=groups, skipna=True
                    ).values
                    beside = " ({:+.4f} [{:+.4f}, {:+.4f}])".format(*gap) if way != WAYS[0] else ""
                    said.append(f"{name} {float(one[name].mean()):.4f}{beside}")
            lines.append(f"  {way:18} " + "; ".join(said))
    return "\n".join(lines)


if __name__ == "__main__":
    main(*sys.argv[1:])
