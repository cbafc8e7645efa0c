"""What glass beside tissue does to the mask of the tissue: `python -m benchmarks.glass DIR`.

DIR holds monuseg/ and glas/. It prints the table of notebook 1.2 in half a minute.
"""

import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.ensembles.collection import ensemble, masks
from sdfdiff.images.cases import Case, find_cases, read_case
from sdfdiff.images.preparation import see_image
from sdfdiff.uncertainty.metrics import scores

SHARES, CROP = (0.05, 0.1, 0.2, 0.4), 400  # Crop: rows and columns of an image that are used


def beside_glass(
    model: Model,  # The weights
    cases: Iterable[Case],  # Of their images the upper left corner is used
    shares: tuple[float, ...] = SHARES,  # Of the columns that stay tissue
    **how,  # Settings of the method that differ
) -> np.ndarray:  # F1 in the remaining tissue, shape (image, share, 2): glass as it is, glass mirrored away
    "The right part of each image becomes glass; the mask of the rest against that of the whole image."
    found = []
    for case in cases:
        image, preparation, whole = case.image[:CROP, :CROP], model.preparation.at_microns(case.microns), None
        for share in (1.0, *shares):
            part, columns = image.copy(), round(share * image.shape[1])
            part[:, columns:] = 0.95
            for fill in (False, True):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that glass is not seen is what is asked for
                    prepared, unseen = see_image(part, preparation, fill=fill)
                drawn = ensemble(model, prepared, "draft", members=4, unseen=unseen, progress=False, **how)
                mask = masks(drawn)["mmse"]
                whole = mask if whole is None else whole
                seen = np.s_[:, : round(share * mask.shape[1])]
                found.append(float(scores(mask[seen], whole[seen])["f1"]))
    return np.reshape(found, (-1, 1 + len(shares), 2))[:, 1:]


def main(root: str) -> None:
    for weights, dataset, count in (("nuclei", "monuseg", 3), ("glands", "glas", 4)):
        cases = find_cases(dataset, Path(root, dataset), "train")[:count]
        found = beside_glass(load_model(weights), map(read_case, cases))
        for share, one in zip(SHARES, np.moveaxis(found, 1, 0), strict=True):
            before, mirrored = one.mean(axis=0)
            gains = " ".join(f"{gain:+.2f}" for gain in one[:, 1] - one[:, 0])
            print(f"{weights}, {share:4.0%} tissue: F1 {before:.2f} as it is, {mirrored:.2f} mirrored (gains {gains})")


if __name__ == "__main__":
    main(*sys.argv[1:])
