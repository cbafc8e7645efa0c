"""What half a pixel of shift in the masks does to F1: `python -m benchmarks.shifted_masks DIR`.

DIR holds monuseg/ and glas/. The validation images get 32 members each (method `default`, seed 0, noise of its own for
each image); their masks are compared with the annotation as it is made smaller today, and as it was before: with the
label at the centre of each new pixel. Four minutes, most of them for nuclei.
"""

import sys
from pathlib import Path

import numpy as np

from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.ensembles.collection import ensemble, masks
from sdfdiff.images.cases import CasePaths, prepare_case, read_case, find_cases
from sdfdiff.study.plan import case_seed
from sdfdiff.uncertainty.fields import bootstrap
from sdfdiff.uncertainty.metrics import scores


def centre_labels(
    labels: np.ndarray,  # Shape (row, column)
    shape: tuple[int, int],  # New rows and columns
) -> np.ndarray:  # Same kind, shape (row, column)
    "The label at the centre of each new pixel; at half the size that is half an old pixel too early."
    places = [((np.arange(new) + 0.5) * old / new).astype(int) for old, new in zip(labels.shape, shape)]
    return labels[np.ix_(*places)]


def gains(
    model: Model,  # The weights
    paths: CasePaths,  # A case
    members: int = 32,  # How many are drawn
) -> dict[str, float]:  # By mask: F1 against today's truth less F1 against the shifted one
    "What the same masks gain when they are judged by a truth that lies right."
    case = read_case(paths)
    seen = prepare_case(case, model.preparation)
    how = {"members": members, "seed": case_seed(0, paths.name), "unseen": seen.unseen, "progress": False}
    before = centre_labels(case.labels, seen.truth.shape) > 0
    drawn = masks(ensemble(model, seen.image, "default", **how))
    return {name: float(scores(one, seen.truth)["f1"] - scores(one, before)["f1"]) for name, one in drawn.items()}


def main(root: str) -> None:
    for weights, dataset in (("nuclei", "monuseg"), ("glands", "glas")):
        cases = find_cases(dataset, Path(root, dataset), "validation")
        found = [gains(load_model(weights), paths) for paths in cases]
        for name in found[0]:
            values = np.array([100 * one[name] for one in found])
            mean, low, high = bootstrap(values, groups=np.array([one.group for one in cases])).values
            print(f"{weights}, {len(cases)} images, {name:8}: {mean:+.2f} points of F1 [{low:+.2f}, {high:+.2f}]")


if __name__ == "__main__":
    main(*sys.argv[1:])
