"What tests of studies need: tiny networks on disk, folders of made-up images, datasets that look like a study."

from dataclasses import replace

import numpy as np
import xarray as xr
from PIL import Image
from small_networks import random_network

from sdfdiff.diffusion.model import Model, save_weights
from sdfdiff.distance import signed_distance
from sdfdiff.ensembles.collection import label
from sdfdiff.ensembles.method import untuned
from sdfdiff.images.preparation import TISSUE
from sdfdiff.images.synthetic import tissue
from sdfdiff.study import store
from sdfdiff.study.schema import NUMBERS, SCORE_LABELS, scored

QUICK = untuned("dpm_sde", 2)
REACH = 10.0  # px
UNITS = {"reach_px": REACH, "truncation_px": REACH, "boundary": "half_pixel", "data_scale": 0.2, "sigma_min": 0.001}


def tiny_weights(path, seed=0, preparation=TISSUE):
    "A small network with random weights, as a file."
    channels = 3 if preparation.colour == "rgb" else 1
    save_weights(
        path, Model(random_network(channels, seed), preparation=preparation, about={"name": path.stem}), force=True
    )
    return str(path)


def quick(name, weights, members=3, **settings):
    "A method of two steps."
    return replace(QUICK, name=name, weights=weights, members=members, **settings)


def folder(root, shapes=((48, 40), (40, 64), (56, 48)), empty=()):
    "Images of different sizes with masks; those in `empty` have no object."
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for k, shape in enumerate(shapes):
        scene = tissue(k, shape)
        mask = (scene.rate(np.random.default_rng(k)) > 0) & (k not in empty)
        Image.fromarray(np.round(scene.image * 255).astype(np.uint8)).save(root / "images" / f"{k}.png")
        Image.fromarray(mask).save(root / "masks" / f"{k}.png")
    return root


def content(store):
    "Every file of a store with its bytes."
    return {str(path.relative_to(store)): path.read_bytes() for path in sorted(store.rglob("*")) if path.is_file()}


def drawn_from(masks, initial_estimate=None, threshold=0.0):
    "The ensemble whose members are these masks, shape (member, row, column)."
    distance = np.stack([signed_distance(mask, REACH, "half_pixel") for mask in masks]).astype(np.float32)
    fields = {
        "distance": (("member", "row", "column"), distance),
        "area": (("every_member",), masks.sum((1, 2))),
        "mean": distance.mean(0),
        "std": distance.std(0, ddof=1),
        "probability": masks.mean(0).astype(np.float32),
        "initial_estimate": distance[0] if initial_estimate is None else initial_estimate,
    }
    return label(
        fields,
        {"threshold_px": threshold, "members": len(masks), **UNITS},
        masks.shape[1:],
    )


def case_of(name, ensembles, truth, raters=None, posterior=None, group=None):
    "One case of a study, of ensembles by method."
    rows = []
    for drawn in ensembles.values():
        one = drawn[["mean", "std", "probability", "initial_estimate"]].drop_vars(
            ["row", "column", "member", "every_member"], errors="ignore"
        )
        marks = {
            key: value
            for key, value in scored(drawn, truth, raters).items()
            if raters is not None or key[:3] not in ("ged", "hun")
        }
        rows.append(one.assign({key: (NUMBERS[key][0], np.float64(value)) for key, value in marks.items()}))
    found = xr.concat(rows, "method")
    found["truth"], found["inside"] = (("row", "column"), truth), (("row", "column"), np.ones(truth.shape, bool))
    if raters is not None:
        found["raters"] = ("rater", "row", "column"), raters.astype(np.float32)
    if posterior is not None:
        found["posterior"] = ("row", "column"), posterior.astype(np.float32)
    about = [drawn.attrs for drawn in ensembles.values()]
    columns = {
        "members": [one["members"] for one in about],
        "threshold_px": [one["threshold_px"] for one in about],
        "reach_px": [REACH] * len(about),
        "truncation_px": [REACH] * len(about),
        "boundary": [one["boundary"] for one in about],
    }
    found = found.assign_coords(
        method=list(ensembles),
        **{name: list(labels) for name, labels in SCORE_LABELS.items()},
        case=name,
        group=group or name,
        rows=truth.shape[0],
        columns=truth.shape[1],
    )
    return found.assign_coords({key: ("method", value) for key, value in columns.items()}).drop_attrs()


def padded(case, rows, columns):
    "The same case in a study of larger images."
    more = {"row": (0, rows - case.sizes["row"]), "column": (0, columns - case.sizes["column"])}
    boolean = {name: case[name].pad(more, constant_values=False) for name in ("truth", "inside")}
    return (
        case.drop_vars(list(boolean))
        .pad(more)
        .assign(boolean)
        .assign_coords({name: case[name] for name in case.coords if not {"row", "column"} & set(case[name].dims)})
    )


def study_of(cases):
    "A study of cases of one size."
    return xr.concat(cases, "case", coords="different", compat="equals").transpose("case", "method", ...)


def stopped_at(monkeypatch, number: int) -> list:
    "Ctrl-C is pressed when a study begins to draw its ensemble of this number; the list grows with each that is begun."
    drawn, ensemble = [], store.ensemble

    def stopped(*given, **more):
        drawn.append(1)
        if len(drawn) == number:
            raise KeyboardInterrupt
        return ensemble(*given, **more)

    monkeypatch.setattr(store, "ensemble", stopped)
    return drawn
