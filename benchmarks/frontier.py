"""Every sampler at every price: what does a network call buy, in masks and uncertain?"""

import math
import os
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import xarray as xr
from scipy import ndimage
from tqdm.auto import tqdm

from sdfdiff.ensembles.method import Method
from sdfdiff.ensembles.method import METHODS, untuned
from sdfdiff.diffusion.model import Model
from sdfdiff.ensembles.collection import described, ensemble, plain
from sdfdiff.files import read_dataset, write_dataset
from sdfdiff.files import check_writable
from sdfdiff.images.cases import Prepared, find_cases, prepare_case
from sdfdiff.uncertainty.metrics import counts, scores_from_counts


def _centre(case: Prepared, size: int) -> Prepared:
    "The part around the centre of a case without raters, at most so many pixels high and wide."
    window = tuple(slice(max(0, (n - size) // 2), max(0, (n - size) // 2) + size) for n in case.truth.shape)
    return replace(case, image=case.image[:, *window], truth=case.truth[window])


def examples(
    dataset: str,  # "tissue", "monuseg", "glas" or "folder"
    model: Model,  # Tells how images are prepared
    count: int,  # How many
    root: str | os.PathLike | None = None,  # Folder of the data set; none for tissue
    size: int = 128,  # Largest side, pixels: larger images are cropped around their centre
) -> list[Prepared]:
    "Scenes of synthetic tissue from seed 1000 on, or validation images that the shipped weights never saw."
    if dataset == "tissue":
        scenes = [prepare_case(paths, model.preparation) for paths in find_cases("tissue", only=count)]
        return [replace(one, truth=one.posterior >= 0.5) for one in scenes]  # the likelier side, not one rater's mask
    found = find_cases(dataset, root, "validation")[:count]
    return [_centre(prepare_case(paths, model.preparation), size) for paths in found]


CALLS = (2, 3, 4, 5, 6, 8, 10, 13, 20, 40)


def ways(
    paper: tuple[str, ...] = ("nuclei", "glands"),  # The paper's settings to include: 1500 and 400 calls
    counts: tuple[int, ...] = CALLS,  # Network calls per member
) -> dict[str, Method]:  # By name
    "Every sampler at every number of calls, the three qualities, the paper's settings and the authors' variant of them."
    found = {}
    for name in ("ancestral", "ddim", "dpm", "dpm_sde", "heun", "euler_maruyama", "paper", "score_sde", "authors"):
        pair = name in ("heun", "paper", "score_sde", "authors")
        for steps in sorted({(count - 1) // (1 + pair) for count in counts}):
            spacing = "geometric" if name in ("euler_maruyama", "paper", "score_sde", "authors") else "karras"
            if steps:
                one = untuned(name, steps, spacing, corrections=int(pair and name != "heun"))
                found[f"{name} {one.calls}"] = one
    found |= {
        f"tuned {count}": replace(METHODS["default"], steps=count - 1)
        for count in sorted(set(counts))
        if 1 < count <= 13
    }
    found |= METHODS | {"one call": untuned("dpm_sde", 0)}
    for which in paper:
        one = {"nuclei": METHODS["paper-nuclei"], "glands": METHODS["paper-glands"]}[which]
        found |= {f"paper's {which}": one, f"authors' {which}": replace(one, sampler="authors")}
    return found


UNITS = {  # variable: (unit, meaning)
    "f1_one": ("1", "F1 of single members, average of the first eight"),
    "f1_mean": ("1", "F1 of the mask of the mean distance"),
    "spread": ("px", "standard deviation of the distance, mean over the pixels"),
    "spread_ratio": ("1", "spread, relative to the reference run"),
    "spread_correlation": ("1", "correlation over the pixels with the reference run's spread map"),
    "disagreement": ("1", "p (1 - p) without bias, mean over the pixels, relative to the reference run"),
    "fragments": (
        "1",
        "connected parts of a member's mask, mean over the members, per part of the reference's majority mask",
    ),
    "raters": ("1", "p (1 - p) without bias, mean over the pixels, relative to the exact posterior"),
    "miscalibration": ("1", "mean absolute difference of P(object) from the exact posterior"),
}


def _parts(mask: np.ndarray) -> int:
    return ndimage.label(mask)[1]


def _disagreement(inside: np.ndarray) -> float:
    "Mean of p (1 - p), without the bias of a finite number of members."
    p = inside.mean(axis=0)
    return float((p * (1 - p)).mean() * len(inside) / (len(inside) - 1))


def _ratio(part: float, whole: float) -> float:
    "NaN where nothing is uncertain."
    return float(part) / float(whole) if whole else np.nan


def judge(
    drawn: xr.Dataset,  # An ensemble with all members kept
    reference: xr.Dataset,  # A long run on the same image, with all members kept
    example: Prepared,  # The image
) -> dict[str, float]:  # See UNITS; NaN where the truth is not known
    "Quality of an ensemble's masks and of its spread."
    threshold = drawn.attrs["threshold_px"]
    inside, other = (one["distance"].values <= threshold for one in (drawn, reference))

    def f1(masks):
        return float(np.mean(scores_from_counts(counts(masks, example.truth), "zero")["f1"]))

    spreads = [one["std"].values.ravel().astype(np.float64) for one in (drawn, reference)]
    same = np.cov(*spreads)
    found = {
        "f1_one": f1(inside[:8]),
        "f1_mean": f1(drawn["mean"].values[None] <= threshold),
        "spread": float(spreads[0].mean()),
        "spread_ratio": _ratio(spreads[0].mean(), spreads[1].mean()),
        "disagreement": _ratio(_disagreement(inside), _disagreement(other)),
        "spread_correlation": _ratio(same[0, 1], math.sqrt(same[0, 0] * same[1, 1])),
        "fragments": float(np.mean([_parts(one) for one in inside]) / max(1, _parts(other.mean(axis=0) >= 0.5))),
    }
    if example.posterior is None:
        return found | {"raters": np.nan, "miscalibration": np.nan}
    exact = example.posterior
    return found | {
        "raters": _ratio(_disagreement(inside), (exact * (1 - exact)).mean()),
        "miscalibration": float(np.abs(inside.mean(axis=0) - exact).mean()),
    }


def measure(
    model: Model,  # The model
    cases: list[Prepared],  # Images
    settings: dict[str, Method],  # Ways to sample, by name
    members: int = 24,  # Per way and image
    reference_members: int = 128,  # Of the reference run, which has another seed
    seed: int = 0,  # Of the members
    out: str | os.PathLike | None = None,  # Write here after every way; what is there already is not measured again
    workers: int | None = None,  # Batches at the same time; None: as many as torch has threads
    progress: bool = True,  # Show a progress bar
) -> xr.Dataset:  # Dimensions (way, case)
    "Sample every image in every way and compare with a long reference run."
    about = {
        "title": "sdfdiff frontier",
        "members": members,
        "reference_members": reference_members,
        "seed": seed,
    } | described(model)
    about |= {f"reference_{key}": value for key, value in plain(asdict(METHODS["reference"])).items()}
    result = _begun(out, about, cases, settings)
    missing = {name: one for name, one in settings.items() if result is None or name not in result["way"].values}
    references, draw = [], {"progress": False, "workers": workers}
    with tqdm(total=sum(one.calls for one in missing.values()), unit="call", disable=not progress) as bar:
        for case in cases if missing else ():
            references.append(
                ensemble(
                    model,
                    case.image,
                    "reference",
                    members=reference_members,
                    seed=seed + 1,
                    keep=reference_members,
                    **draw,
                )
            )
        for name, one in sorted(missing.items(), key=lambda item: item[1].calls):
            drawn = [
                ensemble(model, case.image, one, members=members, seed=seed, keep=members, **draw) for case in cases
            ]
            rows = [judge(*both, case) for *both, case in zip(drawn, references, cases)]
            new = _table(
                name, one, rows, cases, [case["initial_estimate"] for case in drawn], drawn[0].attrs["threshold_px"]
            )
            result = (
                new.assign_attrs(about) if result is None else xr.concat([result, new], "way", combine_attrs="override")
            )
            if out is not None:
                write_dataset(result, out, force=True)
            bar.update(one.calls)
    return result


def _table(
    name: str, one: Method, rows: list[dict], cases: list[Prepared], initial_estimates: list, threshold: float
) -> xr.Dataset:
    "One way as a dataset."
    data = {
        key: (("way", "case"), [[row[key] for row in rows]], {"units": unit, "long_name": meaning})
        for key, (unit, meaning) in UNITS.items()
    }
    guess = [
        float(scores_from_counts(counts(initial_estimate.values[None] <= threshold, case.truth), "zero")["f1"][0])
        for initial_estimate, case in zip(initial_estimates, cases)
    ]
    coordinates = {
        "way": [name],
        "calls": ("way", [one.calls]),
        "case": [case.name for case in cases],
        "f1_initial_estimate": (
            "case",
            guess,
            {"units": "1", "long_name": "F1 of the encoder's guess, without diffusion"},
        ),
    }
    coordinates |= {key: ("way", [str(value)]) for key, value in asdict(one).items()}
    return xr.Dataset(data, coordinates)


def _begun(out, about: dict, cases: list[Prepared], settings: dict[str, Method]) -> xr.Dataset | None:
    "What an earlier run left in the file; ValueError when it was made in another way."
    if not cases or not settings or min(about["members"], about["reference_members"]) < 2:
        raise ValueError(
            f"{len(cases)} images, {len(settings)} ways, {about['members']} members: at least 1, 1 and 2 are needed, and 2 for the reference."
        )
    if out is None or not Path(out).exists():
        check_writable([] if out is None else [out], False)
        return None
    result = read_dataset(out)
    other = [key for key, value in about.items() if result.attrs.get(key) != value]
    if not other and result["case"].values.tolist() != [case.name for case in cases]:
        other = ["case"]
    if not other:
        there = {name: settings[name] for name in result["way"].values.tolist() if name in settings}
        other = [
            name
            for name, one in there.items()
            if any(result[key].sel(way=name) != str(value) for key, value in asdict(one).items())
        ]
    if other:
        raise ValueError(f"{out} was measured with other settings ({', '.join(other)}): use those, or another file.")
    return result
