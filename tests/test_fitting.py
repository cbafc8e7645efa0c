"From a folder to weights: who is held out, what is decided where, and what happens when it is interrupted."

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy import ndimage
from skimage.color import rgb2gray

from sdfdiff.diffusion import fitting, training
from sdfdiff.diffusion.fitting import (
    SETTINGS,
    Setting,
    fit,
    load_training_data,
    watch,
)
from sdfdiff.diffusion.model import load_model
from sdfdiff.diffusion.network import Architecture, ScoreNetwork
from sdfdiff.diffusion.losses import Recipe
from sdfdiff.diffusion.training import COLUMNS, Step, stored_recipe, train
from sdfdiff.distance import signed_distance
from sdfdiff.files import write_png
from sdfdiff.images.cases import DATASETS, CasePaths, find_cases, hold_out, prepare_case
from sdfdiff.images.preparation import GLANDS, GLANDS_PAPER, TISSUE, Preparation, prepare_image, prepare_labels
from sdfdiff.images.training_data import Augmentation, TissueTrainingData, TrainingData, moments

TINY = Architecture(image_channels=3, width=8, multipliers=(1,), encoder_blocks=1)
SETTING = Setting(TISSUE, TINY, Recipe(steps=6, batch=2, learning_rate=2e-3), crop=16, licence="made up")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Six images of 24 x 28 pixels with two touching objects each."
    root, generator = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(6):
        labels = np.zeros((24, 28), np.uint8)
        row, column = generator.integers(2, 12, 2)
        labels[row : row + 8, column : column + 5] = 3
        labels[row + 1 : row + 9, column + 5 : column + 11] = 8
        image = np.where(labels[..., None] > 0, [0.4, 0.2, 0.5], [0.9, 0.7, 0.8])
        write_png(root / "images" / f"case{number}.png", image + generator.uniform(-0.1, 0.1, image.shape))
        write_png(root / "masks" / f"case{number}.png", labels)
    return root


def numbers(network):
    return torch.cat([value.detach().float().flatten() for value in network.state_dict().values()])


def quiet(out, root, dataset="folder", **options):
    return fit(dataset, root, out, **({"setting": SETTING, "progress": False} | options))


# What is decided -----------------------------------------------------------------------------------------------------


def test_every_data_set_has_its_setting():
    assert {*DATASETS} <= set(SETTINGS)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "tissue"])
def test_every_setting_can_be_fitted(name, tmp_path):
    "Its name is known to those who look for its files: they miss images, not a data set of that name."
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        load_training_data(name, tmp_path, SETTINGS[name], progress=False)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_fit_together(name):
    one = SETTINGS[name]
    assert one.architecture.image_channels == {"grey": 1, "rgb": 3}[one.preparation.colour]
    assert one.crop % one.architecture.multiple == 0 and one.architecture.width % 8 == 0
    assert all(side >= one.crop for side in one.preparation.size or ()), "a crop must fit into a prepared image"
    assert one.architecture.one_call and one.architecture.probability, "all make weights of one kind"
    assert one.licence and one.recipe.steps >= 1000 and one.recipe.noise_centre >= 1
    assert 0 < one.recipe.truncation <= 10 and one.recipe.data_scale == 0.2  # VE's 0.001 to 5 are made for that scale
    network = ScoreNetwork(one.architecture)
    image = torch.zeros(1, one.architecture.image_channels, one.architecture.multiple, 2 * one.architecture.multiple)
    assert network.encode(image).initial_estimate.shape[2:] == image.shape[2:]


def test_data_that_may_not_be_sold_says_so():
    assert "non-commercial" in SETTINGS["monuseg"].licence and "no commercial" in SETTINGS["glas"].licence


# Who is held out -----------------------------------------------------------------------------------------------------


def test_files_held_out_are_not_even_opened(folder, tmp_path):
    "They may be damaged, and nobody notices; damage to a training image is noticed."
    held_out = hold_out(find_cases("folder", folder, "train"), "folder")[1]
    spoiled = tmp_path / "copy"
    for kind in ("images", "masks"):
        (spoiled / kind).mkdir(parents=True)
        for path in (folder / kind).iterdir():
            known = path.stem not in {case.name for case in held_out}
            (spoiled / kind / path.name).write_bytes(path.read_bytes() if known else b"nothing to see here")
    data, names = load_training_data("folder", spoiled, SETTING, progress=False)
    assert names == [case.name for case in held_out] and len(names) == 1 and len(data.images) == 5
    (
        spoiled / "images" / next(case.name for case in find_cases("folder", folder) if case.name not in names)
    ).with_suffix(".png").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="cannot be read|not an image"):
        load_training_data("folder", spoiled, SETTING, progress=False)


@pytest.mark.parametrize("instances", [True, False])
def test_data_are_prepared_images_with_their_distances(folder, instances):
    preparation = Preparation("none", "grey", size=(36, 42))
    setting = replace(SETTING, preparation=preparation, instances=instances, augmentation=Augmentation(flip=False))
    data, _ = load_training_data("folder", folder, setting, progress=False)
    assert data.crop == 16 and data.augmentation == Augmentation(flip=False)
    fitted = hold_out(find_cases("folder", folder, "train"), "folder")[0]
    for paths, image, distance in zip(fitted, data.images, data.distances, strict=True):
        case = fitting.read_case(paths)
        labels = prepare_labels(case.labels, preparation)
        assert torch.equal(image, torch.from_numpy(prepare_image(case.image, preparation)))
        assert image.shape == (1, 36, 42)
        assert torch.equal(distance, torch.from_numpy(signed_distance(labels if instances else labels > 0)))
        deepest = signed_distance(labels > 0).min()
        assert distance.min() > deepest if instances else distance.min() == deepest  # a line between them, or none


def test_a_line_needs_objects_and_cuts_the_target(folder):
    "Touching objects become two components of the target; in a mask no object is told from another."
    pieces = {}
    for line in (0, 2):
        setting = replace(SETTING, line=line)
        data, _ = load_training_data("folder", folder, setting, progress=False)
        masks = [distance.numpy() <= 0.5 for distance in data.distances]
        pieces[line] = [ndimage.label(mask, np.ones((3, 3)))[1] for mask in masks]
    assert pieces == {0: [1] * len(masks), 2: [2] * len(masks)}
    data, _ = load_training_data("folder", folder, replace(SETTING, instances=False, line=2), progress=False)
    assert all(ndimage.label(one.numpy() <= 0.5)[1] == 1 for one in data.distances)


def test_training_sees_what_prepare_case_shows(folder, tmp_path, monkeypatch):
    "The scale follows from the pixels of each image."
    preparation = Preparation("none", "rgb", 1.0, microns=0.5)
    setting = replace(SETTING, preparation=preparation, augmentation=Augmentation(flip=False))
    found = [replace(case, microns=0.25 if k % 2 else None) for k, case in enumerate(find_cases("folder", folder))]
    monkeypatch.setattr(fitting, "find_cases", lambda *_, **__: found)
    data, _ = load_training_data("folder", folder, setting, progress=False)
    fitted = hold_out(found, "folder")[0]
    assert {image.shape[1:] for image in data.images} == {(24, 28), (12, 14)}
    for paths, image, distance in zip(fitted, data.images, data.distances, strict=True):
        assert torch.equal(image, torch.from_numpy(prepare_case(paths, preparation).image))
        assert distance.shape == image.shape[1:]


def test_the_paper_s_glands_differ_in_their_size_and_are_small():
    ours, paper = SETTINGS["glas"], SETTINGS["glas_paper"]
    assert (ours.preparation, paper.preparation) == (GLANDS, GLANDS_PAPER) and paper.data == "glas"
    assert replace(paper, preparation=GLANDS, data=None, architecture=ours.architecture) == ours and paper.crop == 128
    assert paper.architecture.width < ours.architecture.width


def test_tissue_needs_no_folder():
    data, held_out = load_training_data("tissue", None, replace(SETTING, crop=40))
    assert data == TissueTrainingData(40) and held_out == []


# A network for the data ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(folder):
    return load_training_data("folder", folder, SETTING, progress=False)[0]


def test_a_new_network_depends_on_seed_and_data_only(data):
    before = torch.random.get_rng_state()
    one, two, other = (fitting.new_network(TINY, data, Recipe(seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(numbers(one), numbers(two)) and not torch.equal(numbers(one), numbers(other))
    mean, deviation = moments(data, 10.0, 0.2)
    assert one.architecture == replace(TINY, mean=one.architecture.mean, deviation=one.architecture.deviation)
    assert one.architecture.mean == pytest.approx(mean, abs=1e-4)
    assert one.architecture.deviation == pytest.approx(deviation, abs=1e-4) and deviation > 0.02
    scaled = fitting.new_network(TINY, data, Recipe(truncation=5.0, data_scale=1.0)).architecture
    assert scaled.deviation == pytest.approx(moments(data, 5.0, 1.0)[1], abs=1e-4)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("side", [16, 32])
def test_masks_without_any_boundary_are_named(label, side):
    "Empty masks, or full ones: there is nothing to learn. (The deviation of equal numbers may be 1e-8 instead of 0.)"
    image, labels = np.zeros((3, side, side), np.float32), np.full((side, side), label)
    with pytest.raises(ValueError, match="mask") as caught:
        fitting.new_network(TINY, TrainingData.of([image], [labels], 16), Recipe())
    assert "\n" not in str(caught.value)


def test_minutes_become_steps(monkeypatch, data):
    "The first step is slow and does not count; half a second each from then on."
    asked = []

    def timed(network, data, recipe, **options):
        asked.append(recipe.steps)
        for k in range(recipe.steps):
            yield Step(k + 1, 1.0, 1.0, 10 + 0.5 * k, network)

    monkeypatch.setattr(fitting, "train", timed)
    network = fitting.new_network(TINY, data, Recipe())
    assert (
        fitting._steps_in(1.0, network, data, Recipe(steps=10**6)) == 120
        and fitting._steps_in(2.5, network, data, Recipe()) == 300
    )
    assert fitting._steps_in(0.01, network, data, Recipe()) == 20 and asked == [6, 6, 6]


def test_measuring_does_not_change_the_network(data):
    network = fitting.new_network(TINY, data, SETTING.recipe)
    before = numbers(network)
    assert fitting._steps_in(0.01, network, data, SETTING.recipe) >= 20
    assert torch.equal(numbers(network), before)


def test_watching_goes_to_the_end(capsys):
    steps = [Step(k, 1.0 / k, 0.5, float(k), None) for k in (3, 4, 5)]
    assert watch(iter(steps), 5, progress=False) == steps[-1] and not capsys.readouterr().err
    watch(iter(steps), 5)
    assert "5/5" in capsys.readouterr().err


# Starting from other weights -----------------------------------------------------------------------------------------


def stirred(architecture, seed=1):
    "A network without zeros, as after training."
    network, generator = ScoreNetwork(architecture), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def test_taking_over_copies_every_weight():
    other, network = stirred(TINY), stirred(replace(TINY, mean=0.3, deviation=0.1), seed=2)
    fitting.take_over(network, other)
    assert torch.equal(numbers(network), numbers(other))
    assert (network.architecture.mean, network.architecture.deviation) == (0.3, 0.1)  # those of its own data


def test_a_grey_network_becomes_a_colour_network_that_does_the_same():
    grey, colour = stirred(replace(TINY, image_channels=1)), stirred(TINY, seed=2)
    before = numbers(grey)
    fitting.take_over(colour, grey)
    image = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    luminance = torch.from_numpy(rgb2gray(image.permute(0, 2, 3, 1).numpy()))[:, None]
    noisy = torch.randn(2, 1, 8, 12, generator=torch.Generator().manual_seed(1))
    expected = grey(noisy, 0.3, grey.encode(luminance))
    assert torch.allclose(colour(noisy, 0.3, colour.encode(image)), expected, atol=1e-5)
    assert torch.allclose(colour.encode(image).initial_estimate, grey.encode(luminance).initial_estimate, atol=1e-5)
    assert torch.equal(numbers(grey), before)


@pytest.mark.parametrize(
    "change",
    [
        {"width": 16},
        {"multipliers": (1,)},
        {"multipliers": (1, 1, 1)},
        {"blocks": 2},
        {"encoder_blocks": 2},
        {"unshuffle": 4},
        {"image_channels": 1},
        {"parametrisation": "score"},
    ],
    ids=str,
)
def test_weights_of_another_architecture_are_not_taken_over(change):
    "Smaller ones, larger ones, and those that fit but answer in other words; in both directions."
    base = replace(TINY, multipliers=(1, 1))
    for own, source in ((base, replace(base, **change)), (replace(base, **change), base)):
        if (source.image_channels, own.image_channels) == (1, 3):
            continue  # that is welcome
        network = stirred(own, seed=2)
        before = numbers(network)
        with pytest.raises(ValueError, match="another architecture") as caught:
            fitting.take_over(network, stirred(source))
        assert "\n" not in str(caught.value) and torch.equal(numbers(network), before)


def test_fit_starts_from_weights(folder, tmp_path, uninterrupted):
    quiet(
        tmp_path / "a.safetensors",
        folder,
        steps=1,
        start=uninterrupted[1],
        setting=replace(SETTING, recipe=replace(SETTING.recipe, learning_rate=0.0)),
    )
    again, first = (load_model(path, dtype=torch.float32) for path in (tmp_path / "a.safetensors", uninterrupted[1]))
    assert torch.equal(numbers(again.network), numbers(first.network)) and again.about["start"] == "mine"
    assert first.about["start"] == "random"


# Judged on the way ---------------------------------------------------------------------------------------------------


def rows(out):
    "The table beside the weights, without the seconds: those are never the same."
    lines = [line.split(",") for line in out.with_suffix(".csv").read_text().splitlines()]
    assert lines[0] == [*COLUMNS] == "step seconds loss estimate_loss score validation_loss f1 crps".split()
    return [[line[0], *line[2:]] for line in lines[1:]]


@pytest.fixture
def often(monkeypatch):
    "A reading after every step of six."
    monkeypatch.setattr(training, "_APART", 1)


@pytest.mark.parametrize("sizes, aside", [([1] * 40, 4), ([2] * 20, 4), ([3] * 10, 3), ([7, 6, 8], 6), ([1] * 3, 1)])
def test_whole_patients_are_set_aside_at_most_a_tenth_and_at_least_one(sizes, aside):
    cases = [CasePaths(f"{k} {one}", group=f"patient {k}") for k, size in enumerate(sizes) for one in range(size)]
    fitted, choosing = fitting._set_aside(cases)
    assert len(choosing) == aside and sorted(one.name for one in fitted + choosing) == sorted(one.name for one in cases)
    assert {one.group for one in fitted}.isdisjoint(one.group for one in choosing)
    assert fitting._set_aside(cases[::-1]) == (fitted[::-1], choosing[::-1])  # whatever their order


def test_those_who_choose_are_neither_fitted_nor_held_out(uninterrupted, folder):
    about = uninterrupted[0].about
    fitted, choosing, held_out = fitting._parts("folder", folder, SETTING, True)
    names = [{one.name for one in part} for part in (fitted, choosing, held_out)]
    assert [len(one) for one in names] == [4, 1, 1] and len(set.union(*names)) == 6
    assert about["chosen_on"] == [*names[1]] and about["held_out"] == [*names[2]] and about["step"] == 6
    data, _ = load_training_data("folder", folder, SETTING, progress=False, validate=True)
    assert len(data.images) == 4
    (own,) = rows(uninterrupted[1])
    assert own[0] == "6" and [bool(one) for one in own] == [True] * 3 + [False] + [True] * 3  # no generator, no score


def test_the_images_that_judge_are_those_set_aside(folder):
    "Every view is a piece of one of them, as it is; and nobody else's."
    fitted, choosing, _ = fitting._parts("folder", folder, SETTING, True)
    found = fitting._validation(choosing, SETTING, SETTING.recipe)
    whole = prepare_image(fitting.read_case(choosing[0]).image, TISSUE)
    pieces = np.lib.stride_tricks.sliding_window_view(whole, (3, 16, 16))[0]
    for view in found.images.numpy():
        assert any(
            np.allclose(view, np.flip(pieces[r, c], turned), atol=1e-4)
            for r in range(pieces.shape[0])
            for c in range(pieces.shape[1])
            for turned in [(), (1,), (2,), (1, 2)]
        )
    again = fitting._validation(choosing, SETTING, SETTING.recipe)
    assert torch.equal(again.images, found.images) and torch.equal(again.distances, found.distances)


def test_scenes_that_judge_are_used_by_nobody_else():
    fitted, choosing, held_out = fitting._parts("tissue", None, SETTING, True)
    assert [one.seed for one in choosing] == list(range(500, 508)) and not fitted and not held_out
    found = fitting._validation(choosing, replace(SETTING, crop=32), SETTING.recipe)
    image, distance = TissueTrainingData(32).example(503)
    assert torch.equal(found.images[3], image) and torch.equal(found.distances[3, 0], distance)


def test_without_validation_all_others_are_trained_on(folder, tmp_path, data):
    recipe = replace(SETTING.recipe, seed=3)
    model = quiet(tmp_path / "a.safetensors", folder, seed=3, validate=False)
    *_, last = train(fitting.new_network(TINY, data, recipe), data, recipe)
    assert len(data.images) == 5 and torch.equal(numbers(last.average), numbers(model.network))
    (own,) = rows(tmp_path / "a.safetensors")
    assert model.about["chosen_on"] == [] and own[0] == "6" and all(own[1:3]) and own[3:] == [""] * 4


def test_two_patients_are_too_few_and_a_sentence_says_so(folder, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / "data" / kind).mkdir(parents=True)
        for number in range(3):  # one of them is held out
            shutil.copy(folder / kind / f"case{number}.png", tmp_path / "data" / kind)
    with pytest.warns(UserWarning, match="fewer than three patients"):
        model = quiet(tmp_path / "a.safetensors", tmp_path / "data", steps=1)
    assert model.about["chosen_on"] == [] and len(model.about["held_out"]) == 1
    with pytest.raises(ValueError, match="best=True") as caught:
        quiet(tmp_path / "b.safetensors", tmp_path / "data", steps=1, best=True)
    assert "\n" not in str(caught.value) and not (tmp_path / "b.csv").exists()


def judged_as(monkeypatch, scores):
    "CRPS values in the order of the readings."
    given = iter(scores)

    def judge(network):
        return {"validation_loss": 1.0, "f1": 0.5, "crps": next(given)}

    monkeypatch.setattr(fitting, "_validation", lambda *rest: judge)


@pytest.mark.parametrize("scores, step", [([5, 3, 2, 4, 6, 7], 3), ([5, 3, 3, 4, 3, 7], 5), ([6, 5, 4, 3, 2, 1], 6)])
def test_the_best_weights_are_kept_also_when_stopped(folder, tmp_path, monkeypatch, often, scores, step):
    "In one go, and stopped after the best one: its weights are in the checkpoint."
    setting = replace(SETTING, recipe=replace(SETTING.recipe, average=0.5))
    data, _ = load_training_data("folder", folder, setting, progress=False, validate=True)
    network = fitting.new_network(TINY, data, setting.recipe)
    for one in train(network, data, setting.recipe):
        if one.number == step:
            expected = numbers(one.average).clone()
    judged_as(monkeypatch, scores)
    whole = quiet(tmp_path / "a.safetensors", folder, setting=setting, best=True)
    judged_as(monkeypatch, scores)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(fitting, "watch", stopped_after(5))
        quiet(tmp_path / "b.safetensors", folder, setting=setting)
    judged_as(monkeypatch, scores[5:])
    part = quiet(tmp_path / "b.safetensors", folder, setting=setting, resume=True, best=True)
    for model in (whole, part):
        assert torch.equal(numbers(model.network), expected)
        assert model.about["step"] == step and model.about["recipe"]["steps"] == 6
    judged_as(monkeypatch, scores)
    last = quiet(tmp_path / "c.safetensors", folder, setting=setting)
    assert last.about["step"] == 6 and torch.equal(numbers(last.network), numbers(one.average))


def test_a_table_is_continued_without_double_rows(folder, tmp_path, monkeypatch, often):
    whole, part = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    first = quiet(whole, folder)
    for stop in (1, 4):
        with monkeypatch.context() as patch, pytest.raises(Stop):
            patch.setattr(fitting, "watch", stopped_after(stop))
            quiet(part, folder, resume=True)
        assert rows(part) == rows(whole)[:stop]
    with part.with_suffix(".csv").open("a") as file:  # a row that the checkpoint does not know
        file.write("5,1,1,1,1,1,1\n")
    second = quiet(part, folder, resume=True)
    assert rows(part) == rows(whole) and [row[0] for row in rows(part)] == list("123456")
    assert torch.equal(numbers(first.network), numbers(second.network))


def test_a_table_is_replaced_with_force_only(folder, tmp_path):
    out, table = tmp_path / "a.safetensors", tmp_path / "a.csv"
    table.write_text("my own")
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="force=True") as caught:
            quiet(out, folder, steps=1, resume=resume)
        assert str(table) in str(caught.value) and table.read_text() == "my own"
    with pytest.raises(FileNotFoundError):
        quiet(out, tmp_path / "no such folder", steps=1, force=True)
    assert table.read_text() == "my own" and os.listdir(tmp_path) == [table.name]
    quiet(out, folder, steps=1, force=True)
    assert [row[0] for row in rows(out)] == ["1"]


def test_a_training_of_an_earlier_version_is_continued_without_validation(folder, tmp_path, monkeypatch):
    "It trained on all that was not held out, and its checkpoint has neither running means nor a history."
    out = tmp_path / "mine.safetensors"
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    whole = quiet(tmp_path / "whole.safetensors", folder, validate=False)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(fitting, "watch", stopped_after(2))
        quiet(out, folder, validate=False)
    with safe_open(checkpoint, framework="pt") as file:
        about, tensors = json.loads(file.metadata()["training"]), {k: file.get_tensor(k) for k in file.keys()}
    del about["sums"], about["history"]
    save_file(tensors, checkpoint, metadata={"training": json.dumps(about)})
    with pytest.warns(UserWarning, match="begun without validation"):
        model = quiet(out, folder, resume=True)
    assert torch.equal(numbers(model.network), numbers(whole.network)) and model.about["chosen_on"] == []


# The bar -------------------------------------------------------------------------------------------------------------


class Bar:
    "What `tqdm` would show."

    def __init__(self, **options):
        self.n, self.shown = 0, []

    def __enter__(self):
        return self

    def __exit__(self, *problem):
        Bar.last = self

    def set_postfix(self, shown, refresh):
        self.shown.append((shown["loss"], shown["estimate"]))

    def update(self, more):
        self.n += more


def test_a_bar_begins_at_the_first_loss_and_goes_on_where_it_stopped(tmp_path, data, monkeypatch):
    monkeypatch.setattr(fitting, "tqdm", Bar)
    recipe, checkpoint = replace(SETTING.recipe, steps=8), tmp_path / "c.safetensors"
    steps = list(train(fitting.new_network(TINY, data, recipe), data, recipe))
    watch(iter(steps), 8)
    shown = Bar.last.shown
    assert shown[0] == (f"{steps[0].loss:.3f}", f"{steps[0].estimate_loss:.3f}")
    for count in range(1, 9):
        weights = 0.98 ** np.arange(count)[::-1]
        mean = np.average([step.loss for step in steps[:count]], weights=weights)
        assert float(shown[count - 1][0]) == pytest.approx(mean, abs=6e-4)
    for step in train(fitting.new_network(TINY, data, recipe), data, recipe, checkpoint=checkpoint):
        if step.number == 5:
            break
    watch(train(fitting.new_network(TINY, data, recipe), data, recipe, checkpoint=checkpoint), 8)
    assert Bar.last.shown == shown[5:] and Bar.last.initial == 5 and Bar.last.n == 8


# The whole way -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uninterrupted(folder, tmp_path_factory):
    "A fit in one go, and its file."
    out = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    return quiet(out, folder, seed=3), out


def test_the_file_says_how_it_was_made(uninterrupted, folder):
    model, out = uninterrupted
    again = load_model(out, dtype=torch.float32)
    about = again.about
    assert about["data"] == "folder" and about["licence"] == "made up" and about["name"] == "mine"
    assert about["recipe"] == asdict(replace(SETTING.recipe, seed=3)) and about["crop"] == 16
    assert about["augmentation"] == asdict(SETTING.augmentation) and about["sdfdiff_version"]
    assert about["held_out"] == [case.name for case in hold_out(find_cases("folder", folder, "train"), "folder")[1]]
    assert (again.preparation, again.truncation, again.data_scale, again.boundary) == (TISSUE, 10.0, 0.2, "inner")
    assert again.network.architecture == model.network.architecture and not model.network.training
    assert torch.equal(numbers(again.network), numbers(model.network).half().float())
    assert sorted(os.listdir(out.parent)) == ["mine.csv", out.name]  # the checkpoint is gone
    assert str(folder).encode() not in out.read_bytes() and b"/tmp" not in out.read_bytes()  # nobody's folders


def test_it_is_the_average_after_the_last_step(uninterrupted, folder):
    recipe = replace(SETTING.recipe, seed=3)
    data, _ = load_training_data("folder", folder, SETTING, progress=False, validate=True)
    *_, last = train(fitting.new_network(TINY, data, recipe), data, recipe)
    assert torch.equal(numbers(last.average), numbers(uninterrupted[0].network))


class Stop(Exception):
    pass


def stopped_after(number):
    "A `watch` that is interrupted."

    def watching(steps, total, progress=True):
        for step in steps:
            if step.number == number:
                steps.close()
                raise Stop

    return watching


@pytest.fixture
def interrupted(folder, tmp_path, monkeypatch):
    "A fit that was stopped after two of six steps."
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(fitting, "watch", stopped_after(2))
        quiet(tmp_path / "mine.safetensors", folder, seed=3)
    return tmp_path / "mine.safetensors"


def test_an_interrupted_fit_ends_with_the_same_weights(interrupted, uninterrupted, folder, monkeypatch):
    checkpoint = interrupted.with_suffix(".checkpoint.safetensors")
    assert os.listdir(interrupted.parent) == [checkpoint.name] and stored_recipe(checkpoint).seed == 3
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(fitting, "watch", stopped_after(5))
        quiet(interrupted, folder, resume=True, seed=3)
    model = quiet(interrupted, folder, resume=True, seed=3)
    assert torch.equal(numbers(model.network), numbers(uninterrupted[0].network))
    ours, theirs = (load_model(path, dtype=torch.float32) for path in (interrupted, uninterrupted[1]))
    assert torch.equal(numbers(ours.network), numbers(theirs.network))
    its_own = {"training_seconds": 0, "checksum": ""}
    assert ours.about | its_own == theirs.about | its_own
    assert sorted(os.listdir(interrupted.parent)) == ["mine.csv", interrupted.name]
    assert rows(interrupted) == rows(uninterrupted[1])


def test_an_unfinished_training_is_neither_overwritten_nor_continued_silently(interrupted, uninterrupted, folder):
    checkpoint = interrupted.with_suffix(".checkpoint.safetensors")
    content = checkpoint.read_bytes()
    with pytest.raises(FileExistsError, match="resume=True") as caught:
        quiet(interrupted, folder, seed=3)
    assert str(checkpoint) in str(caught.value) and "force=True" in str(caught.value)
    assert checkpoint.read_bytes() == content
    model = quiet(interrupted, folder, seed=4, force=True)  # anew
    assert load_model(interrupted).about["recipe"]["seed"] == 4
    assert not torch.equal(numbers(model.network), numbers(uninterrupted[0].network))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 4},
        {"seed": 3, "steps": 7},
        {"seed": 3, "setting": replace(SETTING, recipe=replace(SETTING.recipe, batch=3))},
    ],
    ids=["seed", "steps", "batch"],
)
def test_a_training_is_not_continued_with_other_settings(interrupted, folder, other):
    checkpoint = interrupted.with_suffix(".checkpoint.safetensors")
    content = checkpoint.read_bytes()
    with pytest.raises(ValueError, match="other settings") as caught:
        quiet(interrupted, folder, resume=True, **other)
    assert str(checkpoint) in str(caught.value) and "\n" not in str(caught.value) and checkpoint.read_bytes() == content


def test_a_training_by_minutes_keeps_the_steps_it_began_with(folder, tmp_path, monkeypatch):
    out = tmp_path / "mine.safetensors"
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(fitting, "_steps_in", lambda *rest: 4)
        patch.setattr(fitting, "watch", stopped_after(2))
        quiet(out, folder, minutes=1.0)
    monkeypatch.setattr(fitting, "_steps_in", lambda *rest: 99)
    assert quiet(out, folder, minutes=1.0, resume=True).about["recipe"]["steps"] == 4


def test_a_mistyped_folder_costs_no_unfinished_training(interrupted, tmp_path):
    checkpoint = interrupted.with_suffix(".checkpoint.safetensors")
    with pytest.raises(FileNotFoundError):
        quiet(interrupted, tmp_path / "no such folder", force=True)
    assert checkpoint.exists()


def test_mistyped_first_weights_cost_no_unfinished_training(interrupted, folder):
    checkpoint = interrupted.with_suffix(".checkpoint.safetensors")
    with pytest.raises(FileNotFoundError, match="no such weights"):
        quiet(interrupted, folder, force=True, start="no such weights")
    assert checkpoint.exists()


def test_a_training_on_other_data_is_not_continued(interrupted):
    "The checkpoint's weights are scaled to the data that it was trained on."
    with pytest.raises(ValueError, match="other files or settings") as caught:
        quiet(interrupted, None, dataset="tissue", resume=True, seed=3, setting=replace(SETTING, crop=32))
    assert "\n" not in str(caught.value)


def test_weights_survive_a_failure_to_write_them(folder, tmp_path, uninterrupted, monkeypatch):
    "The training is done, the disk is full: its checkpoint stays, and resuming only writes."
    out = tmp_path / "mine.safetensors"

    def fails(*values, **options):
        raise OSError("disk full")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(fitting, "save_weights", fails)
        quiet(out, folder, seed=3)
    checkpoint = out.with_suffix(".checkpoint.safetensors")
    assert sorted(os.listdir(tmp_path)) == [checkpoint.name, "mine.csv"]
    model = quiet(out, folder, seed=3, resume=True)
    assert torch.equal(numbers(model.network), numbers(uninterrupted[0].network))
    assert sorted(os.listdir(tmp_path)) == ["mine.csv", out.name]


def test_weights_are_not_overwritten_without_force(uninterrupted, tmp_path):
    out = tmp_path / "mine.safetensors"
    out.write_bytes(uninterrupted[1].read_bytes())
    for resume in (False, True):
        with pytest.raises(FileExistsError, match="force=True") as caught:
            quiet(out, tmp_path / "not even looked at", resume=resume)
        assert str(out) in str(caught.value)
    assert out.read_bytes() == uninterrupted[1].read_bytes() and os.listdir(tmp_path) == [out.name]


def test_steps_and_minutes_override_the_setting(folder, tmp_path, monkeypatch):
    assert quiet(tmp_path / "a.safetensors", folder, steps=2).about["recipe"]["steps"] == 2
    monkeypatch.setattr(fitting, "_steps_in", lambda minutes, *rest: round(10 * minutes))
    assert quiet(tmp_path / "b.safetensors", str(folder), minutes=0.3).about["recipe"]["steps"] == 3


def test_resuming_without_a_checkpoint_starts(folder, tmp_path):
    model = quiet(tmp_path / "new" / "a.safetensors", folder, steps=1, resume=True)
    assert model.about["recipe"]["steps"] == 1 and (tmp_path / "new" / "a.safetensors").exists()


@pytest.mark.parametrize("wrong", [{"steps": -5}, {"minutes": -1.0}, {"minutes": float("nan")}], ids=str)
def test_no_training_at_all_is_refused(folder, tmp_path, wrong):
    with pytest.raises(ValueError, match="steps|minutes") as caught:
        quiet(tmp_path / "a.safetensors", folder, **wrong)
    assert "\n" not in str(caught.value) and os.listdir(tmp_path) == []


def test_unknown_data_sets_are_named_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="liver") as caught:
        fit("liver", tmp_path, tmp_path / "a.safetensors")
    assert all(name in str(caught.value) for name in SETTINGS)
    with pytest.raises(ValueError, match="liver"):
        quiet(tmp_path / "a.safetensors", tmp_path, dataset="liver")
    assert os.listdir(tmp_path) == []


def test_a_folder_without_images_is_named_before_anything_is_written(tmp_path):
    for root in (tmp_path / "missing", tmp_path):
        with pytest.raises(FileNotFoundError, match=str(root)):
            quiet(tmp_path / "out" / "a.safetensors", root)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("change", ["image", "mask", "case", "setting"])
def test_a_training_is_not_continued_with_other_files(interrupted, folder, tmp_path, change):
    "An image, a mask or a case more than it was begun with, or other changes to the crops."
    data, setting = Path(shutil.copytree(folder, tmp_path / "data")), SETTING
    fitted = hold_out(find_cases("folder", data, "train"), "folder")[0]
    if change == "image":
        fitted[0].image.write_bytes(fitted[1].image.read_bytes())
    elif change == "mask":
        fitted[0].annotations[0].write_bytes(fitted[1].annotations[0].read_bytes())
    elif change == "case":
        for path in (fitted[0].image, *fitted[0].annotations):
            path.unlink()
    else:
        setting = replace(SETTING, augmentation=replace(SETTING.augmentation, grey=0.5))
    named = {"image": "the image of", "mask": "the mask of", "case": "the cases", "setting": "the setting"}[change]
    with pytest.raises(ValueError, match=rf"other files or settings \(.*{named}|another network"):
        quiet(interrupted, data, resume=True, seed=3, setting=setting)
    assert interrupted.with_suffix(".checkpoint.safetensors").exists()
