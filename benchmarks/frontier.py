"Every sampler at every number of calls: a study of many methods, and a judge that compares them with a long run."

import json
from dataclasses import replace

import numpy as np
import xarray as xr
from scipy import ndimage

from sdfdiff.diffusion.model import Model
from sdfdiff.ensembles.method import METHODS, QUALITIES, SAMPLER_FIELDS, Method, untuned
from sdfdiff.images.cases import Prepared, find_cases, prepare_case
from sdfdiff.provenance import plain
from sdfdiff.study.plan import StudyPlan
from sdfdiff.provenance import weights_header
from sdfdiff.study.schema import ESTIMATORS, scored

CALLS = (2, 3, 4, 5, 6, 8, 10, 13, 20, 40)
REFERENCE = "long run"  # Name of the method that the others are compared with


def made_for_one_call(
    weights: str,  # Name of shipped weights, or a file
) -> bool:
    "Whether the weights are there and can make a member in one call."
    try:
        return bool(weights_header(weights)["architecture"].get("one_call"))
    except (OSError, ValueError):  # said in a sentence when they are to be used
        return False


def methods(
    weights: str,  # Name of shipped weights, or a file
    paper: tuple[str, ...] = ("nuclei", "glands"),  # The paper's settings to include: 1500 and 400 calls
    counts: tuple[int, ...] = CALLS,  # Network calls per member
    members: int = 24,  # Of each method and image
    seed: int = 0,  # Of the members
) -> tuple[Method, ...]:  # The cheapest first
    "Every sampler at every number of calls, the qualities, the paper's settings and the authors' variant of them."
    found = {}
    for name in ("ancestral", "ddim", "dpm", "dpm_sde", "heun", "euler_maruyama", "paper", "score_sde", "authors"):
        pair = name in ("heun", "paper", "score_sde", "authors")
        for steps in sorted({(count - 1) // (1 + pair) for count in counts}):
            spacing = "geometric" if name in ("euler_maruyama", "paper", "score_sde", "authors") else "karras"
            if steps:
                one = untuned(name, steps, spacing, corrections=int(pair and name != "heun"))
                found[f"{name} {one.calls}"] = one
    tuned = sorted({count for count in counts if 1 < count <= 13})
    found |= {f"tuned {count}": replace(METHODS["default"], steps=count - 1) for count in tuned}
    qualities = QUALITIES if made_for_one_call(weights) else QUALITIES[1:]  # all but fast
    found |= {name: METHODS[name] for name in qualities} | {"one call": untuned("dpm_sde", 0)}
    found |= {f"flow {count}": replace(METHODS["flow"], steps=count) for count in sorted({1, *counts}) if count <= 20}
    found |= {"EDM Heun": untuned("heun", 17)}
    for which in paper:
        one = METHODS[f"paper-{which}"]
        found |= {f"paper's {which}": one, f"authors' {which}": replace(one, sampler="authors")}
    about = {"weights": weights, "members": members, "seed": seed}
    return tuple(replace(one, name=name, **about) for name, one in sorted(found.items(), key=lambda row: row[1].calls))


_USUAL = {  # data set: weights, the paper's settings that belong to it, images, pixels a side
    "tissue": ("tissue_fast", ("nuclei", "glands"), 8, None),
    "monuseg": ("nuclei", ("nuclei",), 6, 128),
    "glas": ("glands", ("glands",), 6, 128),
}


def frontier_plan(
    dataset: str,  # "tissue", "monuseg" or "glas"; another one needs its weights
    weights: str | None = None,  # Name or file; None: those of the data set
    cases: int | tuple[str, ...] | None = None,  # Validation images; None: 8 scenes of tissue, 6 images of the others
    members: int = 24,  # Of each method and image
    reference_members: int = 128,  # Of the long run, whose seed is the next one
    seed: int = 0,  # Of the members
    counts: tuple[int, ...] = CALLS,  # Network calls per member
    only: tuple[str, ...] = (),  # Names of methods; none: all
    against: str = REFERENCE,  # One of them that the others are compared with, in place of a long run
) -> StudyPlan:  # Its last method is the long run, if there is one
    "A study of all methods on one data set; of real images the middle. Raises ValueError for what cannot be meant."
    usual, paper, count, crop = _USUAL.get(dataset, ("", ("nuclei", "glands"), None, 128))
    weights = weights or usual
    ways = methods(weights, paper, counts, members, seed)
    if unknown := set(only) - {one.name for one in ways}:
        raise ValueError(f"No way {unknown.pop()!r}: choose among {', '.join(one.name for one in ways)}.")
    ways = [one for one in ways if not only or one.name in only]
    if against not in (REFERENCE, *(one.name for one in ways)):
        raise ValueError(f"{against!r} is not among the ways that are drawn: {', '.join(one.name for one in ways)}.")
    about = {"name": REFERENCE, "weights": weights, "members": reference_members, "seed": seed + 1}
    return StudyPlan(
        dataset,
        (*ways, *[replace(METHODS["reference"], **about)] * (against == REFERENCE)),
        cases=count if cases is None else cases,
        quantiles=(),
        crop=crop,
    )


UNITS = {  # variable: (unit, meaning)
    "f1_one": ("1", "F1 of single members, mean over all of them"),
    "f1_mean": ("1", "F1 of the mask of the mean distance"),
    "spread": ("px", "standard deviation of the distance, mean over the pixels"),
    "spread_ratio": ("1", "spread, relative to the reference run"),
    "spread_correlation": ("1", "correlation over the pixels with the reference run's spread map"),
    "disagreement": ("1", "p (1 - p) without bias, mean over the pixels, relative to the reference run"),
    "fragments": ("1", "connected parts of a member's mask, mean, per part of the reference's majority mask"),
    "raters": ("1", "p (1 - p) without bias, mean over the pixels, relative to the exact posterior"),
    "miscalibration": ("1", "mean absolute difference of P(object) from the exact posterior"),
    "crps": ("px", "fair CRPS of the distance, mean over all pixels"),
}
# What the judge needs of a study
_READ = ("std", "probability", "inside", "drawn", "f1", "fragments", "posterior", "crps", "ranks")


def unbiased_variance(
    probability: xr.DataArray,  # Share of the members for which a pixel is object; NaN outside the image
    members: xr.DataArray | int,  # How many
) -> xr.DataArray:  # Without row and column
    "Disagreement p (1 - p), mean over the pixels, without the bias of a finite number of members."
    return (probability * (1 - probability)).mean(("row", "column")) * members / (members - 1)


def _ratio(part: xr.DataArray, whole: xr.DataArray) -> xr.DataArray:
    "NaN where nothing is uncertain."
    return part / whole.where(whole > 0)


def judge_case(
    one: xr.Dataset,  # A case of a study, or from `side_by_side`
    reference: str = REFERENCE,  # Name of the method that the others are compared with
) -> xr.Dataset:  # See UNITS; dimension `method`, the reference run among them
    "Quality of each method's masks and of their spread; NaN where the exact posterior is not known."
    one, pixels = one[[name for name in _READ if name in one]].load(), ("row", "column")
    std, p = (one[name].where(one["inside"]).astype(float) for name in ("std", "probability"))
    spread, uncertain = std.mean(pixels), unbiased_variance(p, one["drawn"])

    def long(values):
        return values.sel({"method": reference}, drop=True)

    differ = one["ranks"].sum("rank")  # pixels where members or truth do; elsewhere the CRPS is 0
    exact = one["posterior"].where(one["inside"]) if "posterior" in one else xr.full_like(long(p), np.nan)
    found = {
        "f1_one": one["f1"].sel(estimator="member", drop=True),
        "f1_mean": one["f1"].sel(estimator="mmse", drop=True),
        "spread": spread,
        "spread_ratio": _ratio(spread, long(spread)),
        "spread_correlation": xr.corr(std, long(std), pixels),
        "disagreement": _ratio(uncertain, long(uncertain)),
        "fragments": one["fragments"] / max(1, ndimage.label(long(p).values >= 0.5)[1]),
        "raters": _ratio(uncertain, (exact * (1 - exact)).mean(pixels)),
        "miscalibration": abs(p - exact).mean(pixels),
        "crps": one["crps"].where(differ > 0, 0.0) * differ / one["inside"].sum(pixels),
    }
    return xr.Dataset({name: values.drop_attrs() for name, values in found.items()})


def judge(
    study: xr.Dataset,  # From `open_study`
    reference: str = REFERENCE,  # Name of the method that the others are compared with
) -> xr.Dataset:  # See UNITS; dimensions (way, case), with the sampler's settings and its calls along `way`
    "Compare all methods of a study with a long run of the same weights. ValueError where that run is missing."
    names = study["method"].values.tolist()
    if reference not in names or len(names) < 2:
        raise ValueError(f"The study has the methods {', '.join(names)}: {reference!r} and others are needed.")
    rows = [judge_case(study.isel(case=k), reference) for k in range(study.sizes["case"])]
    values = {name: np.stack([row[name].values for row in rows], axis=1) for name in UNITS}
    found = xr.Dataset({name: (("way", "case"), each) for name, each in values.items()})
    settings = [json.loads(text) for text in study["sampling"].values]
    estimate = study["f1"].sel({"method": reference, "estimator": "initial_estimate"}).values
    found = found.assign_coords(
        {"way": names, "case": study["case"].values, "calls": ("way", study["calls"].values)}
        | {key: ("way", [str(one[key]) for one in settings]) for key in SAMPLER_FIELDS}
        | {"f1_initial_estimate": ("case", estimate), "group": ("case", study["group"].values)}
    )
    for name, (unit, meaning) in (
        UNITS | {"f1_initial_estimate": ("1", "F1 of the encoder's initial estimate")}
    ).items():
        found[name].attrs = {"units": unit, "long_name": meaning}
    found = found.drop_sel(way=reference) if reference == REFERENCE else found
    return found.assign_attrs(_about(study, reference))


def _about(study: xr.Dataset, reference: str) -> dict:
    "What was compared with what."
    long, first = study.sel({"method": reference}), study.isel(method=0)
    about = {name: first[name].item() for name in ("members", "seed", "weights", "weights_checksum")}
    about |= {name: first[name].item() for name in ("boundary", "truncation_px", "reach_px")}
    settings = {f"reference_{key}": value for key, value in plain(json.loads(long["sampling"].item())).items()}
    about |= {"reference": reference, "reference_members": long["members"].item()} | settings
    whose = {"tissue": "one simulated rater", "raters": "what at least half of the raters drew"}
    truth = whose.get(study.attrs["dataset"], "the annotation")
    kept = {name: study.attrs[name] for name in ("plan", "dataset", "split", "sdfdiff_version")}
    return {"title": "sdfdiff frontier", "truth": truth} | about | kept


def side_by_side(
    ensembles: dict[str, xr.Dataset],  # By name: of one image, with all members kept; one of them is the reference
    case: Prepared,  # The image
) -> xr.Dataset:  # As a case of a study, as far as `judge_case` reads it
    "Ensembles in memory, whoever drew them, as a study holds them."
    rows = []
    for drawn in ensembles.values():
        marks = scored(drawn, case.truth)
        maps = drawn[["std", "probability"]].reset_coords(drop=True)
        numbers = {"f1": ("estimator", marks["f1"]), "fragments": marks["fragments"], "drawn": marks["drawn"]}
        numbers |= {"crps": marks["crps"], "ranks": ("rank", marks["ranks"])}
        rows.append(maps.drop_vars(("row", "column")).assign(numbers))
    found = xr.concat(rows, "method").assign_coords(method=list(ensembles), estimator=list(ESTIMATORS))
    known = {"inside": np.ones(case.truth.shape, bool)}
    known |= {} if case.posterior is None else {"posterior": case.posterior}
    return found.assign({name: (("row", "column"), values) for name, values in known.items()})


def scenes(
    model: Model,  # Tells how images are prepared
    count: int,  # How many
) -> list[Prepared]:
    "Scenes of synthetic tissue, from seed 1000 on; the truth is what most raters draw, so that it does not scatter."
    found = [prepare_case(paths, model.preparation) for paths in find_cases("tissue", only=count)]
    return [replace(one, truth=one.posterior >= 0.5) for one in found]
