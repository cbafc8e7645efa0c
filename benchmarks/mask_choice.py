"""Which mask to show of an ensemble, by F1 and by area: `python -m benchmarks.mask_choice DIR`.

DIR holds monuseg/ and glas/; their validation images and 24 scenes of tissue get 16 members each, in two minutes of
one thread (seed 0, noise of its own for each image). No test image is read. Intervals are over patients. A table's
last columns: area over true area, how far that is off 1, area over the members' mean area, and the share of images
where the mask is larger than every member.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sdfdiff.diffusion.model import load_model
from sdfdiff.distance import signed_distance
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.images.cases import find_cases, prepare_case
from sdfdiff.images.synthetic import tissue
from sdfdiff.study.plan import case_seed
from sdfdiff.uncertainty.fields import bootstrap
from sdfdiff.uncertainty.metrics import scores

MEMBERS, SCENES, RATERS = 16, range(100, 124), 16
MEAN, MAJORITY = "mean, half a pixel", "majority, P >= 1/2"  # `mmse` and `majority` of `masks`


@dataclass(frozen=True, eq=False)
class Drawn:
    "The members of one image, and what is known of its mask."

    distance: np.ndarray  # Signed distances in pixels, (member, row, column)
    truths: np.ndarray  # Boolean (rater, row, column)
    group: str  # The patient
    threshold: float  # A member's mask is where its distance is at most this, pixels
    reach: float  # Distances are cut here before their mean, pixels
    posterior: np.ndarray | None = None  # Exact P(object), (row, column), where it is known

    @property
    def members(self) -> np.ndarray:  # Boolean (member, row, column)
        return self.distance <= self.threshold

    @property
    def share(self) -> np.ndarray:  # P(object), shape (row, column)
        return self.members.mean(axis=0)

    def mean(
        self,
        reach: float | None = None,  # Cut distances here, pixels; None: at the model's reach
    ) -> np.ndarray:  # Pixels, shape (row, column)
        "Mean of the members' distances."
        reach = self.reach if reach is None else reach
        return self.distance.clip(-reach, reach).mean(axis=0, dtype=np.float64)


def drawn_cases(
    weights: str,  # Name of the weights
    dataset: str,  # One of `sdfdiff.images.cases.DATASETS`
    root: Path | None,  # Its folder; None for tissue
) -> list[Drawn]:  # One per validation image, or per scene
    "Draw the members."
    model, found = load_model(weights), []
    scenes = [f"scene {seed}" for seed in SCENES]
    for paths in find_cases(dataset, root, *(("all", scenes) if dataset == "tissue" else ("validation", None))):
        case = prepare_case(paths, model.preparation)
        how = {"members": MEMBERS, "seed": case_seed(0, paths.name), "unseen": case.unseen, "progress": False}
        fields = ensemble(model, case.image, "default", **how)
        truths = case.truth[None] if case.raters is None else case.raters
        limits = fields.attrs["threshold_px"], fields.attrs["reach_px"]
        found.append(Drawn(fields["distance"].values, truths, case.group, *limits, case.posterior))
    return found


def exact_world(
    seed: int,  # Of the scene
    reach: float,  # Cut distances here, pixels
) -> Drawn:  # Members and truths are raters of one scene: no network, no error but chance
    "A scene whose members come from the distribution that the truths come from."
    scene = tissue(seed)
    masks = np.stack([scene.rate(np.random.default_rng((seed, 1, k))) > 0 for k in range(MEMBERS + RATERS)])
    distance = np.stack([signed_distance(mask, 10) for mask in masks[:MEMBERS]])
    return Drawn(distance, masks[MEMBERS:], str(seed), 0.5, reach, scene.probability())


def needed_share(
    depth: float,  # How deep a pixel lies in the members that hold it, pixels, at most the reach
    gap: float,  # How far it lies from the object in all others, pixels, at most the reach
    threshold: float = 0.5,  # Of the mean, pixels
) -> float:  # Share of the members
    "P from which on the mean distance says object, where -depth P + gap (1 - P) equals the threshold."
    return (gap - threshold) / (gap + depth)


def dice_mask(
    probability: np.ndarray,  # P(object), shape (row, column)
) -> np.ndarray:  # Boolean, same shape; empty if no pixel can be object
    "The mask with the largest expected overlap over expected mean size, 2 sum_A P / (|A| + sum P)."
    flat = probability.ravel().astype(np.float64)
    order = np.argsort(-flat, kind="stable")
    worth = 2 * np.cumsum(flat[order]) / np.maximum(np.arange(1, flat.size + 1) + flat.sum(), 1e-300)
    return probability >= flat[order[np.argmax(worth)]] if flat.any() else np.zeros(probability.shape, bool)


def sample_dice_mask(
    members: np.ndarray,  # Boolean (member, row, column)
) -> np.ndarray:  # Boolean (row, column)
    "The threshold of P whose mask has the largest mean F1 against the members."
    share = members.mean(axis=0)
    tried = [share >= (count - 0.5) / len(members) for count in range(1, len(members) + 1)]
    return tried[int(np.argmax([scores(mask, members)["f1"].mean() for mask in tried]))]


def soft_majority(
    one: Drawn,  # The members
) -> np.ndarray:  # Boolean (row, column)
    "P >= 1/2 of members with soft edges: each counts from 1 to 0 within half a pixel on both sides of the threshold."
    return one.distance.clip(one.threshold - 0.5, one.threshold + 0.5).mean(axis=0) <= one.threshold


FIXED: dict[str, Callable[[Drawn], np.ndarray]] = {
    MEAN: lambda one: one.mean() <= one.threshold,
    "mean, 0 px": lambda one: one.mean() <= 0,
    "uncut mean, half a pixel": lambda one: one.mean(np.inf) <= one.threshold,
    "mean cut at 1 px": lambda one: one.mean(1.0) <= one.threshold,
    MAJORITY: lambda one: one.share >= 0.5,
    "soft majority": soft_majority,
    "best expected F1 by P": lambda one: dice_mask(one.share),
    "best F1 of the members": lambda one: sample_dice_mask(one.members),
}


def p_masks(one: Drawn) -> list[np.ndarray]:
    "Every threshold of P."
    return [one.share >= (count - 0.5) / MEMBERS for count in range(1, MEMBERS + 1)]


def mean_masks(one: Drawn) -> list[np.ndarray]:
    "Thresholds of the mean distance, a sixteenth of a pixel apart."
    mean = one.mean()
    return [mean <= cut for cut in np.arange(-15, 16) / 16]


EXACT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "exact P >= 1/2": lambda probability: probability >= 0.5,
    "best expected F1, exact P": dice_mask,
}
CHOSEN = {"chosen P": p_masks, "chosen mean distance": mean_masks}


def f1_of(mask: np.ndarray, one: Drawn) -> float:
    "Mean over the truths."
    return float(scores(mask, one.truths)["f1"].mean())


def left_out(
    worth: np.ndarray,  # F1 of each threshold, shape (case, threshold)
    groups: np.ndarray,  # Patient of each case
) -> np.ndarray:  # Index of a threshold per case
    "For each case the threshold that is best on the images of all other patients."
    return np.array([worth[groups != group].mean(axis=0).argmax() for group in groups])


def all_masks(cases: list[Drawn]) -> dict[str, list[np.ndarray]]:
    "Every mask of every case, by the name of its rule."
    found = {name: [make(one) for one in cases] for name, make in FIXED.items()}
    for name, make in CHOSEN.items():
        tried = [make(one) for one in cases]
        worth = np.array([[f1_of(mask, one) for mask in masks] for masks, one in zip(tried, cases, strict=True)])
        picked = left_out(worth, np.array([one.group for one in cases]))
        found[name] = [masks[k] for masks, k in zip(tried, picked, strict=True)]
    known = [one.posterior for one in cases]
    if all(one is not None for one in known):
        found |= {name: [make(one) for one in known] for name, make in EXACT.items()}
    return found


def print_table(title: str, cases: list[Drawn]) -> None:
    "F1 and areas of every mask; differences of F1 to the mask of the mean, in hundredths."
    groups = [one.group for one in cases]
    areas = [one.members.sum(axis=(1, 2)) for one in cases]
    true = np.array([one.truths.sum(axis=(1, 2)).mean() for one in cases])
    member = np.array([area.mean() for area in areas])
    single = np.mean([np.mean([f1_of(mask, one) for mask in one.members]) for one in cases])
    found = all_masks(cases)
    worth = {name: np.array(list(map(f1_of, masks, cases))) for name, masks in found.items()}
    print(f"\n{title}: {len(cases)} images in {len(set(groups))} groups, {MEMBERS} members")
    print(
        f"{'mask':25} {'F1':>6} {'gain':>6} {'95 % interval':>16} "
        f"{'/true':>6} {'off by':>6} {'/member':>7} {'> all':>6}"
    )
    print(f"{'one member':25} {100 * single:6.2f} {'':23} {_ratio(member, true)} {1:7.2f}")
    for name, masks in found.items():
        area = np.array([mask.sum() for mask in masks])
        above = np.mean([mask.sum() > one.max() for mask, one in zip(masks, areas, strict=True)])
        gain, low, high = 100 * bootstrap(worth[name] - worth[MEAN], groups=np.array(groups)).values
        between = f"[{low:+.2f}, {high:+.2f}]"
        beside = np.mean(area[member > 0] / member[member > 0])
        print(
            f"{name:25} {100 * worth[name].mean():6.2f} {gain:+6.2f} {between:>16} {_ratio(area, true)} {beside:7.2f} "
            f"{above:6.0%}"
        )
    print_extra(cases, found[MEAN], found[MAJORITY], worth[MAJORITY])


def _ratio(area: np.ndarray, true: np.ndarray) -> str:
    "Mean ratio of two areas, and how far it is off, over the images that have some."
    ratio = area[true > 0] / true[true > 0]
    return f"{ratio.mean():6.2f} {np.abs(ratio - 1).mean():6.2f}"


def print_extra(
    cases: list[Drawn],  # The images
    shown: list[np.ndarray],  # Masks of the mean
    majority: list[np.ndarray],  # Masks of P >= 1/2
    worth: np.ndarray,  # F1 of these
) -> None:
    "What the mask of the mean adds to the majority: its P, how much of it is right, and what would be needed."
    extra = [mask & ~other for mask, other in zip(shown, majority, strict=True)]
    lost = sum(int((other & ~mask).sum()) for mask, other in zip(shown, majority, strict=True))
    share = np.concatenate([one.share[where] for one, where in zip(cases, extra, strict=True)])
    right = np.concatenate([one.truths.mean(axis=0)[where] for one, where in zip(cases, extra, strict=True)])
    total = sum(int(mask.sum()) for mask in majority)
    if share.size:
        print(
            f"beyond the majority: {share.size / total:+.1%} (and {-lost / total:+.1%}), of P {share.min():.2f} to "
            f"{share.max():.2f}, mean {share.mean():.2f}; {right.mean():.0%} of it is right, and it pays from "
            f"F1 / 2 = {worth.mean() / 2:.0%} on"
        )
    reach, threshold = cases[0].reach, cases[0].threshold
    needed = {depth: needed_share(min(depth, reach), reach, threshold) for depth in (0, 1, 3, 10)}
    print("P needed far from all else:", ", ".join(f"{depth} px deep {one:.2f}" for depth, one in needed.items()))
    for low, high in ((0.05, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 0.95)):
        inside = [(one.share >= low) & (one.share < high) for one in cases]
        true = np.concatenate([one.truths.mean(axis=0)[where] for one, where in zip(cases, inside, strict=True)])
        said = np.concatenate([one.share[where] for one, where in zip(cases, inside, strict=True)])
        print(f"  P from {low:.2f} to {high:.2f}: mean {said.mean():.2f}, truly {true.mean():.2f}, {true.size} pixels")


def main(root: str) -> None:
    for reach in (1.0, 10.0):
        print_table(f"raters as members, cut at {reach:g} px", [exact_world(seed, reach) for seed in SCENES])
    for weights, dataset in (("tissue", "tissue"), ("nuclei", "monuseg"), ("glands", "glas")):
        cases = drawn_cases(weights, dataset, None if dataset == "tissue" else Path(root, dataset))
        print_table(f"{weights}, cut at {cases[0].reach:g} px", cases)


if __name__ == "__main__":
    main(*sys.argv[1:])
