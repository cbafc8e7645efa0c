"From a folder to weights: who is held out, what is decided where, and what happens when it is interrupted."

import os
from dataclasses import asdict, replace

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import rgb2gray

from sdfdiff.diffusion import fitting
from sdfdiff.diffusion.fitting import (
    SETTINGS,
    Setting,
    fit,
    load_training_data,
    watch,
)
from sdfdiff.diffusion.model import load_model
from sdfdiff.diffusion.network import Architecture, ScoreNetwork
from sdfdiff.diffusion.training import Recipe, Step, stored_recipe, train
from sdfdiff.distance import signed_distance
from sdfdiff.files import write_png
from sdfdiff.images.cases import DATASETS, find_cases, hold_out
from sdfdiff.images.preparation import TISSUE, Preparation, prepare_image, prepare_labels
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


def test_tissue_needs_no_folder():
    data, held_out = load_training_data("tissue", None, replace(SETTING, crop=40))
    assert data == TissueTrainingData(40) and held_out == []


# A network for the data ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(folder):
    return load_training_data("folder", folder, SETTING, progress=False)[0]


def test_a_new_network_depends_on_seed_and_data_only(data):
    before = torch.random.get_rng_state()
    one, two, other = (fitting._new_network(TINY, data, Recipe(seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(numbers(one), numbers(two)) and not torch.equal(numbers(one), numbers(other))
    mean, deviation = moments(data, 10.0, 0.2)
    assert one.architecture == replace(TINY, mean=one.architecture.mean, deviation=one.architecture.deviation)
    assert one.architecture.mean == pytest.approx(mean, abs=1e-4)
    assert one.architecture.deviation == pytest.approx(deviation, abs=1e-4) and deviation > 0.02
    scaled = fitting._new_network(TINY, data, Recipe(truncation=5.0, data_scale=1.0)).architecture
    assert scaled.deviation == pytest.approx(moments(data, 5.0, 1.0)[1], abs=1e-4)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("side", [16, 32])
def test_masks_without_any_boundary_are_named(label, side):
    "Empty masks, or full ones: there is nothing to learn. (The deviation of equal numbers may be 1e-8 instead of 0.)"
    image, labels = np.zeros((3, side, side), np.float32), np.full((side, side), label)
    with pytest.raises(ValueError, match="mask") as caught:
        fitting._new_network(TINY, TrainingData.of([image], [labels], 16), Recipe())
    assert "\n" not in str(caught.value)


def test_minutes_become_steps(monkeypatch, data):
    "The first step is slow and does not count; half a second each from then on."
    asked = []

    def timed(network, data, recipe, **options):
        asked.append(recipe.steps)
        for k in range(recipe.steps):
            yield Step(k + 1, 1.0, 1.0, 10 + 0.5 * k, network)

    monkeypatch.setattr(fitting, "train", timed)
    network = fitting._new_network(TINY, data, Recipe())
    assert (
        fitting._steps_in(1.0, network, data, Recipe(steps=10**6)) == 120
        and fitting._steps_in(2.5, network, data, Recipe()) == 300
    )
    assert fitting._steps_in(0.01, network, data, Recipe()) == 20 and asked == [6, 6, 6]


def test_measuring_does_not_change_the_network(data):
    network = fitting._new_network(TINY, data, SETTING.recipe)
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
    fitting._take_over(network, other)
    assert torch.equal(numbers(network), numbers(other))
    assert (network.architecture.mean, network.architecture.deviation) == (0.3, 0.1)  # those of its own data


def test_a_grey_network_becomes_a_colour_network_that_does_the_same():
    grey, colour = stirred(replace(TINY, image_channels=1)), stirred(TINY, seed=2)
    before = numbers(grey)
    fitting._take_over(colour, grey)
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
            fitting._take_over(network, stirred(source))
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
    assert os.listdir(out.parent) == [out.name]  # the checkpoint is gone
    assert str(folder).encode() not in out.read_bytes() and b"/tmp" not in out.read_bytes()  # nobody's folders


def test_it_is_the_average_after_the_last_step(uninterrupted, data):
    recipe = replace(SETTING.recipe, seed=3)
    *_, last = train(fitting._new_network(TINY, data, recipe), data, recipe)
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
    assert os.listdir(interrupted.parent) == [interrupted.name]


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
    assert os.listdir(tmp_path) == [checkpoint.name]
    model = quiet(out, folder, seed=3, resume=True)
    assert torch.equal(numbers(model.network), numbers(uninterrupted[0].network)) and os.listdir(tmp_path) == [out.name]


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
