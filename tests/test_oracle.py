"The oracles against dense algebra, autograd, brute force and each other."

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from sdfdiff.diffusion.oracle import FiniteMasks, GaussianField, high_frequency_power, score


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def three_masks(shape=(9, 12)):
    return FiniteMasks(0.2 * noise(3, *shape, seed=5).clamp(-1, 1), torch.tensor([0.5, 0.3, 0.2]))


BOTH = [GaussianField((9, 12), length=1.5, mean=0.1), three_masks()]


def dense_covariance(field):
    "Covariance of every pair of pixels as a sum of cosines, without a Fourier transform."
    rows, columns = field.shape
    row, column = np.mgrid[:rows, :columns].reshape(2, -1)
    frequency_row, frequency_column = np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None]
    spectrum = field.spectrum.numpy()
    covariance = np.empty((row.size, row.size))
    for a in range(row.size):
        for b in range(row.size):
            phase = frequency_row * (row[a] - row[b]) + frequency_column * (column[a] - column[b])
            covariance[a, b] = (spectrum * np.cos(2 * np.pi * phase)).mean()
    return covariance


@pytest.mark.parametrize("shape", [(5, 6), (4, 7), (1, 8)])
@pytest.mark.parametrize("smoothness", [math.inf, 0.7])
def test_denoiser_and_density_are_the_dense_ones(shape, smoothness):
    field = GaussianField(shape, deviation=0.3, length=1.2, mean=-0.4, smoothness=smoothness)
    covariance, noisy = dense_covariance(field), noise(3, 1, *shape)
    np.testing.assert_allclose(np.diag(covariance), 0.09, rtol=1e-12)
    for level in (0.05, 0.5, 5.0):
        total = covariance + level**2 * np.eye(len(covariance))
        flat = noisy.reshape(3, -1).numpy() + 0.4
        dense = -0.4 + np.linalg.solve(total, flat.T).T @ covariance
        np.testing.assert_allclose(field(noisy, level).reshape(3, -1), dense, atol=1e-10)
        expected = -0.5 * ((flat @ np.linalg.inv(total) * flat).sum(1) + np.linalg.slogdet(2 * np.pi * total)[1])
        np.testing.assert_allclose(field.log_density(noisy, level), expected, rtol=1e-9)


@pytest.mark.parametrize("oracle", BOTH, ids=["field", "masks"])
@pytest.mark.parametrize("level", [0.05, 0.4, 5.0])
def test_score_is_the_gradient(oracle, level):
    leaf = (oracle.sample(4, seeded(1)).double() + level * noise(4, 1, 9, 12)).requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.log_density(leaf, level).sum(), leaf)
    torch.testing.assert_close(score(oracle, leaf, level), gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("oracle", BOTH, ids=["field", "masks"])
def test_levels_per_element_dtype_and_device_follow(oracle):
    noisy, levels = noise(3, 1, 9, 12), torch.tensor([0.1, 1.0, 5.0])
    together = oracle(noisy, levels)
    for index, level in enumerate(levels):
        torch.testing.assert_close(together[index : index + 1], oracle(noisy[index : index + 1], level))
    single = oracle(noisy.float(), levels)
    assert single.dtype == torch.float32 and together.dtype == torch.float64
    torch.testing.assert_close(single.double(), together, atol=1e-5, rtol=1e-4)


def test_samples_have_the_promised_moments():
    field = GaussianField(deviation=0.2, length=2.0, mean=0.3)
    fields = field.sample(3000, seeded())
    assert fields.shape == (3000, 1, 32, 32) and fields.dtype == torch.float32
    assert abs(fields.mean() - 0.3) < 0.003 and abs(fields.std() - 0.2) < 0.002
    assert abs(high_frequency_power(fields, field.power()) - 1) < 0.01
    power = torch.fft.fft2(fields.double()).abs().square().mean((0, 1)) / 1024
    worth = field.power() > 1e-6
    assert (power[worth] / field.power()[worth]).sub(1).abs().max() < 0.15
    assert abs(power[0, 0] / field.power()[0, 0] - 1) < 0.02  # the mean's share included


def test_denoiser_is_the_best_predictor():
    "No rescaling of the denoised field comes closer to the clean one, and its error is the posterior variance."
    field, level = GaussianField(), 0.3
    clean = field.sample(500, seeded())
    denoised = field(clean + level * torch.randn(clean.shape, generator=seeded(1)), level)
    error = (denoised - clean).square().mean()
    expected = (field.spectrum * level**2 / (field.spectrum + level**2)).mean()
    assert abs(error / expected - 1) < 0.03
    assert all((factor * denoised - clean).square().mean() > error for factor in (0.97, 1.03))


def test_masks_against_brute_force():
    oracle, noisy = three_masks(), noise(5, 1, 9, 12)
    for level in (0.02, 0.5, 5.0):
        logarithm = np.log([0.5, 0.3, 0.2]) - ((noisy - oracle.distances) ** 2).sum((2, 3)).numpy() / (2 * level**2)
        probability = np.exp(logarithm - logsumexp(logarithm, axis=1, keepdims=True))
        np.testing.assert_allclose(oracle.posterior(noisy, level), probability, atol=1e-7)
        denoised = np.einsum("bm,mrc->brc", probability, oracle.distances.numpy())
        np.testing.assert_allclose(oracle(noisy, level)[:, 0], denoised, atol=1e-7)
        normaliser = 54 * np.log(2 * np.pi * level**2)
        np.testing.assert_allclose(
            oracle.log_density(noisy, level), logsumexp(logarithm, axis=1) - normaliser, rtol=1e-6, atol=1e-4
        )


def test_masks_are_stable_at_both_ends():
    oracle = three_masks((48, 48))
    noisy = (oracle.distances[1:2, None] + 1e-3 * noise(1, 1, 48, 48)).float()
    assert oracle.posterior(noisy, 1e-3)[0].tolist() == [0, 1, 0]
    torch.testing.assert_close(oracle(noisy, 1e-3)[0, 0], oracle.distances[1].float())
    far = oracle(1e4 * noise(64, 1, 48, 48), 1e4)
    torch.testing.assert_close(far.mean((0, 1)), oracle.mean, atol=1e-3, rtol=0)


def test_mean_deviation_and_power_of_masks():
    oracle = three_masks()
    drawn = oracle.sample(20000, seeded()).double()[:, 0]
    torch.testing.assert_close(drawn.mean(0), oracle.mean, atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.std(0), oracle.deviation, atol=0.01, rtol=0)
    noisy = oracle.sample(4000, seeded()).double() + 0.3 * noise(4000, 1, 9, 12)
    assert abs(high_frequency_power(noisy, oracle.power(0.3)) - 1) < 0.02
    others = oracle.sample(4000, seeded(3)) + 0.3 * noise(4000, 1, 9, 12, seed=4)
    assert abs(high_frequency_power(noisy, others) - 1) < 0.03


def test_one_mask_is_known_whatever_the_noise():
    oracle = FiniteMasks(0.1 * noise(1, 4, 4))
    torch.testing.assert_close(oracle(5 * noise(2, 1, 4, 4), 5.0), oracle.distances[None].expand(2, 1, 4, 4))


@given(st.floats(0.1, 10), st.integers(0, 1000))
def test_high_frequency_power_scales_with_the_square(factor, seed):
    fields = noise(2, 1, 8, 8, seed=seed)
    assert high_frequency_power(factor * fields, fields) == pytest.approx(factor**2, rel=1e-6)


def test_high_frequency_power_ignores_what_is_smooth():
    ramp = torch.sin(2 * math.pi * torch.arange(16) / 16).expand(1, 1, 16, 16)
    fields = noise(1, 1, 16, 16)
    assert high_frequency_power(fields + 50 * ramp + 7, fields) == pytest.approx(1)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda: GaussianField(deviation=0), "must be positive"),
        (lambda: GaussianField(shape=(4,)), "row, column"),
        (lambda: FiniteMasks(torch.zeros(3, 4)), "mask, row, column"),
        (lambda: FiniteMasks(torch.full((1, 2, 2), float("nan"))), "finite"),
        (lambda: FiniteMasks(torch.zeros(2, 3, 3), [0.5, 0.0]), "positive number per mask"),
        (lambda: FiniteMasks(torch.zeros(2, 3, 3), [1.0]), "positive number per mask"),
        (lambda: GaussianField((4, 4))(torch.zeros(1, 1, 4, 5), 1.0), "batch, 1, 4, 4"),
        (lambda: GaussianField((4, 4))(torch.zeros(4, 4), 1.0), "batch, 1, 4, 4"),
        (lambda: three_masks()(torch.zeros(1, 1, 9, 12), 0.0), "positive number"),
        (lambda: three_masks()(torch.zeros(2, 1, 9, 12), torch.ones(3)), "one per field"),
        (lambda: three_masks()(torch.zeros(2, 1, 9, 12), float("nan")), "positive number"),
        (lambda: high_frequency_power(torch.zeros(1, 1, 1, 1), torch.ones(1, 1)), "No frequency"),
    ],
)
def test_bad_input_is_named_in_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        wrong()
    assert "\n" not in str(caught.value)
