"The loss by hand, the loop against an independent one, and trainings that are stopped, killed, damaged and continued."

import itertools
import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import two_processes
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file
from scipy import stats

from sdfdiff import shapes
from sdfdiff.diffusion import training as module
from sdfdiff.diffusion import losses as losses_module
from sdfdiff.diffusion.corruption import VE
from sdfdiff.diffusion.network import Architecture, Features, ScoreNetwork, scalings
from sdfdiff.diffusion.losses import Recipe, denoising_loss, draw_noise_levels, encoder_loss, mask_loss
from sdfdiff.diffusion.training import Validation, stored_recipe, train
from sdfdiff.images.training_data import Augmentation, TrainingData

TINY = Architecture(width=8, multipliers=(1,), encoder_blocks=1, mean=0.05, deviation=0.15)
RECIPE = Recipe(steps=8, batch=2, learning_rate=2e-3)
LONGER = replace(RECIPE, steps=30)
LEVELS, SOLVER = losses_module.geometric_levels, losses_module.dpm_solver


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def fresh(architecture=TINY, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ScoreNetwork(architecture)


def stirred(architecture=TINY):
    network, generator = fresh(architecture), seeded(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network


def disc_data(crop=16, augmentation=Augmentation()):
    "One grey image that shows its mask, and not much else."
    distance = shapes.disc((32, 32), (15.0, 17.0), 8.0)
    image = 0.2 + 0.6 * shapes.mask(distance) + 0.1 * np.random.default_rng(0).random((32, 32))
    return TrainingData.of([image[None]], [shapes.mask(distance)], crop, augmentation)


def run(network, recipe, data=None, dtype=torch.float32, **options):
    "The last step of a training."
    *_, last = train(network, data or disc_data(), recipe, dtype=dtype, **options)
    return last


def numbers(network):
    return torch.cat([value.detach().flatten() for value in network.state_dict().values()])


# Noise levels --------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(number=st.integers(1, 40), seed=st.integers(0, 1000), centre=st.floats(0.2, 5), spread=st.floats(0.2, 3))
def test_each_slice_of_the_law_gets_exactly_one_level(number, seed, centre, spread):
    wide, recipe = VE(1e-30, 1e30), Recipe(noise_centre=centre, noise_spread=spread)
    levels = draw_noise_levels(number, recipe, wide, 0.17, seeded(seed)).double()
    places = stats.norm.cdf((levels / (0.17 * centre)).log().numpy() / spread) * number
    assert levels.shape == (number,) and (np.abs(np.sort(places) - np.arange(number) - 0.5) <= 0.5 + 1e-3).all()
    levels = draw_noise_levels(number, replace(recipe, noise="uniform_time"), VE(), 0.17, seeded(seed))
    places = VE().time(levels.double()).numpy() * number
    assert (np.abs(np.sort(places) - np.arange(number) - 0.5) <= 0.5 + 1e-3).all()


@pytest.mark.parametrize(
    "recipe, law",
    [
        (Recipe(noise_centre=1.5, noise_spread=1.2), stats.norm(math.log(0.1 * 1.5), 1.2)),
        (Recipe(noise="uniform_time"), stats.uniform(math.log(1e-3), math.log(5e3))),
    ],
    ids=["log_normal", "uniform_time"],
)
def test_levels_follow_their_law(recipe, law):
    "The logarithm is normal, or uniform; also when a few are drawn at a time, and whichever one of them is looked at."
    generator = seeded()
    batches = torch.stack([draw_noise_levels(16, recipe, VE(), 0.1, generator) for _ in range(250)])
    assert batches.dtype == torch.float32
    logarithm = batches.double().log().numpy()
    for share in (0.1, 0.3, 0.5, 0.7, 0.9):
        assert np.quantile(logarithm, share) == pytest.approx(law.ppf(share), abs=0.05)
    first = logarithm[:, 0]  # the first image of a batch sees all levels, too: the slices are shuffled
    assert stats.kstest(first, law.cdf).pvalue > 0.001
    assert np.abs(np.corrcoef(logarithm.T) - np.eye(16)).max() < 0.35  # -1/15 at best, never 1


def test_levels_never_leave_the_schedule_s_range():
    levels = draw_noise_levels(2000, Recipe(noise_spread=4.0), VE(0.01, 2.0), 0.1, seeded())
    assert levels.min() == pytest.approx(0.01) and levels.max() == 2.0
    inner = draw_noise_levels(2000, Recipe(noise="uniform_time"), VE(0.01, 2.0), 0.1, seeded())
    assert inner.min() >= 0.01 * 0.999 and inner.max() <= 2.0 * 1.001


def test_an_unknown_law_is_named():
    with pytest.raises(ValueError, match='"pink"'):
        draw_noise_levels(4, Recipe(noise="pink"), VE(), 0.1, seeded())


# The loss ------------------------------------------------------------------------------------------------------------


def example(images=3, seed=5):
    generator = seeded(seed)
    return torch.rand(images, 1, 8, 12, generator=generator), 0.2 * torch.randn(images, 1, 8, 12, generator=generator)


def both_losses(network, images, clean, levels, generator):
    "Of score matching and of the encoder; distances are given in model units."
    features = network.encode(images)
    loss = denoising_loss(network, features, clean, levels, generator)
    return loss, encoder_loss(network, features, clean * 50, Recipe(truncation=1e9, data_scale=2e7))


@pytest.mark.parametrize("parametrisation", ["preconditioned", "score"])
def test_the_loss_of_a_fresh_network_by_hand(parametrisation):
    "F = 0, so D is known in closed form; the noise is drawn again from the same seed."
    network, (images, clean) = fresh(replace(TINY, parametrisation=parametrisation)), example()
    levels = torch.tensor([0.01, 0.15, 3.0, 0.4, 0.002, 1.0])  # two levels per image: images in order, once per level
    loss, estimate_loss = both_losses(network, images, clean, levels, seeded(7))
    z = torch.randn(6, 1, 8, 12, generator=seeded(7)).double().numpy()
    m = np.concatenate([clean.double().numpy()] * 2)
    if parametrisation == "score":
        expected = (z**2).mean()  # D = x, so (D - m) / sigma = z
    else:
        sigma, s, middle = levels.double().numpy()[:, None, None, None], 0.15, 0.05
        total = sigma**2 + s**2
        error = middle + s**2 / total * (m + sigma * z - middle) - m
        expected = (error**2 * total / (sigma * s) ** 2).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    guess = network.encode(images).initial_estimate.detach().double()
    assert estimate_loss.item() == pytest.approx((((guess - clean) / 0.15) ** 2).mean().item(), rel=1e-4)


def test_knowing_nothing_costs_one_at_every_level():
    "For data of the network's own mean and deviation."
    network, generator = fresh(), seeded()
    clean = 0.05 + 0.15 * torch.randn(16, 1, 32, 32, generator=generator)
    for level in (1e-3, 0.05, 0.15, 1.0, 5.0):
        loss, _ = both_losses(network, torch.zeros(16, 1, 32, 32), clean, torch.full((16,), level), generator)
        assert loss.item() == pytest.approx(1, abs=0.03)


def test_the_loss_is_the_squared_error_in_units_of_c_out():
    "A network that is off by a known number, and one that is right."
    images, clean = example()
    levels, off = torch.tensor([0.05, 0.4, 2.0]), torch.tensor([0.3, -0.1, 0.02])[:, None, None, None]

    class Known:
        architecture = TINY

        def encode(self, images):
            return Features(images, clean + 0.3)

        def __call__(self, noisy, noise_level, features):
            assert torch.equal(noise_level, levels) and torch.equal(features.maps, images)
            return clean + off

    loss, estimate_loss = both_losses(Known(), images, clean, levels, seeded())
    out = levels * 0.15 / (levels**2 + 0.15**2).sqrt()
    assert loss.item() == pytest.approx(((off.flatten() / out) ** 2).mean().item(), rel=1e-5)
    assert estimate_loss.item() == pytest.approx(4, rel=1e-5)  # 0.3 is two deviations
    off *= 0
    assert both_losses(Known(), images, clean, levels, seeded())[0] == 0


def test_levels_belong_to_the_images_they_are_given_to():
    "The loss of a batch is the mean over its elements, each with its own image, map, noise and level."
    network, (images, clean) = stirred(), example(2)
    levels = torch.tensor([0.02, 1.0, 0.3, 0.1, 2.0, 0.05])
    noise = torch.randn(6, 1, 8, 12, generator=seeded(3))
    expected = []
    for k, level in enumerate(levels):
        image, truth = images[k % 2 : k % 2 + 1], clean[k % 2 : k % 2 + 1]
        denoised = network(truth + level * noise[k], level, network.encode(image))
        expected.append(((denoised - truth) / scalings(level, 0.15)[1]).square().mean().item())
    loss, _ = both_losses(network, images, clean, levels, seeded(3))
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-4)


# The loop ------------------------------------------------------------------------------------------------------------


def test_the_learning_rate_rises_then_falls_as_a_cosine():
    factors = np.array([module._learning_rate_factor(step, 2000) for step in range(2000)])
    assert factors[0] == pytest.approx(1 / 40, rel=1e-3) and factors[39] == pytest.approx(1, abs=2e-3)  # 2 % of 2000
    assert (np.diff(factors[:40]) > 0).all() and (np.diff(factors[40:]) < 0).all()
    assert factors[1000] == pytest.approx(0.5) and factors[500] == pytest.approx(0.5 + math.sqrt(0.125), rel=1e-6)
    assert (
        0 < factors[-1] < 1e-5
        and module._learning_rate_factor(2000, 2000) == module._learning_rate_factor(2001, 2000) == 0
    )
    assert module._learning_rate_factor(9, 100) == pytest.approx(
        0.25 * (1 + math.cos(0.09 * math.pi))
    )  # at least 20 steps


def test_the_loop_equals_an_independent_one():
    "Crops, levels, noise, loss, clipping, AdamW with its schedule, and the average, written out from the description."
    recipe, data = replace(RECIPE, steps=6, average=0.6, weight_decay=0.1, estimate_weight=0.7, seed=11), disc_data()
    wide = replace(TINY, width=16)  # at 8, a bias before the last normalisation has no gradient but rounding errors,
    trained = stirred(wide)  # and so it is behind a zero; Adam would make steps of them
    reported = list(train(trained, data, recipe, dtype=torch.float32))
    network, generator = stirred(wide), seeded(11)
    parameters, first, second = list(network.parameters()), {}, {}
    average = [p.detach().double().clone() for p in parameters]
    for k in range(6):
        images, distances = data.draw(2, generator)
        clean = distances.clamp(-10, 10) * 0.02
        levels = draw_noise_levels(4, recipe, VE(), 0.15, generator)
        loss, estimate_loss = both_losses(network, images, clean, levels, generator)
        assert reported[k].loss == pytest.approx(loss.item(), rel=1e-3)
        assert reported[k].estimate_loss == pytest.approx(estimate_loss.item(), rel=1e-3)
        gradients = torch.autograd.grad(loss + 0.7 * estimate_loss, parameters)
        length = math.sqrt(sum(g.square().sum().item() for g in gradients))
        rate = 2e-3 * min(1, (k + 1) / 20) * 0.5 * (1 + math.cos(math.pi * k / 6))
        decay = min(0.6, (2 + k) / (11 + k))
        for j, (parameter, gradient) in enumerate(zip(parameters, gradients)):
            gradient = gradient / max(1.0, length + 1e-6)
            first[j] = 0.9 * first.get(j, 0) + 0.1 * gradient
            second[j] = 0.999 * second.get(j, 0) + 0.001 * gradient**2
            with torch.no_grad():
                parameter *= 1 - rate * 0.1
                corrected = first[j] / (1 - 0.9 ** (k + 1)), second[j] / (1 - 0.999 ** (k + 1))
                parameter -= rate * corrected[0] / (corrected[1].sqrt() + 1e-8)
            average[j] = decay * average[j] + (1 - decay) * parameter.detach().double()
    moved = (numbers(trained) - numbers(stirred(wide))).abs()
    assert (numbers(trained) - numbers(network)).abs().max() < 0.01 * moved.median()
    found = torch.cat([p.flatten() for p in reported[-1].average.parameters()]).double()
    assert (found - torch.cat([a.flatten() for a in average])).abs().max() < 0.01 * moved.median()


def test_the_average_follows_its_formula():
    network = fresh()
    expected, recipe = numbers(network).double(), replace(RECIPE, steps=12, average=0.3)
    for step in train(network, disc_data(), recipe, dtype=torch.float32):
        decay = min(0.3, (1 + step.number) / (10 + step.number))
        expected = decay * expected + (1 - decay) * numbers(network).double()
        assert torch.allclose(numbers(step.average).double(), expected, atol=1e-6)
    assert not step.average.training and not any(p.requires_grad for p in step.average.parameters())
    assert step.average.architecture == TINY


def test_steps_are_counted_and_timed():
    steps = list(train(fresh(), disc_data(), RECIPE, dtype=torch.float32))
    assert [step.number for step in steps] == list(range(1, 9))
    assert all(a.seconds < b.seconds for a, b in zip(steps, steps[1:])) and steps[0].seconds > 0


def test_the_seed_decides_and_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    first, again, other = (run(fresh(), replace(RECIPE, steps=2, seed=seed)).average for seed in (1, 1, 2))
    assert torch.equal(numbers(first), numbers(again)) and not torch.equal(numbers(first), numbers(other))
    assert torch.equal(before, torch.random.get_rng_state())


def test_estimate_weight_zero_leaves_the_guess_untrained():
    network, recipe = fresh(), replace(RECIPE, steps=3, estimate_weight=0.0, weight_decay=0.0)
    run(network, recipe)
    assert torch.equal(network.encoders[0].guess.weight, fresh().encoders[0].guess.weight)
    assert not torch.equal(network.condition.bias, fresh().condition.bias) or network.leave.weight.abs().max() > 0
    run(network, replace(recipe, estimate_weight=1.0))
    assert not torch.equal(network.encoders[0].guess.weight, fresh().encoders[0].guess.weight)


def test_units_of_the_recipe_are_those_of_the_training():
    "Twice the truncation at twice the data scale are the same model units up to the cut; the network must see them."
    seen = []

    class Watched(TrainingData):
        def draw(self, batch, generator):
            return torch.zeros(batch, 1, 8, 8), torch.tensor([-99.0, -5.0, 5.0, 99.0]).repeat(batch, 1, 8, 2)

    def watched(network, features, clean, levels, generator):
        seen.append(clean)
        return denoising_loss(network, features, clean, levels, generator)

    data = Watched([], [])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "denoising_loss", watched)
        run(fresh(), replace(RECIPE, steps=1, truncation=10.0, data_scale=0.2), data)
        run(fresh(), replace(RECIPE, steps=1, truncation=4.0, data_scale=1.0), data)
    assert torch.allclose(seen[0][0, 0, 0, :4], torch.tensor([-0.2, -0.1, 0.1, 0.2]))
    assert torch.allclose(seen[1][0, 0, 0, :4], torch.tensor([-1.0, -1.0, 1.0, 1.0]))


def test_a_tiny_network_learns_one_pair():
    "Far above the data's deviation the noisy map says little: what is known there comes from the image."
    data = disc_data(32, Augmentation(flip=False))
    recipe = Recipe(steps=100, batch=2, learning_rate=1e-2, average=0.9, noise_centre=2.0)
    network = run(fresh(replace(TINY, mean=0.093, deviation=0.084)), recipe, data).average
    images, distances = data.draw(16, seeded(123))
    clean = distances.clamp(-10, 10) * 0.02
    with torch.inference_mode():
        features = network.encode(images)
        for level in (0.3, 1.0, 3.0):
            denoised = network(clean + level * torch.randn(clean.shape, generator=seeded(4)), level, features)
            assert (denoised - clean).square().mean() < 0.12 * clean.var()  # 1: knows nothing
    assert (features.initial_estimate - clean).square().mean() < 0.05 * clean.var()


def test_bfloat16_arithmetic_trains_float32_weights():
    step = run(fresh(), replace(RECIPE, steps=3), dtype=torch.bfloat16)
    assert {p.dtype for p in step.average.parameters()} == {torch.float32}
    exact = run(fresh(), replace(RECIPE, steps=3))
    assert step.loss == pytest.approx(exact.loss, rel=0.05) and step.loss != exact.loss


# Stopped and continued -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_stopping_and_continuing_changes_not_one_bit(tmp_path, dtype):
    recipe, checkpoint = replace(RECIPE, average=0.9), tmp_path / "c.safetensors"
    straight = list(train(fresh(), disc_data(), recipe, dtype=dtype))
    resumed = []
    for stop in (3, 4, 8):
        network = fresh(seed=stop)  # other weights: they must come from the checkpoint
        if stop == 3:
            network = fresh()
        for step in train(network, disc_data(), recipe, checkpoint=checkpoint, dtype=dtype):
            resumed.append(step)
            if step.number == stop:
                break
    assert [step.number for step in resumed] == list(range(1, 9))
    assert [step.loss for step in resumed] == [step.loss for step in straight]
    assert torch.equal(numbers(resumed[-1].average), numbers(straight[-1].average))
    assert all(a.seconds < b.seconds for a, b in zip(resumed, resumed[1:]))  # over all runs
    assert os.listdir(tmp_path) == ["c.safetensors"]


CHILD = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_training import LONGER, disc_data, fresh, torch, train
for step in train(fresh(), disc_data(), LONGER, checkpoint=sys.argv[1], every=0, dtype=torch.float32):
    print(step.number, flush=True)
    time.sleep(0.02)
"""


def test_a_killed_process_can_be_continued_to_the_bit(tmp_path):
    "SIGKILL at any moment: nothing is said goodbye to; the last checkpoint is whole and continues as if nothing was."
    checkpoint, recipe = tmp_path / "killed.safetensors", LONGER
    command = [sys.executable, "-c", CHILD, str(checkpoint), str(Path(__file__).parent)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in child.stdout:
            if int(line) == 7:
                break
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
    assert child.returncode == -signal.SIGKILL and stored_recipe(checkpoint) == recipe
    straight = list(train(fresh(), disc_data(), recipe, dtype=torch.float32))
    resumed = list(train(fresh(seed=9), disc_data(), recipe, checkpoint=checkpoint, dtype=torch.float32))
    assert 7 < resumed[0].number < 30 and resumed[-1].number == 30
    assert [step.loss for step in resumed] == [step.loss for step in straight[resumed[0].number - 1 :]]
    assert torch.equal(numbers(resumed[-1].average), numbers(straight[-1].average))


@pytest.fixture(scope="module")
def after_three(tmp_path_factory):
    "What a checkpoint holds after 3 of 8 steps."
    path = tmp_path_factory.mktemp("after") / "three.safetensors"
    for step in train(fresh(), disc_data(), RECIPE, checkpoint=path, dtype=torch.float32):
        if step.number == 3:
            break
    return path.read_bytes()


@pytest.fixture
def stopped(tmp_path, after_three):
    "A checkpoint after 3 of 8 steps, to be spoiled."
    path = tmp_path / "c.safetensors"
    path.write_bytes(after_three)
    return path


def test_checkpoints_are_written_in_time_and_at_the_end(tmp_path, monkeypatch):
    ticks = itertools.count(3.0, 3.0)  # the clock goes on when a step begins and when it ends: six seconds a step
    clock = {"now": 0.0}
    checkpoint, written = tmp_path / "c.safetensors", []

    def remembered(tensors, metadata):
        written.append(json.loads(metadata["training"])["step"])
        return save(tensors, metadata)

    monkeypatch.setattr(
        module,
        "time",
        SimpleNamespace(
            perf_counter=lambda: clock.update(now=next(ticks)) or clock["now"], monotonic=lambda: clock["now"]
        ),
    )
    monkeypatch.setattr(module, "save", remembered)
    assert run(fresh(), RECIPE, checkpoint=checkpoint, every=10.0).number == 8
    assert written == [0, 2, 4, 6, 8]  # at once, then more than ten seconds apart
    written.clear()
    run(fresh(), RECIPE, checkpoint=tmp_path / "d.safetensors", every=1e9)
    assert written == [0, 8]  # always at the end


def test_two_trainings_begin_under_one_name(tmp_path, monkeypatch):
    "The later one is refused in one sentence, however late it looked; the earlier one goes on."
    checkpoint = tmp_path / "c.safetensors"
    first = train(fresh(), disc_data(), RECIPE, checkpoint=checkpoint)

    def overtaken(tensors, metadata):
        patch.setattr(module, "save", save)
        assert next(first).number == 1
        return save(tensors, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save", overtaken)
        with pytest.raises(FileExistsError, match="c.safetensors was made by another program in the meantime"):
            next(train(fresh(seed=4), disc_data(), RECIPE, checkpoint=checkpoint))
    assert [step.number for step in first] == list(range(2, 9))


def test_a_finished_training_gives_its_weights_again_and_nothing_more(tmp_path):
    checkpoint = tmp_path / "c.safetensors"
    last = run(fresh(), RECIPE, checkpoint=checkpoint)
    content = checkpoint.read_bytes()
    (again,) = train(fresh(seed=4), disc_data(), RECIPE, checkpoint=checkpoint)
    assert again.number == 8 and math.isnan(again.loss) and again.seconds == last.seconds
    assert torch.equal(numbers(again.average), numbers(last.average)) and checkpoint.read_bytes() == content


def test_the_stored_recipe_is_the_whole_recipe(tmp_path):
    recipe = Recipe(
        steps=2,
        batch=1,
        levels=3,
        learning_rate=1e-4,
        weight_decay=0.1,
        average=0.5,
        noise="uniform_time",
        noise_centre=0.7,
        noise_spread=1.1,
        estimate_weight=0.25,
        truncation=7.0,
        data_scale=0.5,
        seed=42,
    )
    run(fresh(), recipe, checkpoint=tmp_path / "c.safetensors")
    assert stored_recipe(tmp_path / "c.safetensors") == recipe == stored_recipe(str(tmp_path / "c.safetensors"))


def test_a_checkpoint_of_an_older_version_is_continued(stopped):
    "It calls the weight of the initial estimate `prior_weight`."
    with safe_open(stopped, framework="pt") as file:
        about, tensors = json.loads(file.metadata()["training"]), {k: file.get_tensor(k) for k in file.keys()}
    about["recipe"]["prior_weight"] = about["recipe"].pop("estimate_weight")
    save_file(tensors, stopped, metadata={"training": json.dumps(about)})
    assert stored_recipe(stopped) == RECIPE
    straight = run(fresh(), RECIPE)
    resumed = list(train(fresh(seed=9), disc_data(), RECIPE, checkpoint=stopped, dtype=torch.float32))
    assert resumed[0].number == 4 and torch.equal(numbers(resumed[-1].average), numbers(straight.average))


def test_a_checkpoint_without_means_begins_them_anew(stopped):
    "As one of an older version: the first step after it is the first one that counts."
    with safe_open(stopped, framework="pt") as file:
        about, tensors = json.loads(file.metadata()["training"]), {k: file.get_tensor(k) for k in file.keys()}
    del about["sums"], about["history"]
    save_file(tensors, stopped, metadata={"training": json.dumps(about)})
    first = next(train(fresh(seed=9), disc_data(), RECIPE, checkpoint=stopped, dtype=torch.float32))
    assert first.number == 4 and first.running[:2] == pytest.approx((first.loss, first.estimate_loss))


@pytest.mark.parametrize("change", [{"steps": 9}, {"seed": 1}, {"noise": "uniform_time"}, {"average": 0.9}], ids=str)
def test_another_recipe_s_checkpoint_is_refused_and_kept(stopped, change):
    content = stopped.read_bytes()
    with pytest.raises(ValueError, match="another recipe") as caught:
        run(fresh(), replace(RECIPE, **change), checkpoint=stopped)
    assert str(stopped) in str(caught.value) and stopped.read_bytes() == content


@pytest.mark.parametrize(
    "change", [{"width": 16}, {"multipliers": (1, 1)}, {"mean": 0.2}, {"parametrisation": "score"}], ids=str
)
def test_another_network_s_checkpoint_is_refused(stopped, change):
    "Also when only the units of the weights differ: they would fit, and mean something else."
    with pytest.raises(ValueError, match="another") as caught:
        run(fresh(replace(TINY, **change)), RECIPE, checkpoint=stopped)
    assert str(stopped) in str(caught.value) and "\n" not in str(caught.value)


def damage(path, how):
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "half":
        path.write_bytes(content[: len(content) // 2])
    elif how == "header":
        path.write_bytes(content[:100])
    elif how == "random":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        save_file({"weight": torch.ones(3)}, path, metadata=how)


DESCRIPTIONS = [
    None,
    {"sdfdiff": "{}"},
    *(
        {"training": text}
        for text in (
            "{not json",
            "null",
            "3",
            "[]",
            "{}",
            json.dumps({"recipe": {"colour": 3}, "step": 1, "seconds": 1}),
            json.dumps({"recipe": vars(RECIPE), "step": 1, "seconds": 1.0}),
        )
    ),
]


@pytest.mark.parametrize("how", ["empty", "half", "header", "random", "folder", *DESCRIPTIONS], ids=str)
def test_a_damaged_checkpoint_is_refused_in_one_sentence(stopped, how):
    damage(stopped, how)
    with pytest.raises(ValueError) as caught:
        run(fresh(), RECIPE, checkpoint=stopped)
    assert str(stopped) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("how", ["empty", "half", "random", *DESCRIPTIONS[:-1]], ids=str)
def test_a_damaged_checkpoint_has_no_recipe(stopped, how):
    damage(stopped, how)
    with pytest.raises(ValueError) as caught:
        stored_recipe(stopped)
    assert str(stopped) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_checkpoint_has_no_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing.safetensors"):
        stored_recipe(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("problem", [RuntimeError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failed_write_leaves_the_older_checkpoint_whole(stopped, monkeypatch, problem):
    content = stopped.read_bytes()

    def fails(path, content):
        path.open("wb").write(content[: len(content) // 2])
        raise problem

    monkeypatch.setattr(Path, "write_bytes", fails)
    with pytest.raises(type(problem)):
        run(fresh(), RECIPE, checkpoint=stopped, every=0)
    assert stopped.read_bytes() == content and os.listdir(stopped.parent) == [stopped.name]


def test_an_interrupted_step_leaves_the_older_checkpoint(stopped, monkeypatch):
    "A step that was cut short is not written: the weights may have moved when the average had not."
    content, real = stopped.read_bytes(), torch._foreach_lerp_

    def interrupted(*values):
        real(*values)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "_foreach_lerp_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(fresh(), RECIPE, checkpoint=stopped)
    assert stopped.read_bytes() == content


# Judged on the way ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps, expected", [(2500, range(250, 2501, 250)), (500, range(100, 501, 100)), (30, [30])])
def test_a_training_is_read_ten_times_but_not_too_often(steps, expected):
    assert [number for number in range(1, steps + 1) if module._is_read(number, steps)] == [*expected]
    assert sum(module._is_read(number, 1234) for number in range(1, 1235)) == 10


def validation(**settings):
    images, distances = disc_data().draw(3, seeded(8))
    return Validation(images, distances, **{"recipe": RECIPE} | settings)


def test_judging_changes_nothing_and_is_always_the_same(tmp_path, monkeypatch):
    "Not one bit of the weights; and a training that is stopped twice reads the same as one in one go."
    monkeypatch.setattr(module, "_APART", 2)
    judge, checkpoint = validation(), tmp_path / "c.safetensors"
    before, plain = torch.random.get_rng_state(), run(fresh(), RECIPE)
    straight = run(fresh(), RECIPE, judge=judge, table=tmp_path / "a.csv")
    for stop in (3, 4, 8):
        for step in train(
            fresh(),
            disc_data(),
            RECIPE,
            checkpoint=checkpoint,
            dtype=torch.float32,
            judge=judge,
            table=tmp_path / "b.csv",
        ):
            if step.number == stop:
                break
    assert torch.equal(before, torch.random.get_rng_state())
    for one in (straight, step):
        assert torch.equal(numbers(one.average), numbers(plain.average))
        assert [row["step"] for row in one.history] == [2, 4, 6, 8]
    assert torch.equal(numbers(straight.best), numbers(step.best)) and straight.running == step.running
    for ours, theirs in zip(straight.history, step.history, strict=True):
        assert ours | {"seconds": 0} == theirs | {"seconds": 0}
    tables = [[line.split(",") for line in (tmp_path / name).read_text().splitlines()] for name in ("a.csv", "b.csv")]
    assert [line[:1] + line[2:] for line in tables[0]] == [line[:1] + line[2:] for line in tables[1]]
    assert tables[0][0] == [*module.COLUMNS] and len(tables[0]) == 5


def test_a_table_never_knows_more_than_the_checkpoint(tmp_path, monkeypatch):
    "Killed between the two, a training goes on; the other way round a row would be there that nobody remembers."
    monkeypatch.setattr(module, "_APART", 2)
    checkpoint, table = tmp_path / "c.safetensors", tmp_path / "c.csv"

    def fails(*values, **options):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_write_table", fails)
        run(fresh(), RECIPE, checkpoint=checkpoint, every=1e9, table=table)
    assert not table.exists() and module._description(checkpoint)["step"] == 2
    run(fresh(), RECIPE, checkpoint=checkpoint, table=table)
    assert [line.split(",")[0] for line in table.read_text().splitlines()] == ["step", "2", "4", "6", "8"]


def test_scores_are_those_of_the_method_draft():
    "The same members, drawn one image after the other by the ensembles' own sampler; F1 and CRPS by its scores."
    from sdfdiff.ensembles.method import METHODS
    from sdfdiff.uncertainty.forecasts import crps

    network = stirred(replace(TINY, mean=0.0, deviation=0.1)).eval().requires_grad_(False)
    judge, drawn = validation(reach=2.0), []
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Validation, "_draw", lambda *given, real=Validation._draw: drawn.append(real(*given)) or drawn[-1]
        )
        scores = judge(network)
    members = (drawn[0][:, :, 0] * 50).clamp(-10, 10).double().numpy()
    truth = judge.distances[:, 0].clamp(-10, 10).double().numpy()
    assert members.shape == (4, 3, 16, 16) and members.std(axis=0).mean() > 0.1
    expected = [float(crps(members[:, k], truth[k])) for k in range(3)]
    assert scores["crps"] == pytest.approx(np.mean(expected), rel=1e-6)
    mask, known = members.clip(-2, 2).mean(axis=0) <= 0.5, truth <= 0.5
    assert scores["f1"] == pytest.approx(2 * (mask & known).sum() / (mask.sum() + known.sum()))
    draft = METHODS["draft"]
    assert (draft.sampler, draft.steps, draft.spacing, draft.start, draft.final) == (
        "dpm",
        4,
        "geometric",
        "initial_estimate",
        True,
    )
    given = {}
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            losses_module,
            "geometric_levels",
            lambda *ends, **how: given.update(ends=ends, **how) or LEVELS(*ends, **how),
        )
        patch.setattr(losses_module, "dpm_solver", lambda *rest, **how: given.update(how) or SOLVER(*rest, **how))
        judge(network)
    assert given == {
        "ends": (draft.lowest, 5.0, 4),
        "first": draft.first,
        "growth": draft.growth,
        "stochasticity": draft.stochasticity,
        "final": True,
    }


def test_a_perfect_network_scores_perfectly():
    judge = validation()

    class Knowing:
        architecture, weight, generator = TINY, torch.zeros(1), None
        clean = judge.distances.clamp(-10, 10) * 0.02

        def encode(self, images):
            return Features(images, self.clean)

        def __call__(self, noisy, noise_level, features):
            return self.clean.repeat(len(noisy) // len(self.clean), 1, 1, 1)

    scores = judge(Knowing())
    assert scores["validation_loss"] == 0 and scores["f1"] == 1 and scores["crps"] == pytest.approx(0, abs=1e-5)
    none = validation()
    none.distances.fill_(9.0)
    Knowing.clean = none.distances * 0.02
    assert math.isnan(none(Knowing())["f1"])  # no object, and none marked: not defined


# What cannot be learned from -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["images", "distances"])
def test_nan_is_named_and_not_learned(tmp_path, what):
    data, network = disc_data(crop=32), fresh()  # each crop is the whole image
    getattr(data, what)[0][..., 3, 5] = math.nan
    with pytest.raises(ValueError, match="NaN") as caught:
        run(network, RECIPE, data, checkpoint=tmp_path / "c.safetensors", every=0)
    assert "\n" not in str(caught.value) and not (tmp_path / "c.safetensors").exists()
    assert numbers(network).isfinite().all()


@pytest.mark.parametrize("wrong", [{"steps": -1}, {"batch": 0}, {"levels": 0}], ids=str)
def test_a_recipe_without_work_is_refused(wrong):
    with pytest.raises(ValueError, match="at least 1"):
        run(fresh(), replace(RECIPE, **wrong))


def test_images_with_other_channels_are_named():
    data = disc_data()
    data.images[0] = data.images[0].repeat(3, 1, 1)
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\)"):
        run(fresh(), RECIPE, data)


# Several encoders, P(object), one-call members -----------------------------------------------------------------------

MANY = replace(TINY, encoders=2, probability=True, one_call=(1,), cells=(4,))
STAGED = replace(RECIPE, steps=8, encoder_steps=4)


def patients(crop=16, seed=0):
    "Four images of three patients; each shows its number as a constant, so that it is seen who was drawn."
    distances = [torch.from_numpy(shapes.disc((32, 32), (15.0, 17.0), 6.0 + k)).float() for k in range(4)]
    images = [torch.full((1, 32, 32), 0.2 * (k + 1)) for k in range(4)]
    return TrainingData(images, distances, crop, Augmentation(), ["a", "b", "a", "c"])


def encoders_of(network):
    return torch.cat([value.detach().flatten() for value in network.encoders.state_dict().values()])


def test_encoders_learn_first_and_then_stay():
    network, before, after = fresh(MANY), fresh(MANY), {}
    for step in train(network, patients(), STAGED, dtype=torch.float32):
        after[step.number] = [encoders_of(network).clone(), encoders_of(step.average).clone(), numbers(network).clone()]
        assert math.isnan(step.loss) == math.isnan(step.score) == (step.number <= 4)
        assert math.isnan(step.estimate_loss) == (step.number > 4)
        rest = ("condition.weight", "enter.weight", "generator.enter.weight")
        moved = [not torch.equal(network.state_dict()[name], before.state_dict()[name]) for name in rest]
        assert step.number > 4 or not any(moved)
    assert not torch.equal(after[1][0], after[4][0]) and all(moved)  # once its last layer is not zero, all of it learns
    for number in (5, 6, 7, 8):  # those that stay are those that were averaged
        assert torch.equal(after[number][0], after[4][1]) and torch.equal(after[number][1], after[4][1])


def seen_by(monkeypatch, recipe, data):
    "Which encoder read which images, step by step."
    seen, real = [], ScoreNetwork.answers

    def answers(self, image, which=None):
        seen.append((which, {round(value) for value in (5 * image.amax((1, 2, 3))).tolist()}))
        return real(self, image, which)

    monkeypatch.setattr(ScoreNetwork, "answers", answers)
    run(fresh(MANY), recipe, data)
    return seen


@pytest.mark.parametrize("divided", [2, 3, 6])
def test_no_encoder_learns_from_its_own_fold_and_the_rest_from_nothing_else(monkeypatch, divided):
    "Each leaves out one fold, of half the patients or of a small part; with more folds than patients, of one patient."
    data = patients()
    pairs = module.folds(data, MANY.encoders, divided)
    others, own = (
        [{round(5 * image.max().item()) for image in part.images} for part in parts] for parts in zip(*pairs)
    )
    assert not own[0] & own[1] and all(a | b == {1, 2, 3, 4} and not a & b for a, b in zip(others, own))
    seen = seen_by(monkeypatch, replace(STAGED, steps=80, encoder_steps=40, batch=1, folds=divided), data)
    assert [which for which, _ in seen] == [0, 1] * 40  # they take turns, in both stages
    for stage, wanted in ((seen[:40], others), (seen[40:], own)):
        for which in (0, 1):
            assert set.union(*(images for one, images in stage if one == which)) == wanted[which]


@pytest.mark.parametrize("stops", [(2,), (4,), (6,), (3, 4, 5)], ids=str)
def test_a_staged_training_is_continued_to_the_bit(tmp_path, stops):
    "Before, at and after the border between the stages."
    straight = run(fresh(MANY), STAGED, patients())
    for stop in (*stops, STAGED.steps):
        for step in train(fresh(MANY), patients(), STAGED, checkpoint=tmp_path / "c.safetensors", dtype=torch.float32):
            if step.number == stop:
                break
    assert step.number == 8 and torch.equal(numbers(step.average), numbers(straight.average))
    assert step.running == straight.running and not any(map(math.isnan, step.running))


def test_readings_of_a_staged_training_hold_what_is_known(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_APART", 2)
    last = run(fresh(MANY), STAGED, patients(), judge=validation(), table=tmp_path / "t.csv")
    early, late = last.history[0], last.history[-1]
    assert {*early} == {"step", "seconds", "estimate_loss"} and {*late} == {*module.COLUMNS}
    assert [row["step"] for row in last.history] == [2, 4, 6, 8] and last.best is not None
    lines = [line.split(",") for line in (tmp_path / "t.csv").read_text().splitlines()]
    assert lines[1][2] == "" != lines[1][3] and "" not in lines[4]


def test_a_validation_draws_with_the_generator_if_there_is_one():
    network, judge = stirred(MANY).eval().requires_grad_(False), validation()
    features = network.encode(judge.images)
    members = judge._draw(network, features, seeded(3))
    noise = losses_module.noise_maps(12, (16, 16), MANY, seeded(3))
    assert torch.equal(members.flatten(0, 1), network.generate(noise, features.repeated(4)))
    assert members.shape == (4, 3, 1, 16, 16)


@pytest.mark.parametrize("wrong, said", [
    ({"members": 1}, "1 member per image.*at least 2"),
    ({"encoder_steps": 8}, "8 of 8 steps"),
    ({"encoder_steps": -1}, "-1 of 8 steps"),
], ids=str)  # fmt: skip
def test_recipes_that_cannot_be_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        replace(RECIPE, **wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoder_steps", [0, 1])
def test_several_encoders_must_learn_before_the_rest(encoder_steps, tmp_path):
    with pytest.raises(ValueError, match=f"2 encoders and {encoder_steps} of .* steps.*more steps are needed"):
        run(fresh(MANY), replace(RECIPE, encoder_steps=encoder_steps), checkpoint=tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


def test_too_few_patients_for_the_encoders_are_refused():
    with pytest.raises(ValueError, match="1 patients cannot be divided into 2 folds"):
        run(fresh(MANY), STAGED)


def test_the_mask_loss_is_smallest_for_the_true_probability():
    "Cross-entropy by hand; with Dice a law of one in three pulls the answer away from 1/3."
    logits, truth = torch.linspace(-3, 3, 601), torch.tensor([1.0, 0.0, 0.0])
    losses = torch.stack([mask_loss(one.expand(3), truth, dice=0) for one in logits])
    assert logits[losses.argmin()].sigmoid() == pytest.approx(1 / 3, abs=0.005)
    p = logits.sigmoid()
    assert torch.allclose(losses, -(p.log() + 2 * (1 - p).log()) / 3, atol=1e-5)
    extra = torch.stack([mask_loss(one.expand(3), truth) for one in logits]) - losses
    assert torch.allclose(extra, 1 - (2 * p + 1) / (3 * p + 2), atol=1e-5)


def test_the_encoder_loss_by_hand():
    network = stirred(replace(TINY, probability=True)).requires_grad_(False)
    images, distances = disc_data().draw(3, seeded(8))
    features = network.encode(images)
    clean = distances.clamp(-10, 10) * 0.02
    expected = ((features.initial_estimate - clean) ** 2).mean() / 0.15**2
    odds = (features.probability / (1 - features.probability)).log()
    expected += mask_loss(odds, (distances <= 0.5).float())
    assert encoder_loss(network, features, distances, RECIPE).item() == pytest.approx(expected.item(), rel=1e-4)


def test_encoders_do_not_learn_from_the_members():
    network = stirred(MANY)
    images, distances = disc_data().draw(2, seeded(8))
    module.one_call_loss(network, network.encode(images), distances, RECIPE, seeded()).backward()
    assert all(one.grad is None for one in [*network.encoders.parameters(), *network.condition.parameters()])
    assert all(one.grad.isfinite().all() and one.grad.any() for one in network.generator.parameters())


def test_one_call_members_learn():
    "Their score falls, while the generator still draws different ones."
    network = fresh(replace(TINY, one_call=(1,), cells=(4,)))
    scores = [step.score for step in train(network, disc_data(), replace(RECIPE, steps=60), dtype=torch.float32)]
    assert np.mean(scores[-10:]) < 0.8 * np.mean(scores[:10])
    with torch.inference_mode():
        features = network.encode(disc_data().draw(1, seeded(1))[0])
        noise = losses_module.noise_maps(4, (16, 16), network.architecture, seeded(2))
        assert network.generate(noise, features).std(0).mean() > 1e-4


# ---- shares, processes, events


def test_a_step_takes_the_mean_of_the_shares():
    "Two shares of two images: the gradient is the mean of those of two batches, each drawn for itself."
    seen, data, network = [], disc_data(), fresh()

    def objective(network, images, distances, generator):
        seen.append((images, distances, torch.rand(1, generator=generator).item()))
        return (network.encode(images).initial_estimate - distances).square().mean()

    recipe = Recipe(steps=9, batch=4, shares=2, seed=5)
    step = next(train(network, data, recipe, dtype=torch.float32, objective=objective))
    own = fresh()
    losses = [(own.encode(images).initial_estimate - distances).square().mean() for images, distances, _ in seen]
    torch.stack(losses).mean().backward()
    assert [len(images) for images, *_ in seen] == [2, 2] and seen[0][2] != seen[1][2]
    assert step.loss == pytest.approx(sum(one.item() for one in losses) / 2, rel=1e-6)
    pairs = [pair for pair in zip(network.parameters(), own.parameters()) if pair[1].grad is not None]
    length = torch.stack([one.grad.norm() for _, one in pairs]).norm()
    assert pairs and all(torch.allclose(a.grad, b.grad / max(1, length), atol=1e-6) for a, b in pairs)
    for shares in (0, 3):
        with pytest.raises(ValueError, match=f"4 images in {shares} shares"):
            Recipe(batch=4, shares=shares)


def test_two_processes_give_what_one_gives(tmp_path):
    "`accelerate launch` on two processors; rounding differs, and Adam's first steps make it larger."
    pytest.importorskip("accelerate")
    script = Path(two_processes.__file__)
    # `--cpu` would start one process; with `--multi_gpu` and Accelerator(cpu=True) there are two, which speak gloo
    how = ["--multi_gpu", "--num_machines=1", "--num_processes=2", "--mixed_precision=no", "--dynamo_backend=no"]
    words = [sys.executable, "-m", "accelerate.commands.launch", *how, "--main_process_port=0", str(script)]
    subprocess.run([*words, str(tmp_path)], check=True, capture_output=True, timeout=300)
    first, second = (load_file(tmp_path / f"{k}-of-2.safetensors") for k in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first if name != "losses")
    losses, weights = two_processes.run(None)
    assert torch.allclose(first["losses"], torch.tensor(losses), rtol=1e-4, equal_nan=True)
    assert all(torch.allclose(first[name], weights[name], atol=1e-4) for name in weights)
    assert stored_recipe(tmp_path / "c.safetensors") == two_processes.RECIPE and (tmp_path / "c.csv").exists()


def test_shares_and_processes_must_fit():
    three = SimpleNamespace(num_processes=3, process_index=0, is_main_process=True)
    with pytest.raises(ValueError, match="2 shares for 3 processes"):
        next(train(fresh(), disc_data(), Recipe(batch=4, shares=2), accelerator=three))


def test_processes_that_begin_with_different_weights_are_refused():
    other = SimpleNamespace(num_processes=2, process_index=0, is_main_process=True)
    other.gather = lambda mine: torch.cat([mine, mine + 1])
    with pytest.raises(ValueError, match="different weights: seed torch alike"):
        next(train(fresh(), disc_data(), Recipe(batch=4, shares=2), accelerator=other))


def test_tensorboard_has_what_the_table_has(tmp_path, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(module, "_APART", 2)
    *_, last = train(fresh(), disc_data(), RECIPE, events=tmp_path / "e", judge=lambda network: {"crps": 0.5})
    found = accumulator.EventAccumulator(str(tmp_path / "e"))
    found.Reload()
    assert {*found.Tags()["scalars"]} == {*last.history[0]} - {"step"} >= {"loss", "crps"}
    for name in found.Tags()["scalars"]:
        read = [(event.step, event.value) for event in found.Scalars(name)]
        assert read == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in last.history]
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="TensorBoard is not installed: pip install"):
        next(train(fresh(), disc_data(), RECIPE, events=tmp_path / "f", checkpoint=tmp_path / "c.safetensors"))
    assert not (tmp_path / "c.safetensors").exists()


def test_tensorboard_is_imported_when_it_is_asked_for():
    code = "import sys, sdfdiff.diffusion.training; assert not {'tensorboard', 'accelerate'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
