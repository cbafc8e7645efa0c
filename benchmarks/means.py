"Sums over members, pixel by pixel: what is needed to ask why a better sampler can lower the F1 of the mean's mask."

import numpy as np
import xarray as xr

from sdfdiff.diffusion.model import Model
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.method import METHODS, untuned
from sdfdiff.images.cases import find_cases, prepare_case

WAYS = {"ancestral 3": untuned("ancestral", 2)} | {name: METHODS[name] for name in ("draft", "default", "reference")}
MEMBERS, SCENES, SEED, TITLE = 24, 8, 0, "sdfdiff means"


def _sums(members: np.ndarray) -> xr.Dataset:
    "Members that call a pixel object, and the sums of their distances there and elsewhere, in hundredths of a px."
    inside = members <= 0.5
    both = [np.rint(100 * (members * part).sum(0)).astype(np.int16) for part in (inside, ~inside)]
    found = {"inside": inside.sum(0).astype(np.uint8), "distance_inside": both[0], "distance_outside": both[1]}
    return xr.Dataset({name: (("row", "column"), values) for name, values in found.items()})


def means_study(
    model: Model,  # Of synthetic tissue
    scenes: int = SCENES,  # The first so many of the frontier
) -> xr.Dataset:  # inside, distance_inside, distance_outside: dims (case, way, row, column); initial_estimate
    "Draw the scenes of the frontier in each of WAYS, and keep sums over the members (about ten minutes)."
    rows = []
    for paths in find_cases("tissue", only=scenes):
        image = prepare_case(paths, model.preparation).image
        how = {"members": MEMBERS, "seed": SEED, "progress": False}
        drawn = {name: ensemble(model, image, way, **how) for name, way in WAYS.items()}
        row = xr.concat([_sums(one["distance"].values) for one in drawn.values()], "way")
        rows.append(row.assign(initial_estimate=drawn["draft"]["initial_estimate"].reset_coords(drop=True)))
    names = [paths.name for paths in find_cases("tissue", only=scenes)]
    about = {name: drawn["draft"].attrs[name] for name in ("weights_checksum", "threshold_px", "reach_px", "boundary")}
    found = xr.concat(rows, "case").assign_coords(way=list(WAYS), case=names)
    return found.assign_attrs(title=TITLE, members=MEMBERS, seed=SEED, **about)
