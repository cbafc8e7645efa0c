"""Why is the mean of distances a poorer detector of wrong pixels than P(object)? `python -m benchmarks.detectors DIR`.

DIR holds monuseg/ and glas/; their validation images and 24 scenes of tissue get 128 members of one call each (seed 0,
noise of its own for each image; no test image is read). Every map is asked for the same wrong pixels: those of the
mask that is shown, P >= 1/2. What could make the mean of distances poorer is changed one at a time: the reach at which
distances are cut, squared error (the encoder learned a distance and a P(object) from the same features), the number of
members, and ties. Intervals are over patients.

Which quarter of an image will fail? Six nuclei images are too few to say, their 24 quarters are a few more. And which
way to draw is best at equal time? Members of one call beside as many of ten calls as take the same time, on tissue.
"""

import sys
from pathlib import Path
from time import process_time

import numpy as np
import xarray as xr

from sdfdiff.diffusion.model import load_model
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.images.cases import find_cases, prepare_case
from sdfdiff.study.plan import case_seed
from sdfdiff.uncertainty.errors import auroc
from sdfdiff.uncertainty.fields import bootstrap
from sdfdiff.uncertainty.forecasts import expected_loss
from sdfdiff.uncertainty.metrics import scores

MEMBERS, SCENES = 128, range(2000, 2024)
WHOLE = "P(object), as shown"


def maps(
    fields: xr.Dataset,  # An ensemble of weights that learned P(object), with all its members
    reaches: tuple[float, ...] = (1.0, 3.0, 10.0),  # Distances are cut here before their mean, px
    counts: tuple[int, ...] = (4, 8, 32, 128),  # The first so many members
    soft: float = 0.25,  # Width of the logistic that makes a member's edge soft, px
) -> dict[str, np.ndarray]:  # Maps that are large where the answer is uncertain, by name, shape (row, column)
    "Everything that may tell where the mask is wrong: how near to even odds, or to the edge, a pixel is."
    distance, edge = fields["distance"].values, fields.attrs["threshold_px"]

    def odds(p):
        return -np.abs(p - 0.5)

    found = {WHOLE: odds(fields["probability"].values), "encoder: P": odds(fields["initial_probability"].values)}
    found["encoder: distance"] = -np.abs(fields["initial_estimate"].values - edge)
    for count in counts:
        found[f"share of {count} members"] = odds((distance[:count] <= edge).mean(axis=0))
    found[f"soft share of {len(distance)}"] = odds((1 / (1 + np.exp(((distance - edge) / soft).clip(-50, 50)))).mean(0))
    for reach in reaches:
        found[f"mean, cut at {reach:g} px"] = -np.abs(distance.clip(-reach, reach).mean(0, dtype=float) - edge)
    found["median"] = -np.abs(np.median(distance, axis=0) - edge)
    return found


def quarters(
    fields: xr.Dataset,  # An ensemble with all its members
    truth: np.ndarray,  # Boolean (row, column)
    members: int = 32,  # The first so many
) -> list[tuple[float, float]]:  # Expected and actual 1 - F1 of each quarter
    "What the members expect the shown mask to lose in a quarter of the image, and what it loses there."
    masks = fields["distance"].values[:members] <= fields.attrs["threshold_px"]
    shown, (rows, columns) = fields["probability"].values >= 0.5, truth.shape
    found = []
    for row in (slice(0, rows // 2), slice(rows // 2, rows)):
        for column in (slice(0, columns // 2), slice(columns // 2, columns)):
            expected = expected_loss(masks[:, row, column], shown[row, column])
            actual = 1 - scores(shown[row, column], truth[row, column])["f1"]
            found.append((float(expected), float(actual)))
    return found


def judged(
    weights: str,  # Name of the weights
    dataset: str,  # One of `sdfdiff.images.cases.DATASETS`
    root: Path | None,  # Its folder; None for tissue
) -> tuple[xr.DataArray, xr.DataArray]:  # AUROC (map, case), and losses (case, quarter, kind); both with `group`
    "Draw the members and ask every map for the wrong pixels of the shown mask, image by image."
    model, rows, names, groups, losses = load_model(weights), [], [], [], []
    scenes = [f"scene {seed}" for seed in SCENES]
    for paths in find_cases(dataset, root, *(("all", scenes) if dataset == "tissue" else ("validation", None))):
        case = prepare_case(paths, model.preparation)
        how = {"members": MEMBERS, "seed": case_seed(0, paths.name), "unseen": case.unseen, "progress": False}
        fields = ensemble(model, case.image, "fast", keep=MEMBERS, **how)
        wrong = (fields["probability"].values >= 0.5) != case.truth
        found = {name: float(auroc(one, wrong)) for name, one in maps(fields).items()}
        rows, names, groups = [*rows, list(found.values())], list(found), [*groups, case.group]
        losses.append(quarters(fields, case.truth))
    aurocs = xr.DataArray(np.transpose(rows), {"map": names, "group": ("case", groups)}, ("map", "case"))
    kinds = {"group": ("case", groups), "kind": ["expected", "actual"]}
    return aurocs, xr.DataArray(losses, kinds, ("case", "quarter", "kind"))


def correlation(
    losses: xr.DataArray,  # Dims (case, quarter, kind), from `judged`
) -> np.ndarray:  # Estimate, and its 95 % interval over patients
    "Correlation of expected and actual loss over all quarters of all images."
    x, y = (losses.sel(kind=kind, drop=True) for kind in ("expected", "actual"))
    sums = xr.Dataset({"n": x * 0 + 1, "x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}).sum("quarter")

    def of(one):
        mean = one / one["n"]
        product = (mean["xx"] - mean["x"] ** 2) * (mean["yy"] - mean["y"] ** 2)
        return (mean["xy"] - mean["x"] * mean["y"]) / np.sqrt(product)

    return bootstrap(sums.drop_vars("group"), of, groups=losses["group"].values, limits=(-1, 1)).values


def print_table(title: str, aurocs: xr.DataArray) -> None:
    "Mean AUROC of each map, and how far it is from that of P(object) as shown, with its interval."
    groups, first = aurocs["group"].values, aurocs.sel(map=WHOLE, drop=True)
    print(
        f"\n{title}: {aurocs.sizes['case']} images of {len(set(groups.tolist()))} patients or scenes, {MEMBERS} members"
    )
    for name in aurocs["map"].values.tolist():
        gap = bootstrap(aurocs.sel(map=name, drop=True) - first, groups=groups).values
        beside = "" if name == WHOLE else "  {:+.3f} [{:+.3f}, {:+.3f}]".format(*gap)
        print(f"  {name:24} {float(aurocs.sel(map=name).mean()):.3f}{beside}")


def at_equal_time(
    scenes: range = SCENES,  # Seeds of scenes of tissue
    ways: tuple[tuple[str, int], ...] = (("fast", 32), ("default", 3), ("default", 4), ("default", 32)),  # And members
) -> dict[str, np.ndarray]:  # Shape (scene, 3): |P - exact|, AUROC of P for the shown mask, seconds of one core
    "What weights that can draw in both ways give for the time of each, the encoder's time included."
    model, found = load_model("tissue_fast"), {f"{name}, {members}": [] for name, members in ways}
    for paths in find_cases("tissue", None, "all", [f"scene {seed}" for seed in scenes]):
        case = prepare_case(paths, model.preparation)
        for name, members in ways:
            how = {"members": members, "seed": case_seed(0, paths.name), "progress": False, "workers": 1}
            start = process_time()
            p = ensemble(model, case.image, name, **how)["probability"].values
            spent, wrong = process_time() - start, (p >= 0.5) != case.truth
            row = [np.abs(p - case.posterior).mean(), float(auroc(-np.abs(p - 0.5), wrong)), spent]
            found[f"{name}, {members}"].append(row)
    return {name: np.array(rows) for name, rows in found.items()}


def main(root: str) -> None:
    drawn = at_equal_time()
    first = next(iter(drawn))
    for name, rows in drawn.items():
        gap = "{:+.4f} [{:+.4f}, {:+.4f}]".format(*bootstrap(rows[:, 0] - drawn[first][:, 0]).values)
        error, found, seconds = rows.mean(axis=0)
        said = f"{name:12} |P - exact| {error:.4f}, AUROC {found:.3f}, {seconds:.2f} s"
        print(said + f"; |P - exact| less that of {first}: {gap}" * (name != first))
    for weights, dataset in (("tissue_fast", "tissue"), ("nuclei", "monuseg"), ("glands", "glas")):
        aurocs, losses = judged(weights, dataset, None if dataset == "tissue" else Path(root, dataset))
        print_table(weights, aurocs)
        said = "{:.2f} [{:.2f}, {:.2f}]".format(*correlation(losses))
        print(f"  expected and actual loss of {losses.sizes['case'] * 4} quarters, 32 members: correlation {said}")


if __name__ == "__main__":
    main(*sys.argv[1:])
