"Two choices of a training: arms differ in one thing, and only what shall learn learns."

import numpy as np
import pytest
import torch
import xarray as xr
from small_networks import one_call_network

from benchmarks.ablations import Learner, Turns, encoder_of, generator_of, paired, part_of_pixels, steps_of
from sdfdiff.diffusion.corruption import VE
from sdfdiff.diffusion.fitting import setting_of
from sdfdiff.diffusion.losses import Recipe
from sdfdiff.diffusion.model import Model
from sdfdiff.images.preparation import TISSUE
from sdfdiff.images.training_data import PAPER, TrainingData


def discs(count=4, side=32, channels=1):
    "Images of a disc each, of as many patients."
    rows, columns = np.ogrid[:side, :side]
    masks = [(rows - 10 - k) ** 2 + (columns - 14) ** 2 < 40 for k in range(count)]
    images = [np.repeat(mask[None].astype(np.float32), channels, 0) for mask in masks]
    groups = [f"patient {k}" for k in range(count)]
    return TrainingData.of(images, [mask.astype("int32") for mask in masks], 16, PAPER, groups=groups)


def weights():
    return Model(one_call_network(), VE(), 10.0, 0.2, "inner", TISSUE, None, {})


def test_a_part_is_the_area_of_a_pixel_that_is_object():
    labels = np.zeros((6, 8), int)
    labels[1:4, 2:7] = 3
    blocks = (labels > 0).reshape(3, 2, 4, 2).mean((1, 3))
    np.testing.assert_allclose(part_of_pixels(labels, (3, 4)), blocks, atol=1e-6)
    np.testing.assert_allclose(part_of_pixels(labels, (6, 8)), labels > 0, atol=1e-6)
    np.testing.assert_allclose(part_of_pixels(labels, (4, 3)).mean(), 15 / 48, rtol=1e-5)


def test_only_the_generator_learns_and_arms_begin_alike():
    model, data = weights(), discs()
    arms = {m: generator_of(m, model, data, Recipe(batch=2, seed=3)) for m in (2, 3)}
    first, second = (one.network.whole.state_dict() for one in arms.values())
    assert all(torch.equal(first[name], second[name]) for name in first)
    *_, step = arms[2].trained(3)
    before, after = model.network.state_dict(), step.average.whole.state_dict()
    for name in before:
        assert torch.equal(first[name], after[name]) != name.startswith("generator."), name
        assert torch.equal(before[name], after[name]) or name.startswith("generator."), name


def test_members_of_the_loss_are_those_of_the_arm():
    model, data = weights(), discs()
    images, distances = data.draw(2, torch.Generator().manual_seed(0))
    losses = {}
    for m in (2, 3):
        learner, calls = generator_of(m, model, data, Recipe(batch=2)), []
        learner.network.whole.generator.register_forward_hook(lambda *on, calls=calls: calls.append(len(on[1][0])))
        losses[m] = learner.objective(learner.network, images, distances, torch.Generator().manual_seed(0)).item()
        assert calls == [2 * m]
    assert losses[2] != losses[3]


def test_each_encoder_reads_patients_that_it_has_not_seen():
    data = discs(6)
    turns, source = Turns(data, 2, 6), torch.Generator().manual_seed(0)
    seen = []
    for _ in range(4):
        images, _ = turns.draw(1, source)
        seen.append(turns.which)
        assert images.shape == (1, 1, 16, 16)
    assert seen == [0, 1, 0, 1]
    assert not set(turns.own[0].groups) & set(turns.own[1].groups)


@pytest.mark.parametrize("part", [0.0, 0.3, 1.0])
def test_targets_differ_in_the_probability_only(part):
    "With parts that are the whole pixels both arms have the same loss; else they do not."
    setting = setting_of("folder")
    data = discs(channels=4)
    arms = [encoder_of(target, setting, data, Recipe(batch=2)) for target in ("hard", "parts")]
    images, distances = data.draw(2, torch.Generator().manual_seed(0))
    hard = (distances <= 0.5).float()
    images[:, -1:] = hard * (1 - part) + part * 0.5
    one, other = (arm.objective(arm.network, images, distances, None).item() for arm in arms)
    assert (abs(one - other) < 1e-6) == (part == 0)


def test_all_arms_get_their_steps_from_the_same_minutes():
    model, data = weights(), discs()
    arms = {m: generator_of(m, model, data, Recipe(batch=2)) for m in (2, 4)}
    steps = steps_of(arms, minutes=1, rounds=1)
    assert steps[2] > 0 and steps[4] > 0
    assert steps_of(arms, minutes=1e-9, rounds=1) == {2: 20, 4: 20}
    assert isinstance(arms[2], Learner)


def test_pairs_are_the_same_image_and_seed():
    labels = {"choice": "edges", "weights": "nuclei"}
    parts = []
    for seed in (0, 1):
        for arm, shift in (("hard", 0.0), ("parts", 0.25)):
            names = {"arm": arm, "seed": seed} | labels
            coords = {name: ("case", [value] * 3) for name, value in names.items()}
            coords |= {"image": ("case", ["a", "b", "c"]), "group": ("case", ["p", "q", "r"])}
            parts.append(xr.Dataset({"f1": ("case", np.array([0.1, 0.5, 0.6]) + seed + shift)}, coords))
    table = xr.concat(parts, "case")
    np.testing.assert_allclose(paired(table, "edges", "nuclei", "parts", "hard", "f1"), 0.25, atol=1e-12)
