"Several classes: round trips, the projection, scores, raters, training, ensembles, commands and bad input."

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import f1_score, jaccard_score
from small_networks import random_network

from sdfdiff.beyond import class_models as models
from sdfdiff.beyond.class_files import CLASS_OUTPUTS, read_class_result, segment_class_file
from sdfdiff.beyond.class_scores import (
    class_brier,
    class_reliability,
    class_scores,
    class_summary,
    confusion,
    evaluate_classes,
    exact_class_probability,
    macro_mean,
    rate_classes,
)
from sdfdiff.beyond.classes import (
    checked_classes,
    class_distances,
    disagreement,
    one_hot,
    project,
    ranked,
    to_label_map,
    unranked,
)
from sdfdiff.beyond.plain_classes import PlainNetwork, plain_chances
from sdfdiff.command import main
from sdfdiff.diffusion.model import Model, load_model, save_weights
from sdfdiff.files import write_png
from sdfdiff.images.synthetic import tissue
from sdfdiff.provenance import output_paths

NAMES = ["stroma", "nucleus", "lumen"]


@st.composite
def label_maps(draw):
    "Random, nested or touching classes, some of them absent; one-pixel parts are frequent."
    classes, shape = draw(st.integers(2, 9)), (draw(st.integers(1, 14)), draw(st.integers(1, 14)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["noise", "nested", "blocks", "one"]))
    if kind == "nested":
        row, column = np.ogrid[: shape[0], : shape[1]]
        away = np.hypot(row - shape[0] / 2, column - shape[1] / 2)
        return np.clip(away // draw(st.integers(1, 4)), 0, classes - 1).astype(int), classes
    if kind == "blocks":
        return generator.integers(0, classes, (7, 7)).repeat(2, 0).repeat(2, 1)[: shape[0], : shape[1]], classes
    return generator.integers(0, 1 if kind == "one" else classes, shape), classes


@settings(max_examples=80, deadline=None)
@given(label_maps(), st.sampled_from(["half_pixel", "inner"]), st.sampled_from([1.0, 3.5, 1000.0]))
def test_label_maps_come_back(drawn, boundary, truncation):
    labels, classes = drawn
    there = class_distances(labels, classes, truncation, boundary)
    assert np.array_equal(to_label_map(there), labels)
    assert np.array_equal(to_label_map(one_hot(labels, classes)), labels)


@settings(max_examples=60, deadline=None)
@given(label_maps())
def test_distances_agree_at_every_border_and_are_left_alone(drawn):
    labels, classes = drawn
    there = class_distances(labels, classes, 20.0)
    assert (disagreement(there) == 0).all() and np.array_equal(project(there), there)
    for k in range(classes):  # independent: SciPy, to the nearest pixel of the other kind
        own = labels == k
        if own.any() and not own.all():
            away = np.where(own, 0.5 - distance_transform_edt(own), distance_transform_edt(~own) - 0.5)
            assert np.allclose(there[k], away.clip(-20, 20), atol=1e-5)
    kept = ranked(there, 3)
    again = unranked(kept, classes)
    assert np.array_equal(to_label_map(again), labels) and (again <= there).all()
    assert classes > 3 or np.array_equal(again, there)


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 9), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.01, 2.0]))
def test_projected_fields_have_no_gap_overlap_or_tie(classes, seed, spread):
    raw = np.random.default_rng(seed).normal(0, 1, (2, classes, 5, 6)).astype(np.float32) * spread
    found = project(raw)
    ordered = np.sort(found, axis=1)
    assert ((found < 0).sum(1) == 1).all() and (ordered[:, 0] < ordered[:, 1]).all()
    assert np.array_equal(ordered[:, 0], -ordered[:, 1])
    assert np.array_equal(to_label_map(found), to_label_map(raw)) and np.array_equal(project(found), found)
    for moved in (0.5 * (found + raw), found + 1e-3):  # convex per winner: no step back towards the raw fields obeys
        consistent = project(moved)
        assert ((found - raw) ** 2).sum() <= ((consistent - raw) ** 2).sum() + 1e-2 * raw.size


def test_a_tie_is_won_by_its_surroundings_not_by_the_first_class():
    fields = np.ones((3, 5, 5), np.float32)
    fields[2] = 0.9
    fields[:, 2, 2] = 0.5
    assert to_label_map(fields)[2, 2] == 2
    assert to_label_map(fields[[2, 0, 1]])[2, 2] == 0


@pytest.mark.parametrize(
    ("labels", "classes", "words"),
    [
        (np.zeros((2, 2)), 2, "float64"),
        (np.zeros(3, int), 2, "(row, column)"),
        (np.full((2, 2), 3), 3, "the class 3, but there are 3"),
        (np.full((2, 2), -1), 3, "the class -1"),
        (np.zeros((2, 2), int), 1, "at least 2"),
    ],
)
def test_wrong_label_maps_are_refused(labels, classes, words):
    with pytest.raises(ValueError, match="0 to|at least") as error:
        checked_classes(labels, classes)
    assert words in str(error.value)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_scores_are_those_of_scikit_learn(seed):
    generator = np.random.default_rng(seed)
    truth, predicted = generator.integers(0, 3, (2, 9, 9))
    found = class_scores(confusion(truth, predicted, NAMES))
    assert np.allclose(found["f1"], f1_score(truth.ravel(), predicted.ravel(), average=None))
    assert np.allclose(found["iou"], jaccard_score(truth.ravel(), predicted.ravel(), average=None))
    assert np.isclose(macro_mean(found["f1"], True), f1_score(truth.ravel(), predicted.ravel(), average="macro"))


def test_absent_classes_follow_the_rule():
    some = np.eye(4, dtype=int)
    assert np.isnan(class_scores(confusion(some, some, NAMES))["f1"].values[2])
    invented = class_scores(confusion(some, 2 * some, NAMES))["f1"]
    assert invented.values.tolist() == [1, 0, 0] and float(macro_mean(invented)) == 0
    assert float(macro_mean(class_scores(confusion(some, some, NAMES))["f1"])) == 1
    with pytest.raises(ValueError, match="must agree"):
        confusion(some, some[:2], NAMES)


def test_raters_have_the_exact_probability_and_it_is_calibrated():
    scene = tissue(5)
    exact = exact_class_probability(scene)
    raters = [rate_classes(scene, np.random.default_rng(k)) for k in range(300)]
    share = np.mean([one == np.arange(3)[:, None, None] for one in raters], axis=0)
    assert np.allclose(exact.sum(0), 1) and abs(share - exact).max() < 5 * 0.5 / 300**0.5
    table = sum(class_reliability(exact, one, NAMES) for one in raters)
    assert abs(float(class_brier(table)) - (exact * (1 - exact)).sum(0).mean()) < 0.005


def tiny(**changes):
    network = random_network(3, mask_channels=3, probability=True, one_call=(1, 2), **changes)
    return Model(network, boundary="half_pixel", about={"name": "tiny", "classes": NAMES, "side": 48})


@pytest.mark.parametrize("quality", ["fast", "draft"])
def test_an_ensemble_is_consistent_and_does_not_depend_on_its_batches(quality):
    image = np.random.default_rng(0).random((3, 40, 52), dtype=np.float32)
    how = {"members": 4, "progress": False}
    found = models.class_ensemble(tiny(), image, quality, **how)
    assert ((found["distance"].values < 0).sum(1) == 1).all()
    assert np.allclose(found["probability"].sum("class"), 1, atol=1e-5) and found.sizes["class"] == 3
    assert (found["area"].sum("class") == 40 * 52).all()
    assert (found["entropy"].values >= 0).all() and (found["entropy"].values <= np.log2(3) + 1e-5).all()
    again = models.class_ensemble(tiny(), image, quality, workers=2, **how)
    assert np.array_equal(found["distance"], again["distance"])
    fewer = models.class_ensemble(tiny(), image, quality, **how | {"members": 2})
    assert np.array_equal(found["distance"][:2], fewer["distance"])


def test_several_maps_survive_the_file_and_a_single_one_is_refused(tmp_path):
    save_weights(tmp_path / "tiny.safetensors", tiny(), dtype=torch.float32)
    model, image = load_model(tmp_path / "tiny.safetensors", dtype=torch.float32), np.full((3, 40, 40), 0.5, np.float32)
    drawn = [models.class_ensemble(one, image, members=2, progress=False) for one in (model, tiny())]
    assert np.array_equal(*(one["distance"] for one in drawn))
    single = Model(random_network(3), about={"name": "single"})
    with pytest.raises(ValueError, match="know one mask"):
        models.class_ensemble(single, image)
    with pytest.raises(ValueError, match="must be|at least one distance map"):
        random_network(3, mask_channels=0)


@pytest.fixture
def folder(tmp_path):
    for k in range(6):
        scene = tissue(k)
        write_png(tmp_path / "data" / "images" / f"a_{k}.png", scene.image)
        labels = rate_classes(scene, np.random.default_rng(k)).astype(np.uint8)
        labels[:2, :2], labels[-2:, -2:] = 1, 2  # every class occurs
        write_png(tmp_path / "data" / "labels" / f"a_{k}.png", labels)
    return tmp_path / "data"


SMALL = replace(
    models.CELL_SETTING,
    architecture=replace(models.CELL_SETTING.architecture, width=8, multipliers=(1,), one_call=(1,), cells=(8,)),
    recipe=replace(models.CELL_SETTING.recipe, steps=3, encoder_steps=0, batch=2),
    crop=32,
)


def test_the_shell_trains_evaluates_and_segments(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "CELL_SETTING", SMALL)
    weights, out = str(tmp_path / "w.safetensors"), str(tmp_path / "out")
    train = ["train", "classes", "--root", str(folder), "--out", weights, "--classes", *NAMES, "--side", "48"]
    assert main([*train, "--steps", "3"]) == 0
    assert main(["evaluate", "classes", "--root", str(folder), "--weights", weights, "--members", "2"]) == 0
    assert "nucleus" in capsys.readouterr().out
    image = str(folder / "images" / "a_0.png")
    segment = ["segment", image, "--weights", weights, "--members", "2", "--out", out]
    assert main(segment) == 0 and all(one.exists() for one in output_paths(image, out, CLASS_OUTPUTS))
    assert read_class_result(output_paths(image, out, CLASS_OUTPUTS)[-1]).sizes["class"] == 3
    assert main(segment) == 1 and "--resume to skip" in capsys.readouterr().err
    assert main([*segment, "--resume"]) == 0 and main([*segment, "--level", "1", "--force"]) == 1
    assert main([*train[:6], "--classes", *NAMES, "granule", "--force"]) == 1
    assert "3 (granule) never occurs" in capsys.readouterr().err
    assert main(["evaluate", "classes", "--root", str(folder), "--weights", weights, "--objects"]) == 1


def test_the_split_is_within_each_set_and_bad_files_are_named(folder):
    cases = models.find_classes(folder)
    fitted, held_out = models.split_classes(cases, 0.34)
    assert len(held_out) == 2 and models.split_classes(cases, 0.34)[1] == held_out
    assert models.class_names(cases, None) == ["class 0", "class 1", "class 2"]
    path = folder / "labels" / "a_0.png"
    for labels, classes, words in (
        (np.full((64, 64), 7, np.uint8), 3, "holds the class 7"),
        (np.zeros((32, 64), np.uint8), 3, "has 32 x 64 pixels"),
        (np.zeros((64, 64, 3)) + (0.1, 0.5, 0.9), 3, "whole numbers (row, column)"),
    ):
        write_png(path, labels)
        with pytest.raises(ValueError) as error:
            models.read_class_case(cases[0], classes)
        assert words in str(error.value) and "a_0.png" in str(error.value)
    write_png(path, np.full((64, 64), 5, np.uint8))
    with pytest.raises(ValueError, match="without gaps"):
        models.class_names(cases, None)


def test_evaluation_adds_up(folder):
    found = evaluate_classes(models.find_classes(folder)[:2], tiny(), members=2, progress=False)
    pixels = found["confusion"].sum(("true_class", "class"))
    assert (pixels.sel(answer=["member", "mean", "shown"]) == 48 * 48).all()
    assert (pixels.sel(answer="source") == 64 * 64).all()
    assert "2 images" in class_summary(found)


def test_nothing_is_left_where_an_image_cannot_be_segmented(tmp_path):
    write_png(tmp_path / "small.png", np.zeros((20, 20, 3)))
    with pytest.raises(ValueError, match="small.png"):
        segment_class_file(tmp_path / "small.png", tmp_path / "out", tiny())
    assert not list(tmp_path.glob("out/*"))


def test_plain_networks_say_one_probability_per_class():
    image = np.random.default_rng(0).random((3, 30, 41), dtype=np.float32)
    chances = plain_chances([PlainNetwork(3, width=8, blocks=1)], image)
    assert chances.shape == (3, 30, 41) and np.allclose(chances.sum(0), 1, atol=1e-5)
    alone = plain_chances([PlainNetwork(1, width=8, blocks=1, seed=k) for k in range(3)], image)
    assert alone.shape == (3, 30, 41) and abs(alone.sum(0) - 1).max() > 1e-3
