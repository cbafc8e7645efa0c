"Choosing noise levels: closed forms, the sampler itself, and the promises of the shipped grids."

import math

import pytest
import torch

from benchmarks.noise_levels import (
    exact_power,
    field_ratios,
    mode_gain,
    mode_variance,
    two_point_share,
    worst_error,
)
from sdfdiff.diffusion.oracle import GaussianField
from sdfdiff.diffusion.sampling import dpm_solver, gaussian, geometric_levels, karras_levels, last

VARIANCE = torch.tensor([1e-4, 1e-2, 0.3, 4.0], dtype=torch.float64)
FIELD = GaussianField((6, 8), length=1.5)
DEFAULT = geometric_levels(0.002, 5, 9, first=0.3, growth=0.9), 0.25
DRAFT = geometric_levels(0.002, 5, 4, first=0.7, growth=0.9), 0.25
BEFORE = karras_levels(0.001, 5, 12), 1.0


# ---- the Gaussian world


def test_one_denoise():
    "From pure noise, one call leaves (v / (v + level^2))^2 level^2."
    assert torch.allclose(mode_variance([3.0], VARIANCE), 9 * (VARIANCE / (VARIANCE + 9)) ** 2, rtol=1e-12)
    assert torch.allclose(mode_variance([3.0], VARIANCE, final=False), torch.full((4,), 9.0, dtype=torch.float64))


@pytest.mark.parametrize("stochasticity", [0.0, 0.4, 1.0])
def test_one_step_from_the_truth(stochasticity):
    "One step by hand: the state is correlated with the denoised field, the fresh noise with neither."
    level, lower = 2.0, 0.5
    kept, fresh = VARIANCE / (VARIANCE + level**2), stochasticity * lower * math.sqrt(1 - (lower / level) ** 2)
    shrink = math.sqrt(lower**2 - fresh**2) / level
    expected = (shrink + (1 - shrink) * kept) ** 2 * (VARIANCE + level**2) + fresh**2
    found = mode_variance([level, lower], VARIANCE, stochasticity, final=False, true_start=True)
    assert torch.allclose(found, expected, rtol=1e-12)


def test_nothing_to_know():
    "Without a field every step keeps the noise at its level, and the final denoise removes it."
    for levels, stochasticity in (DEFAULT, DRAFT, BEFORE):
        found = mode_variance(levels, torch.zeros(1), stochasticity, final=False)
        assert found == pytest.approx(float(levels[-1]) ** 2, rel=1e-6)
        assert mode_variance(levels, torch.zeros(1), stochasticity) == 0


@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("final", [False, True])
def test_many_steps(stochasticity, final):
    "From the true start the truth remains; the ODE keeps what a start around the mean lacks."
    levels = geometric_levels(1e-4, 5, 800)
    assert (mode_gain(levels, VARIANCE, stochasticity, 2, final, true_start=True) - 1).abs().max() < 4e-3
    if stochasticity == 0:
        assert torch.allclose(mode_gain(levels, VARIANCE, final=final), 25 / (25 + VARIANCE), rtol=4e-3)


def test_errors_shrink_with_the_order():
    "Halving the steps quarters the error of the second order and halves that of the first."
    for order, factor in ((1, 2), (2, 4)):
        coarse, fine = (
            float(mode_gain(geometric_levels(1e-2, 5, steps), 0.3, 0.0, order, False, true_start=True)) - 1
            for steps in (200, 400)
        )
        assert coarse / fine == pytest.approx(factor, rel=0.1)


@pytest.mark.parametrize("levels, stochasticity", [DEFAULT, DRAFT, BEFORE], ids=["default", "draft", "before"])
@pytest.mark.parametrize("order", [1, 2])
def test_agrees_with_the_sampler(levels, stochasticity, order):
    "The power of each mode of many sampled fields; without fresh noise the sampler's gain exactly."
    count = 4000
    noisy = 5 * gaussian((count, 1, 6, 8), torch.Generator().manual_seed(0))
    sample = last(dpm_solver(FIELD, noisy, levels, torch.Generator().manual_seed(1), True, stochasticity, order))
    power = torch.fft.fft2(sample.double()).abs().square().mean((0, 1)) / 48
    off = power / mode_variance(levels, FIELD.spectrum, stochasticity, order) - 1
    assert off.abs().max() < 5 * (2 / count) ** 0.5
    ode = last(dpm_solver(FIELD, noisy[:1], levels, final=True, order=order))
    gain = torch.fft.fft2(ode.double()).abs().square()[0, 0] / torch.fft.fft2(noisy[0, 0].double()).abs().square()
    expected = mode_variance(levels, FIELD.spectrum, order=order) / 25
    assert torch.allclose(gain, expected, rtol=2e-2, atol=1e-12)


# ---- the two-point world


@pytest.mark.parametrize("rare", [0.5, 0.15])
@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0])
def test_many_steps_draw_each_value_as_often_as_it_should(rare, stochasticity):
    amplitude = torch.tensor([0.03, 0.3])
    share, spread = two_point_share(geometric_levels(0.002, 5, 200), amplitude, rare, stochasticity)
    assert torch.allclose(share, torch.full((2,), rare).double(), atol=0.01)
    assert torch.allclose(spread, torch.ones(2).double(), atol=0.03)


def test_the_two_values_change_places():
    levels, stochasticity = DRAFT
    rare, often = (two_point_share(levels, torch.tensor([0.1, 1.0]), p, stochasticity)[0] for p in (0.15, 0.85))
    assert torch.allclose(rare, 1 - often, atol=0.01)


def test_share_agrees_with_the_sampler():
    "The same world as a denoiser for the sampler itself: every pixel is a world of its own."
    amplitude, prior = torch.tensor([0.1, 1.0]), math.log(0.15 / 0.85) / 2

    def denoise(noisy, noise_level):
        return amplitude * torch.tanh(amplitude * noisy / noise_level**2 + prior)

    for levels, stochasticity in (DEFAULT, DRAFT, BEFORE):
        noisy = -0.7 * amplitude + 5 * gaussian((20_000, 1, 1, 2), torch.Generator().manual_seed(0))
        sample = last(dpm_solver(denoise, noisy, levels, torch.Generator().manual_seed(1), True, stochasticity))
        share, spread = two_point_share(levels, amplitude, 0.15, stochasticity)
        assert torch.allclose((sample > 0).double().mean((0, 1, 2)), share, atol=0.01)
        right = 2 * amplitude * math.sqrt(0.15 * 0.85)
        assert torch.allclose(sample.std(0)[0, 0] / right, spread.float(), atol=0.03)


def test_points_are_the_same_each_time_and_disturb_nothing():
    before = torch.get_rng_state()
    first, second = (two_point_share(*DEFAULT[:1], torch.tensor(1.0), 0.15, 0.25)[0] for _ in range(2))
    assert first == second and torch.equal(before, torch.get_rng_state())


# ---- the choice


def test_promises():
    "On the oracle's field spread within 2 % and fine power within 5 %, with and without the final denoise."
    smooth, rough = GaussianField((32, 32), 0.15, 4.0), GaussianField((32, 32), 0.15, 4.0, smoothness=0.5)
    for (levels, stochasticity), fields in ((DEFAULT, (smooth, rough)), (DRAFT, (smooth,))):
        for field in fields:
            for final in (True, False):
                std, power = field_ratios(field, levels, stochasticity, final=final)
                assert abs(std - 1) < 0.02 and abs(power - 1) < 0.05
    assert field_ratios(smooth, *BEFORE)[0] > 1.08


def test_exact_power_is_what_exact_states_leave():
    "Exact samples with noise, denoised or not."
    generator = torch.Generator().manual_seed(0)
    field = GaussianField((6, 8), length=1.5, smoothness=0.5)
    noisy = field.sample(4000, generator) + 0.1 * gaussian((4000, 1, 6, 8), generator)
    for final, states in ((False, noisy), (True, field(noisy, 0.1))):
        power = torch.fft.fft2(states.double()).abs().square().mean((0, 1)) / 48
        assert (power / exact_power(field, 0.1, final) - 1).abs().max() < 5 * (2 / 4000) ** 0.5


def test_worst_error():
    "The default is better than what was before with fewer calls; one call is hopeless."
    default, before = worst_error(*DEFAULT), worst_error(*BEFORE)
    assert default[0] < before[0] / 2 and default[1] < before[1]
    assert max(default) < 0.08 and max(worst_error(*DRAFT)) < 0.27
    assert min(worst_error(torch.tensor([5.0]))) > 1


@pytest.mark.parametrize("wrong", [
    lambda: mode_gain([1.0, 2.0], VARIANCE), lambda: mode_gain([1.0, 0.0], VARIANCE),
    lambda: mode_variance([2.0, 1.0], VARIANCE, 1.5), lambda: mode_variance([2.0, 1.0], VARIANCE, order=3),
    lambda: two_point_share([2.0, 1.0], 1.0, rare=1.0),
])  # fmt: skip
def test_refused(wrong):
    with pytest.raises(ValueError, match="must|needed"):
        wrong()
