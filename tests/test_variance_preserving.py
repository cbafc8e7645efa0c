"VP in its own coordinates against VE: schedules, noise prediction, steps, and Euler's method."

import math

import numpy as np
import pytest
import torch

from sdfdiff.beyond.flow_matching import StraightPath
from sdfdiff.beyond.variance_preserving import (
    CosineVP,
    denoiser_from_noise,
    euler_preserving,
    even_levels,
    noise_predictor,
    preserving_path,
)
from sdfdiff.diffusion.corruption import VE, VP
from sdfdiff.diffusion.oracle import FiniteMasks, GaussianField
from sdfdiff.diffusion.sampling import dpm_solver, gaussian, geometric_levels, last

WORLD = FiniteMasks(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 0.1)
SCHEDULES = [VP(), VP(0.01, 12.0), CosineVP(), CosineVP(0.0)]
each_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_cosine_is_the_published_formula():
    for t in (0.0, 0.2, 0.7, 0.999):
        bar = math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
        assert float(CosineVP().scale(t)) == pytest.approx(math.sqrt(bar), rel=1e-12)
        assert float(CosineVP().noise_level(t)) == pytest.approx(math.sqrt(1 / bar - 1), rel=1e-9, abs=1e-7)
    times = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    assert torch.allclose(CosineVP().time(CosineVP().noise_level(times)), times, atol=1e-10)
    with pytest.raises(ValueError, match="offset"):
        CosineVP(-0.1)


@pytest.mark.parametrize("schedule", [VE(), StraightPath(), *SCHEDULES], ids=repr)
def test_even_levels_are_even_in_the_schedule_s_time(schedule):
    levels = even_levels(schedule, 0.002, 5.0, 12)
    assert levels[0] == pytest.approx(5.0) and levels[-1] == pytest.approx(0.002) and (levels.diff() < 0).all()
    steps = schedule.time(levels).diff()
    assert torch.allclose(steps, steps.mean(), rtol=1e-6)
    if isinstance(schedule, VE):
        assert torch.allclose(levels.float(), geometric_levels(0.002, 5.0, 12), rtol=1e-5)


@pytest.mark.parametrize("wrong", [(0.0, 5.0, 3), (5.0, 1.0, 3), (0.1, math.inf, 3), (0.1, 1.0, 0)])
def test_impossible_levels_are_refused(wrong):
    with pytest.raises(ValueError, match="needed are"):
        even_levels(VP(), *wrong)


@each_schedule
def test_noise_and_denoiser_are_each_other_s_inverse(schedule):
    noisy = torch.randn(2, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    for level in (0.05, 1.0, 20.0):
        level = torch.tensor(level, dtype=torch.float64)
        back = denoiser_from_noise(noise_predictor(WORLD, schedule), schedule)
        assert torch.allclose(back(noisy, level), WORLD(noisy, level), atol=1e-8)


@each_schedule
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_steps_of_vp_are_steps_of_ve_divided_by_the_scale(schedule, eta):
    times = schedule.time(even_levels(schedule, 0.01, 5.0, 9))
    noisy = 5 * gaussian((3, 1, 8, 8), seeded()).double()
    predict = noise_predictor(WORLD, schedule)
    own = [*preserving_path(predict, noisy * float(schedule.scale(times[0])), times, schedule, seeded(1), eta)]
    levels = schedule.noise_level(times)
    exploding = [*dpm_solver(WORLD, noisy, levels, seeded(1), order=1, stochasticity=eta)]
    for state, other, scale in zip(own, exploding, schedule.scale(times)[1:], strict=True):
        assert torch.allclose(state, scale * other, atol=1e-9)
    assert torch.allclose(schedule.scale(times), 1 / (1 + levels**2).sqrt())


def test_euler_reaches_the_exact_ode_in_first_order():
    "In a Gaussian world the ODE multiplies a mode by the ratio of deviations; half the step, half the error."
    variance, schedule, errors = 0.3, VP(), []
    exact = math.sqrt((variance + 0.1**2) / (variance + 9))
    for steps in (200, 400, 800):
        times = schedule.time(even_levels(schedule, 0.1, 3.0, steps))
        state = torch.ones(1, 1, 1, 1, dtype=torch.float64) * float(schedule.scale(times[0]))
        end = last(euler_preserving(lambda x, level: x * variance / (variance + level**2), state, times))
        errors.append(float(end) / float(schedule.scale(times[-1])) / exact - 1)
    assert abs(errors[-1]) < 0.01 and all(a / b == pytest.approx(2, rel=0.1) for a, b in zip(errors, errors[1:]))


def test_euler_of_the_sde_has_the_right_law():
    field, schedule = GaussianField((8, 8), deviation=0.3, length=1.0), VP()
    times = schedule.time(even_levels(schedule, 0.05, 5.0, 300))
    start = (field.sample(800, seeded()) + 5 * gaussian((800, 1, 8, 8), seeded(1))) * float(schedule.scale(times[0]))
    end = last(euler_preserving(field, start.double(), times, generator=seeded(2), stochastic=True))
    deviation = float(end.std()) / float(schedule.scale(times[-1]))
    assert deviation == pytest.approx(math.hypot(0.3, 0.05), rel=0.03)


@pytest.mark.parametrize("times, eta, words", [
    ([0.2, 0.5], 0.0, "must fall"), ([0.5, 0.0], 0.0, "stay above 0"), ([0.5], 0.0, "must fall"),
    ([0.5, 0.2], 1.5, "stochasticity"), ([0.5, math.nan], 0.0, "must fall"),
])  # fmt: skip
def test_impossible_paths_are_refused(times, eta, words):
    with pytest.raises(ValueError, match=words):
        preserving_path(noise_predictor(WORLD), torch.zeros(1, 1, 8, 8), np.array(times), stochasticity=eta)
