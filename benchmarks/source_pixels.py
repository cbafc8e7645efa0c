"""What the paper's size of glands costs: `python -m benchmarks.source_pixels DIR data/source_pixels.nc [FILE ...]`.

DIR holds the GlaS images. `glands` sees each of them at one scale, `glands_paper` stretched to 128 by 128 pixels, so
their own pixels are not the same. Here all answers are brought back to the pixels of the image file and judged there,
beside its annotation: 19 validation images, 32 members, seed 0, noise of its own for each image, one and ten calls; no
test image is read. Distances are computed again, from the masks as they lie in the image, and are in micrometres.

Further weights are judged beside these two. `runs/glands_earlier.safetensors` are the glands of an earlier version, at
the paper's size, too (data/README.md says how to get them). `runs/glands_small.safetensors` is trained if it is not
there, half an hour of one core: a network as small as `glands_paper`, with the same steps and seed, but at the scale
of `glands`, so that these two differ in their preparation only.

`ceiling` is the F1 of the annotation itself after it went to the size of the network and back.
"""

import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from sdfdiff.diffusion.fitting import SETTINGS, fit
from sdfdiff.diffusion.model import Model, load_model, save_weights
from sdfdiff.distance import signed_distance
from sdfdiff.ensembles.collection import at_source, ensemble, source_mask
from sdfdiff.ensembles.method import METHODS
from sdfdiff.files import write_dataset
from sdfdiff.images.cases import Case, find_cases, prepare_case, read_case
from sdfdiff.images.preparation import GLANDS
from sdfdiff.study.plan import case_seed
from sdfdiff.uncertainty.calibration import reliability
from sdfdiff.uncertainty.errors import auroc
from sdfdiff.uncertainty.fields import bootstrap, named
from sdfdiff.uncertainty.forecasts import crps
from sdfdiff.uncertainty.metrics import scores

TITLE, MEMBERS, REACH = "sdfdiff source pixels", 32, 25.0  # um: distances are cut here, ten network pixels of `glands`
CALLS = {"one call": "fast", "ten calls": "default"}
ESTIMATORS = ("member", "mmse", "majority", "initial_estimate")
QUANTITIES = {
    "f1": ("1", "F1 in the pixels of the image; of a member the mean over all"),
    "iou": ("1", "IoU, likewise"),
    "auroc": ("1", "AUROC of the entropy of P for the wrong pixels of the mask that is shown"),
    "crps": ("um", "fair CRPS of the signed distance, mean over all pixels"),
    "variance": ("um^2", "predicted squared error of the members' mean distance, mean over the image"),
    "squared_error": ("um^2", "squared error of the members' mean distance, mean over the image"),
    "ceiling": ("1", "F1 of the annotation brought to the size of the network and back"),
}


def measured(
    drawn: xr.Dataset,  # An ensemble that knows its source's rows and columns
    truth: np.ndarray,  # Boolean, in the pixels of the source
    microns: float,  # um per pixel of the source
    reach: float = REACH,  # um: distances are cut here
) -> dict[str, tuple]:  # Dimensions and values of QUANTITIES but for `ceiling`, and the sums of `reliability`
    "One image and one way, judged where the annotation was drawn."
    level = drawn.attrs["threshold_px"]
    masks = np.stack([at_source(drawn, one) <= level for one in drawn["distance"].values])
    p, shown = np.clip(at_source(drawn, drawn["probability"].values), 0, 1), source_mask(drawn)
    means = [at_source(drawn, drawn[name].values) <= level for name in ("mean", "initial_estimate")]
    each = scores(masks, np.broadcast_to(truth, masks.shape))
    others = scores(np.stack([means[0], shown, means[1]]), np.broadcast_to(truth, (3, *truth.shape)))
    found = {name: ("estimator", np.array([each[name].mean(), *others[name]])) for name in ("f1", "iou")}
    found["auroc"] = (), float(auroc(-np.abs(p - 0.5), shown != truth))
    cut = np.stack([signed_distance(one, reach / microns, "half_pixel") for one in masks]) * microns
    true = signed_distance(truth, reach / microns, "half_pixel") * microns
    found["crps"] = (), float(crps(named(cut, "member"), true))
    found["variance"] = (), float(cut.var(0, ddof=1, dtype=float).mean() * (1 + 1 / len(cut)))
    found["squared_error"] = (), float(np.square(cut.mean(0, dtype=float) - true).mean())
    return found | {f"p_{name}": ("bin", one.values) for name, one in reliability(p, truth).items()}


def ceiling(
    truth: np.ndarray,  # Boolean, in the pixels of the source
    prepared: np.ndarray,  # The same as the network sees it
) -> float:  # F1
    "What no network can pass that answers on its own pixels: the annotation's own way there and back."
    about = {"source_rows": truth.shape[0], "source_columns": truth.shape[1]}
    back = at_source(xr.Dataset(attrs=about), signed_distance(prepared, 10.0, "half_pixel")) <= 0
    return float(scores(back, truth)["f1"])


def judged(case: Case, models: dict[str, Model]) -> xr.Dataset:
    "One image in all ways; dims (case, way)."
    truth, rows = case.labels > 0, {}
    for (name, model), (calls, quality) in product(models.items(), CALLS.items()):
        if quality == "fast" and not model.network.architecture.one_call:
            continue
        seen = prepare_case(case, model.preparation)
        way = replace(METHODS[quality], members=MEMBERS, seed=case_seed(0, case.name))
        how = {"source_shape": truth.shape, "unseen": seen.unseen, "progress": False}
        row = measured(ensemble(model, seen.image, way, **how), truth, case.microns)
        rows[f"{name}, {calls}"] = xr.Dataset(row | {"ceiling": ((), ceiling(truth, seen.truth))})
    found = xr.concat(rows.values(), xr.DataArray(list(rows), dims="way", name="way"))
    sums = {"case": [case.name], "group": ("case", [case.group]), "estimator": list(ESTIMATORS)}
    return found.expand_dims("case").assign_coords(sums)


def small_glands(
    root: Path,  # GlaS
    out: Path,  # File to write, ending in .safetensors; one that is there is kept
    steps: int | None = None,  # None: those of the setting
) -> Model:
    "As `sdfdiff train glas_paper --no-validation`, but at the scale of `glands`; goes on where it was interrupted."
    if not out.exists():
        setting = replace(SETTINGS["glas_paper"], preparation=GLANDS)
        part = out.with_name(f"{out.stem}_float16.safetensors")
        fit("glas", root, part, steps, setting=setting, validate=False, resume=True)
        save_weights(out, load_model(part, dtype=torch.float32), dtype=torch.int8)  # as the others are
    return load_model(out)


def differences(
    table: xr.Dataset,  # Dims (case, way), of `main`
    weights: str,  # One of the three
    other: str,  # Another of them
    calls: str,  # "one call" or "ten calls"
) -> dict[str, np.ndarray]:  # By quantity: estimate, low and high end of the 95 % interval over patients
    "What one network has more than the other, image by image."
    one, two = (table.sel(way=f"{name}, {calls}") for name in (weights, other))
    gap = (one - two).drop_vars("way", errors="ignore")
    found = {f"F1 {name}": gap["f1"].sel(estimator=name, drop=True) for name in ESTIMATORS}
    found |= {name: gap[name] for name in ("auroc", "crps", "ceiling")}
    how = {"groups": table["group"].values, "skipna": True}
    return {name: bootstrap(each.reset_coords(drop=True), **how).values for name, each in found.items()}


def text(
    table: xr.Dataset,  # Of `main`
) -> str:  # Lines
    "Means over the images, and the paired differences of the paper's size from the scale of `glands`."
    lines = [f"{table.sizes['case']} images of {len(set(table['group'].values.tolist()))} patients"]
    for way in table["way"].values.tolist():
        own = table.sel(way=way)
        skill = float(np.sqrt(own["variance"].mean() / own["squared_error"].mean()))
        said = [f"F1 {name} {float(own['f1'].sel(estimator=name).mean()):.4f}" for name in ESTIMATORS]
        said += [f"{name} {float(own[name].mean()):.4f}" for name in ("auroc", "crps", "ceiling")]
        lines.append(f"  {way:24} spread/error {skill:.2f}, {', '.join(said)}")
    for way in table["way"].values.tolist():
        other, calls = way.split(", ")
        if other != "glands_paper":
            found = differences(table, "glands_paper", other, calls)
            said = ["{} {:+.4f} [{:+.4f}, {:+.4f}]".format(name, *bounds) for name, bounds in found.items()]
            lines += [f"  glands_paper less {other}, {calls}:", *(f"    {one}" for one in said)]
    return "\n".join(lines)


def main(root: str, out: str, *files: str) -> None:
    models, found = {name: load_model(name) for name in ("glands", "glands_paper")}, []
    for path in map(Path, files):
        models[path.stem] = small_glands(Path(root), path) if path.stem == "glands_small" else load_model(path)
    for paths in find_cases("glas", Path(root), "validation"):
        found.append(judged(read_case(paths), models))
        print(paths.name, flush=True)
    table = xr.concat(found, "case")
    for name, (unit, words) in QUANTITIES.items():
        table[name].attrs = {"units": unit, "long_name": words}
    about = {"title": TITLE, "members": MEMBERS, "seed": 0, "reach_um": REACH}
    about |= {f"checksum_{name}": model.about["checksum"] for name, model in models.items()}
    about["command"] = " ".join(["python -m benchmarks.source_pixels DIR data/source_pixels.nc", *files])
    write_dataset(table.assign_attrs(about), Path(out), force=True)
    print(text(table))


if __name__ == "__main__":
    main(*sys.argv[1:])
