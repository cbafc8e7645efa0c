"Pairs with two noise levels: exact worlds, paths through the square, and a sampler that must agree with formulas."

import pytest
import torch

from sdfdiff.beyond.joint import (
    FinitePairs,
    GaussianPairs,
    Pair,
    checked_pair,
    given_path,
    joint_path,
    pair_path,
    starting_pair,
)
from sdfdiff.diffusion.sampling import dpm_solver, geometric_levels, last


def world(channels=3, shape=(2, 2), seed=0):
    "A random covariance in which image and mask belong together."
    count, generator = (channels + 1) * shape[0] * shape[1], torch.Generator().manual_seed(seed)
    root = torch.randn(count, count, generator=generator, dtype=torch.float64) / count**0.5
    mean = torch.randn(count, generator=generator, dtype=torch.float64) / 5
    return GaussianPairs(mean, root @ root.T + 0.1 * torch.eye(count, dtype=torch.float64), channels, shape)


def drawn(denoise, path, count, channels, shape, seed=0, centre=None, **how):
    generator = torch.Generator().manual_seed(seed)
    centre = centre or Pair(*(torch.zeros(count, depth, *shape) for depth in (channels, 1)))
    return last(joint_path(denoise, starting_pair(path, centre, generator), path, generator, **how))


@pytest.mark.parametrize("levels", [(0.3, 2.0), (2.0, 0.3), (1.0, 1.0)])
def test_denoiser_is_the_gradient_of_the_density(levels):
    one = world()
    noise = torch.cat([torch.full((n,), s**2, dtype=torch.float64) for n, s in zip(one.sizes, levels)])
    noisy = one.pair(torch.randn(5, 16, generator=torch.Generator().manual_seed(1)))
    leaf = one.numbers(noisy).requires_grad_()
    law = torch.distributions.MultivariateNormal(one.mean, one.covariance + noise.diag())
    (gradient,) = torch.autograd.grad(law.log_prob(leaf).sum(), leaf)
    score = (one.numbers(one(noisy, *levels)) - one.numbers(noisy)) / noise
    assert torch.allclose(score, gradient, atol=1e-4)


@pytest.mark.parametrize("given", Pair._fields)
def test_an_edge_is_the_conditional(given):
    "With one part known and nothing of the other one, the denoiser returns the conditional mean."
    one, part = world(), Pair._fields.index(given)
    pair = one.sample(3, torch.Generator().manual_seed(2))
    levels = [1e6, 1e6]
    levels[part] = 0.0
    found = one(pair, *levels)
    assert torch.allclose(found[part], pair[part], atol=1e-5)
    for k in range(3):
        mean, _ = one.conditional(given, pair[part][k])
        assert torch.allclose(found[1 - part][k].flatten().double(), mean, atol=1e-4)


def test_sample_and_conditional_agree():
    "Regression in exact samples finds the formula's conditional; a noisy part says less."
    one = world(1, (1, 2))
    pairs = one.numbers(one.sample(200_000, torch.Generator().manual_seed(3)))
    image, distance = (pairs - pairs.mean(0)).split(one.sizes, 1)
    slope = torch.linalg.lstsq(image, distance).solution
    value = torch.tensor([0.7, -0.4], dtype=torch.float64)
    mean, covariance = one.conditional("image", value)
    wanted = pairs.mean(0)[2:] + (value - pairs.mean(0)[:2]) @ slope
    assert torch.allclose(mean, wanted, atol=0.02)
    assert torch.allclose(covariance, torch.cov((distance - image @ slope).T), atol=0.02)
    assert (one.conditional("image", value, 0.5)[1].diag() > covariance.diag()).all()


LEVELS = geometric_levels(0.02, 50.0, 39)
SLOW = geometric_levels(0.02, 50.0, 39, growth=1.05)
PATHS = {
    "diagonal": pair_path(LEVELS),
    "image first": pair_path(LEVELS, "image"),
    "distance first": pair_path(LEVELS, "distance"),
    "bow": torch.stack([pair_path(LEVELS)[:, 0], pair_path(SLOW)[:, 1]], 1),
}


@pytest.mark.parametrize("name", PATHS)
def test_every_path_draws_the_joint_law(name):
    one = world()
    numbers = one.numbers(drawn(one, PATHS[name], 60_000, 3, (2, 2)))
    assert (numbers.mean(0) - one.mean).abs().max() < 0.05
    found, size = torch.cov(numbers.T), one.sizes[0]
    for rows, columns in ((slice(size), slice(size)), (slice(size, None),) * 2, (slice(size), slice(size, None))):
        exact = one.covariance[rows, columns]
        assert (found[rows, columns] - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(("given", "held"), [("image", 0.0), ("distance", 0.0), ("image", 0.6)])
def test_a_part_that_is_known_is_held(given, held):
    one, part = world(), Pair._fields.index(given)
    value = one.sample(1, torch.Generator().manual_seed(5))[part]
    centre = [torch.zeros(20_000, depth, 2, 2) for depth in (3, 1)]
    centre[part] = value.expand(20_000, -1, -1, -1)
    path = given_path(LEVELS, given, held)
    start = starting_pair(given_path(LEVELS, given), Pair(*centre), torch.Generator().manual_seed(6))
    pairs = last(joint_path(one, start, path, torch.Generator().manual_seed(7)))
    mean, covariance = one.conditional(given, value, held)
    numbers = pairs[1 - part].flatten(1).double()
    assert torch.equal(pairs[part], start[part])
    assert (numbers.mean(0) - mean).abs().max() < 0.05 * covariance.diag().max().sqrt()
    assert (torch.cov(numbers.T) - covariance).norm() < 0.05 * covariance.norm()


def test_on_the_diagonal_it_is_the_solver_of_one_level():
    "Without fresh noise, the same numbers as the sampler of 2.8 with image and mask in one field."
    one, levels = world(), geometric_levels(0.05, 20.0, 8)
    path = torch.stack([levels, levels], 1)
    start = starting_pair(path, one.sample(4, torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1))

    def together(noisy, level):
        found = one(Pair(noisy[:, :3], noisy[:, 3:]), float(level), float(level))
        return torch.cat(found, 1)

    wanted = last(dpm_solver(together, torch.cat(start, 1), levels))
    found = torch.cat(last(joint_path(one, start, path, stochasticity=0.0)), 1)
    assert torch.allclose(found, wanted, atol=1e-4)


def test_a_path_is_as_long_as_said():
    levels = geometric_levels(0.1, 10.0, 4)
    assert pair_path(levels).shape == (6, 2) and pair_path(levels, "image").shape == (11, 2)
    assert torch.equal(pair_path(levels, "image"), pair_path(levels, "distance").flip(1))
    assert (given_path(levels, "distance", 0.3)[:, 1] == 0.3).all()


def test_a_finite_set_keeps_its_pairs_and_weights():
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(2, 1, 4, 4, generator=generator)[[0, 0, 1]]  # the first image has two masks
    pairs = Pair(image, torch.randn(3, 1, 4, 4, generator=generator))
    few = FinitePairs(pairs, torch.tensor([0.3, 0.2, 0.5]))
    found = few.posterior(drawn(few, PATHS["diagonal"], 4000, 1, (4, 4)), 0.05, 0.05)
    assert found.max(1).values.min() > 0.99
    assert torch.allclose(found.mean(0), few.weights, atol=0.05)
    centre = Pair(image[:1].expand(4000, -1, -1, -1), torch.zeros(4000, 1, 4, 4))
    masks = drawn(few, given_path(LEVELS, "image"), 4000, 1, (4, 4), centre=centre)
    share = few.posterior(masks, 0.05, 0.05).mean(0)
    assert share[2] == 0 and abs(share[0] - 0.6) < 0.05


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda: checked_pair(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 4)), "8 x 4"),
        (lambda: checked_pair(torch.zeros(2, 3, 8, 8), torch.zeros(1, 1, 8, 8)), "as many of both"),
        (lambda: checked_pair(torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8)), "is needed|are needed"),
        (lambda: pair_path(LEVELS, "mask"), "image or distance"),
        (lambda: world().conditional("colour", torch.zeros(12)), "image or distance"),
        (lambda: joint_path(world(), world().sample(1), torch.tensor([[1.0, 1.0], [0.5, -0.1]])), "-0.1"),
        (lambda: joint_path(world(), world().sample(1), torch.tensor([[1.0, 1.0], [2.0, 0.0]])), "must fall"),
        (lambda: joint_path(world(), world().sample(1), torch.tensor([[1.0, 1.0], [1.0, 1.0]])), "must fall"),
        (lambda: joint_path(world(), world().sample(1), torch.tensor([1.0, 0.5])), "step \\+ 1, 2"),
        (lambda: GaussianPairs([0.0], [[1.0]], 1, (1, 1)), "2 numbers"),
        (lambda: FinitePairs(world().sample(2), torch.tensor([1.0, -1.0])), "positive"),
    ],
)
def test_what_is_refused(wrong, word):
    with pytest.raises(ValueError, match=word) as error:
        wrong()
    assert "\n" not in str(error.value)
