"Straight paths: the schedule, the velocity, Euler's steps, the usual errors, and training by a weight."

import math

import numpy as np
import pytest
import torch
from scipy import stats

from sdfdiff.beyond.flow_matching import StraightPath, denoiser_of, euler_path, velocity, weighted_objective
from sdfdiff.diffusion.corruption import VE, corrupt
from sdfdiff.diffusion.losses import Recipe, draw_noise_levels, encoder_loss
from sdfdiff.diffusion.network import Architecture, ScoreNetwork
from sdfdiff.diffusion.oracle import FiniteMasks, GaussianField
from sdfdiff.diffusion.model import load_model
from sdfdiff.diffusion.sampling import SAMPLERS, dpm_solver, flow_levels, gaussian, last, member_generators
from sdfdiff.ensembles.members import Denoiser, draw_members
from sdfdiff.ensembles.method import METHODS, Method
from sdfdiff.images.synthetic import tissue

PATHS = [StraightPath(), StraightPath(0.2, 1e-5), StraightPath(1.0, 0.0), StraightPath(0.05, 0.3)]
each_path = pytest.mark.parametrize("path", PATHS, ids=repr)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


# ---- the path


@each_path
def test_state_is_scale_times_clean_plus_noise(path):
    clean, z = noise(2, 1, 4, 4), noise(2, 1, 4, 4, seed=1)
    for t in (0.01, 0.3, 1.0):
        state = t * clean + (1 - (1 - path.sigma_min) * t) * path.unit * z
        again = path.scale(t) * (clean + path.noise_level(t) * z)
        assert torch.allclose(state, again, atol=1e-12)
        assert float(path.time(path.noise_level(t))) == pytest.approx(t, abs=1e-12)
    times = torch.linspace(0.01, 1, 20, dtype=torch.float64)
    assert (path.noise_level(times).diff() < 0).all(), "time runs from noise to data"
    assert math.isinf(path.noise_level(0.0)) and float(path.noise_level(1.0)) == pytest.approx(
        path.unit * path.sigma_min
    )


@pytest.mark.parametrize("unit, sigma_min", [(0, 0), (-1, 0), (math.inf, 0), (1, 1), (1, -0.1), (math.nan, 0)])
def test_impossible_paths_are_refused(unit, sigma_min):
    with pytest.raises(ValueError, match="unit .* and sigma_min"):
        StraightPath(unit, sigma_min)


def test_levels_of_flow_are_even_in_the_time_of_the_path():
    path = StraightPath(0.2, 1e-3)
    levels = flow_levels(2e-4, 5.0, 10, 0.2)
    assert levels[0] == 5.0 and levels[-1] == pytest.approx(2e-4) and (levels.diff() < 0).all()
    np.testing.assert_allclose(path.time(levels[1:].double()), np.arange(1, 11) / 10, rtol=1e-5)
    assert flow_levels(2e-4, 5.0, 1).tolist() == pytest.approx([5.0, 2e-4])


@pytest.mark.parametrize("wrong, words", [
    ((2e-4, 5.0, 26), "25 fit at most"), ((2e-4, 5.0, 3, 0.0), "positive"), ((2e-4, 5.0, 3, -0.2), "positive"),
    ((2e-4, 5.0, 0), "at least one"), ((0.0, 5.0, 3), "0 < sigma_min"), ((6.0, 5.0, 3), "0 < sigma_min"),
])  # fmt: skip
def test_impossible_levels_of_flow_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        flow_levels(*wrong)
    if len(wrong) == 3:
        assert len(flow_levels(2e-4, 5.0, 25)) == 26


# ---- velocity and denoiser


@each_path
def test_velocity_is_the_regression_of_the_lines(path):
    "Drawn lines in one dimension: the mean of m - (1 - s) u z given the state, by least squares."
    world, t, count = GaussianField((1, 1), deviation=0.3), 0.4, 400_000
    clean = 0.3 * noise(count, 1, 1, 1)
    z = noise(count, 1, 1, 1, seed=1)
    state = t * clean + float(path.share(t)) * path.unit * z
    slope = stats.linregress(
        state.flatten().numpy(), (clean - (1 - path.sigma_min) * path.unit * z).flatten().numpy()
    ).slope
    found = velocity(world, torch.ones(1, 1, 1, 1, dtype=torch.float64), t, path, highest=1e9)
    assert float(found) == pytest.approx(slope, abs=5e-3 * max(1, abs(slope)))


@each_path
def test_denoiser_and_velocity_are_each_other_s_inverse(path):
    world = FiniteMasks(noise(3, 4, 4) * 0.1)
    noisy = noise(2, 1, 4, 4, seed=2)
    for level in (0.05, 0.5, 3.0):
        back = denoiser_of(lambda state, t: velocity(world, state, t, path, highest=1e9), path)
        level = torch.tensor(max(level, 1.01 * path.unit * path.sigma_min), dtype=torch.float64)
        assert torch.allclose(back(noisy, level), world(noisy, level), atol=1e-9)


def test_at_the_start_the_network_is_asked_at_its_highest_level():
    asked = []

    def denoise(noisy, level):
        asked.append((float(noisy.std()), float(level)))
        return torch.zeros_like(noisy)

    state = 0.2 * noise(1, 1, 64, 64)
    assert torch.allclose(velocity(denoise, state, 0.0, StraightPath(), 5.0), -0.999 * state)
    velocity(denoise, state, 1e-4, StraightPath(), 5.0)
    for deviation, level in asked:
        assert level == 5.0 and deviation == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_times_beside_the_path_are_refused(t):
    with pytest.raises(ValueError, match="from 0 .noise. to 1 .data."):
        velocity(GaussianField((4, 4)), noise(1, 1, 4, 4), t)
    with pytest.raises(ValueError, match="must grow from 0"):
        euler_path(GaussianField((4, 4)), noise(1, 1, 4, 4), torch.tensor([0.5, t]))


# ---- Euler's steps


@each_path
@pytest.mark.parametrize("steps", [1, 3, 7])
def test_euler_is_ddim_to_rounding(path, steps):
    world, noisy = GaussianField((8, 8)), 5 * gaussian((2, 1, 8, 8), seeded()).double()
    times = torch.linspace(float(path.time(5.0)), 0.99, steps + 1, dtype=torch.float64)
    own = [*euler_path(world, noisy * times[0], times, path)]
    ddim = [*dpm_solver(world, noisy, path.noise_level(times), order=1)]
    for state, other, t in zip(own, ddim, times[1:], strict=True):
        assert torch.allclose(state / t, other, atol=1e-10)


def shares(sample, world):
    near = (sample - world.distances).square().mean((2, 3)).argmin(1)
    return torch.bincount(near, minlength=len(world.distances)) / len(sample)


def test_masks_come_as_often_as_they_should_and_renoised_input_is_found_out():
    row, column = np.mgrid[:12, :12] + 0.5
    large, small = (np.hypot(row - 6, column - 6) - radius for radius in (4.5, 2.0))
    world = FiniteMasks(torch.tensor(np.stack([large, small]) * 0.02), [0.6, 0.4])
    start = 0.2 * gaussian((600, 1, 12, 12), seeded()).double()
    for steps in (20, 60):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        right = last(euler_path(world, start, times, highest=100.0))
        wrong = last(euler_path(world, start, times, highest=100.0, renoised=True))
        assert abs(float(shares(right, world)[0]) - 0.6) < 0.07
        assert float(shares(wrong, world)[0]) > 0.7


def test_a_gaussian_field_cannot_see_the_direction_of_time_but_masks_can():
    "All steps of a linear problem are factors: their order does not matter. So a test needs masks."
    path, field, steps = StraightPath(), GaussianField((8, 8)), 40
    world = FiniteMasks(torch.stack([torch.full((8, 8), -0.1), torch.full((8, 8), 0.1)]), [0.8, 0.2])

    def run(denoise, clock):
        state = 0.2 * gaussian((300, 1, 8, 8), seeded()).double()
        for t in clock:
            state = state + velocity(denoise, state, t, path, 100.0) / steps
        return state

    forward = [k / steps for k in range(steps)]
    assert torch.allclose(run(field, forward), run(field, forward[::-1]), atol=1e-10)
    assert abs(float(shares(run(world, forward), world)[0]) - 0.8) < 0.08
    assert float(shares(run(world, forward[::-1]), world)[0]) < 0.7


def test_the_last_step_ends_at_the_data():
    "With one possible mask, whatever the number of steps, the noise that is left is sigma_min."
    world = FiniteMasks(noise(1, 6, 6) * 0.1)
    for steps in (1, 3, 10):
        for path in PATHS[:3]:
            start = path.unit * gaussian((64, 1, 6, 6), seeded()).double()
            end = last(euler_path(world, start, torch.linspace(0, 1, steps + 1), path, highest=1e6))
            assert float((end - world.distances[0]).std()) == pytest.approx(
                path.sigma_min * path.unit, abs=2e-6, rel=0.1
            )


# ---- the method


def test_the_method_flow_is_ddim_on_the_levels_of_flow():
    one = METHODS["flow"]
    assert (one.sampler, one.steps, one.spacing, one.calls, one.final) == ("ddim", 3, "flow", 3, False)
    assert Method(spacing="flow").spacing == "flow" and one.sampler in SAMPLERS


def test_drawn_members_are_the_ends_of_straight_paths():
    "The command's way to draw, and Euler's steps in the path's own coordinates, with shipped weights."
    model, scene, path = load_model("tissue", dtype=torch.float32), tissue(7, (32, 32)), StraightPath()
    denoiser = Denoiser(model, np.ascontiguousarray(np.moveaxis(scene.image, -1, 0)))
    drawn = last(draw_members(denoiser, model, METHODS["flow"], range(2)))
    start = denoiser.initial_estimate + 5 * gaussian((2, 1, *denoiser.canvas), member_generators(0, range(2)))
    times = path.time(flow_levels(2e-4, 5.0, 3, model.data_scale).double()).clamp(max=1)
    end = last(euler_path(denoiser, start * float(times[0]), times, path)) / float(times[-1])
    assert torch.allclose(drawn, end, atol=1e-5) and float(drawn.std(0).mean()) > 1e-3


# ---- training


@each_path
def test_weight_is_that_of_the_velocity(path):
    "(v - u)^2 of a wrong velocity is the weighted error of its denoiser; a velocity of zero has loss one."
    world, t = GaussianField((4, 4)), 0.37
    clean, z = noise(3, 1, 4, 4), noise(3, 1, 4, 4, seed=1)
    state = t * clean + path.share(t) * path.unit * z
    target = clean - (1 - path.sigma_min) * path.unit * z
    level = path.noise_level(t)
    error = (velocity(world, state, t, path, 1e9) - target).square().mean()
    found = (world(state / t, level) - clean).square().mean() * path.weight(level, 0.1)
    assert float(found) == pytest.approx(float(error) / ((1 - path.sigma_min) ** 2 * path.unit**2 + 0.1**2), rel=1e-9)


def test_uniform_time_of_straight_paths_is_a_logistic_law():
    levels = draw_noise_levels(4096, Recipe(noise="uniform_time"), StraightPath(0.2, 0.0), 0.1, seeded())
    assert stats.kstest(np.log(levels.double().numpy()), "logistic", (math.log(0.2), 1)).pvalue > 0.01


def test_objective_is_the_weighted_loss_and_the_encoder_s():
    network = ScoreNetwork(Architecture(3, width=8, multipliers=(1, 1)))
    recipe, images, distances = Recipe(noise="uniform_time"), torch.rand(4, 3, 16, 16), 5 * torch.randn(4, 1, 16, 16)
    path, deviation = StraightPath(), network.architecture.deviation
    with torch.no_grad():
        loss = weighted_objective(recipe, path, path.weight)(network, images, distances, seeded())
        generator, features = seeded(), network.encode(images)
        clean = (distances.clamp(-10, 10) * 0.02).repeat(2, 1, 1, 1)
        levels = draw_noise_levels(8, recipe, path, deviation, generator).clamp(1e-3, 152)
        found = network(corrupt(clean, levels, generator), levels, features.repeated(2))
        velocities = (found - clean) / path.share(path.time(levels))[:, None, None, None]
        by_hand = velocities.square().mean() / ((0.999 * 0.2) ** 2 + deviation**2)
        by_hand = by_hand + encoder_loss(network, features, distances, recipe)
        assert float(loss) == pytest.approx(float(by_hand), rel=1e-4)
        usual = weighted_objective(Recipe(), VE())(network, images, distances, seeded())
        assert 0.3 < float(usual) < 40 and float(usual) != float(loss)
