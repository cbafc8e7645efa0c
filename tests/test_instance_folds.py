"Three folds of nuclei: no network sees the patients it is judged on, and no way to split is chosen on them."

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import benchmarks.instances as module
from benchmarks.instances import WAYS, best_way, nuclei, nuclei_setting, trust
from sdfdiff.images.synthetic import tissue
from sdfdiff.uncertainty.instances import instance_scores, instance_sums


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "Six images of five patients in the layout of MoNuSeg, four of them with label images."
    folder = tmp_path_factory.mktemp("monuseg")
    for part in ("train/Tissue Images", "train/Binary Masks", "instances"):
        (folder / part).mkdir(parents=True)
    for k, patient in enumerate((1, 1, 2, 3, 4, 5)):
        scene, name = tissue(40 + k, (64, 64)), f"TCGA-AA-000{patient}-01Z-00-DX{k}"
        labels = scene.rate(np.random.default_rng(k)).astype(np.uint16)
        Image.fromarray(np.round(255 * scene.image).astype(np.uint8)).save(
            folder / "train/Tissue Images" / f"{name}.tif"
        )
        Image.fromarray(labels > 0).save(folder / "train/Binary Masks" / f"{name}.png")
        if k not in (1, 5):
            Image.fromarray(labels).save(folder / "instances" / f"{name}.png")
    return folder


def test_each_fold_is_new_to_its_network_and_to_its_choice(root, tmp_path, monkeypatch):
    "The images of a fold's patients are not learned from; options are those best on the other folds."
    learned, chosen = [], []

    def trained(data, setting, start, out, **about):
        model = module.load_model(start)
        model = replace(model, about=model.about | {"line": setting.line, "name": out.stem} | about)
        module.save_weights(out, model)

    monkeypatch.setattr(module, "training_data", lambda cases, known, setting: learned.append((cases, known)))
    monkeypatch.setattr(module, "trained", trained)
    monkeypatch.setattr(module, "WAYS", WAYS[:2])
    monkeypatch.setattr(module, "VIEWS", 1)
    monkeypatch.setattr(module, "best_way", lambda sums, score: chosen.append(sums.sizes["case"]) or WAYS[1])
    setting = nuclei_setting(10)
    setting = replace(setting, preparation=replace(setting.preparation, scale=1.0, microns=0.25))
    found = nuclei(root, tmp_path, setting)
    assert found["case_name"].values.tolist() == [
        f"TCGA-AA-000{p}-01Z-00-DX{k}" for p, k in ((1, 0), (4, 4), (2, 2), (3, 3))
    ]
    assert found["fold"].values.tolist() == ["0", "0", "1", "2"] and chosen == [2, 2, 3, 3]
    groups = [{one.group[-1] for one in cases} for cases, _ in learned]
    assert groups == [{"2", "3", "5"}, {"1", "3", "4", "5"}, {"1", "2", "4", "5"}]
    assert all(len(known) == 4 for _, known in learned)
    assert (found["share"] == WAYS[1].share).all() and found.sizes["object"] == found["predicted"].sum()


def test_masks_are_guessed_objects_and_labels_are_kept(root):
    cases, known = module.known_one_by_one(root)
    assert len(cases) == 6 and len(known) == 4
    case = module.read_case(cases[1])  # a mask
    guessed = module.labels_of(case, False)
    assert ((guessed > 0) == (case.labels > 0)).all() and case.labels.max() == 1 < guessed.max()
    case = module.read_case(known[0])
    assert module.labels_of(case, True) is case.labels


def test_the_best_way_has_the_best_mean_of_the_images():
    "Not the best single image."
    truth = np.zeros((12, 20), int)
    truth[2:10, 2:9], truth[2:10, 11:18] = 1, 2
    answers = {0: (truth, 0 * truth), 1: (np.where(truth == 1, 1, 0), truth)}
    rows = [[instance_sums(answers[min(way, 1)][case], truth) for way in range(len(WAYS))] for case in range(2)]
    sums = xr.concat([xr.concat(row, "way") for row in rows], "case")
    assert (
        instance_scores(sums)["aji"].mean("case").values[:2].tolist() == [0.5, 0.75]
        and best_way(sums, "aji") == WAYS[1]
    )


def test_promises_that_are_kept_have_no_error():
    "Objects drawn with their own probability: hardly any error; of all the same promise: half a coin's."
    random, count = np.random.default_rng(0), 6000
    exists = random.integers(0, 17, count) / 16
    of = np.arange(count) % 4
    found = xr.Dataset(
        {"exists": ("object", exists), "iou": ("object", np.where(random.random(count) < exists, 0.8, 0.2))}
        | {"of": ("object", of), "case": np.arange(4)}
        | {"fold": ("case", list("0011"))}
    )
    numbers = trust(found)
    assert numbers["ece"] < 0.03 and numbers["ece_recalibrated"] < 0.03 and numbers["objects"] == count
    p = np.arange(17) / 16  # as often each
    above = (p[:, None] > p) + (p[:, None] == p) / 2
    exact = (p[:, None] * (1 - p) * above).sum() / (p.sum() * (1 - p).sum())
    assert abs(numbers["auroc"] - exact) < 0.02
    sure = trust(found.assign(exists=found["exists"] * 0 + 1))
    assert abs(sure["ece"] - 0.5) < 0.03 and sure["ece_recalibrated"] < 0.03 and sure["auroc"] == 0.5
