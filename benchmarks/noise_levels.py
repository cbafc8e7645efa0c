"Which noise levels draw the right spread, worked out in two worlds whose answer is exact."

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch

from sdfdiff.diffusion.oracle import GaussianField, high_frequency_power


def _walk(
    denoise: Callable,  # (noisy, noise_level) -> E[clean | noisy]
    noises: Sequence[torch.Tensor],  # Start, then what each step adds, unscaled
    noise_levels: torch.Tensor,  # Decreasing, model units, shape (steps + 1,)
    stochasticity: float,  # 0 (ODE) to 1 (SDE)
    order: int,  # 2: DPM-Solver++(2M); 1: DDIM, or the ancestral sampler at stochasticity 1
    final: bool,  # End with one denoise at the last level
) -> torch.Tensor:
    "DPM-Solver++(2M) from the state noises[0]; step k adds noises[k], scaled."
    levels = torch.as_tensor(noise_levels, dtype=torch.float64).tolist()
    if not levels or levels[-1] <= 0 or any(level <= lower for level, lower in pairwise(levels)):
        raise ValueError("The noise levels must be positive and decrease.")
    if not 0 <= stochasticity <= 1 or order not in (1, 2):
        raise ValueError(f"stochasticity {stochasticity}, order {order}: needed is 0 to 1, and 1 or 2.")
    state, before = noises[0], None
    for k, (level, lower) in enumerate(pairwise(levels), start=1):
        denoised, length = denoise(state, level), math.log(level / lower)
        clean = denoised + length / (2 * before[1]) * (denoised - before[0]) if before and order == 2 else denoised
        before = denoised, length
        fresh = stochasticity * lower * math.sqrt(1 - (lower / level) ** 2)
        state = clean + math.sqrt(lower**2 - fresh**2) / level * (state - clean) + fresh * noises[k]
    return denoise(state, levels[-1]) if final else state


def mode_variance(
    noise_levels: torch.Tensor,  # Decreasing, model units, shape (steps + 1,)
    variance: torch.Tensor,  # Variance of each mode of the clean field, model units squared, any shape
    stochasticity: float = 0.0,  # 0 (ODE) to 1 (SDE)
    order: int = 2,  # 2: DPM-Solver++(2M); 1: DDIM, or the ancestral sampler at stochasticity 1
    final: bool = True,  # End with one denoise at the last level
    true_start: bool = False,  # Start from field plus noise instead of noise around the mean
) -> torch.Tensor:  # Variance of each mode after sampling, float64, same shape
    "What DPM-Solver++ makes of the modes of a Gaussian field, exactly."
    clean = torch.as_tensor(variance, dtype=torch.float64)[..., None]
    unit = torch.eye(len(noise_levels) + 1, dtype=torch.float64).expand(*clean.shape[:-1], -1, -1)
    start = float(noise_levels[0]) * unit[..., 0, :] + true_start * clean.sqrt() * unit[..., -1, :]
    weights = _walk(
        lambda state, level: clean / (clean + level**2) * state,
        [start, *unit.unbind(-2)[1:-1]],
        noise_levels,
        stochasticity,
        order,
        final,
    )
    return weights.square().sum(-1)


def mode_gain(
    noise_levels: torch.Tensor,  # As all that follows: see `mode_variance`
    variance: torch.Tensor,
    stochasticity: float = 0.0,
    order: int = 2,
    final: bool = True,
    true_start: bool = False,
) -> torch.Tensor:  # Float64, shape of `variance`
    "Variance after sampling, relative to what it should be: the clean field's, plus the last noise if that stays in."
    clean = torch.as_tensor(variance, dtype=torch.float64)
    truth = clean if final else clean + float(noise_levels[-1]) ** 2
    return mode_variance(noise_levels, clean, stochasticity, order, final, true_start) / truth


def two_point_share(
    noise_levels: torch.Tensor,  # Decreasing, model units, shape (steps + 1,)
    amplitude: torch.Tensor,  # Half the distance A of the two values, model units, any shape
    rare: float = 0.15,  # Probability of +A
    stochasticity: float = 0.0,  # 0 (ODE) to 1 (SDE)
    order: int = 2,  # 2: DPM-Solver++(2M); 1: DDIM, or the ancestral sampler at stochasticity 1
    final: bool = True,  # End with one denoise at the last level
    points: int = 4096,  # How many samples, a power of 2
) -> tuple[torch.Tensor, torch.Tensor]:  # Share at +A, and std relative to the truth, shape of amplitude
    "How often DPM-Solver++ draws the rarer of two values, +A and -A, starting from noise around their mean."
    if not 0 < rare < 1:
        raise ValueError(f"rare is {rare}: a probability between 0 and 1 is needed.")
    half, odds = torch.as_tensor(amplitude, dtype=torch.float64)[..., None], math.log(rare / (1 - rare)) / 2
    uniform = torch.quasirandom.SobolEngine(len(noise_levels), scramble=True, seed=0).draw(points, dtype=torch.float64)
    start, *noises = torch.special.ndtri(uniform.clamp(1e-12, 1 - 1e-12)).T
    sample = _walk(
        lambda state, level: half * torch.tanh(half * state / level**2 + odds),
        [(2 * rare - 1) * half + float(noise_levels[0]) * start, *noises],
        noise_levels,
        stochasticity,
        order,
        final,
    )
    left = 0.0 if final else float(noise_levels[-1]) ** 2
    truth = (4 * rare * (1 - rare) * half[..., 0] ** 2 + left).sqrt()
    return (sample > 0).double().mean(-1), sample.std(-1) / truth


def worst_error(
    noise_levels: torch.Tensor,  # Decreasing, model units, shape (steps + 1,)
    stochasticity: float = 0.0,  # 0 (ODE) to 1 (SDE)
    order: int = 2,  # 2: DPM-Solver++(2M); 1: DDIM, or the ancestral sampler at stochasticity 1
    final: bool = True,  # End with one denoise at the last level
    points: int = 2048,  # Samples of each rare object
) -> tuple[float, float]:  # Largest |ln(std / right std)| in the Gaussian world, and in the two-point world
    "The worst error of the spread: modes of variance 1e-4 to 10, objects of A^2 3e-4 to 10 in 15 % of the masks."
    gain = mode_gain(noise_levels, torch.logspace(-4, 1, 24), stochasticity, order, final)
    spread = two_point_share(
        noise_levels, torch.logspace(-3.5, 1, 10).sqrt(), 0.15, stochasticity, order, final, points
    )[1]
    return float(gain.log().abs().max()) / 2, float(spread.log().abs().max())


def field_ratios(
    field: GaussianField,  # The world
    noise_levels: torch.Tensor,  # Decreasing, model units, shape (steps + 1,)
    stochasticity: float = 0.0,  # 0 (ODE) to 1 (SDE)
    order: int = 2,  # 2: DPM-Solver++(2M); 1: DDIM, or the ancestral sampler at stochasticity 1
    final: bool = True,  # End with one denoise at the last level
) -> tuple[float, float]:  # Std of a pixel, and high-frequency power, both relative to an exact sampler's
    "Spread and grain of a Gaussian field after sampling, relative to exact states at the same last level."
    after = mode_variance(noise_levels, field.spectrum, stochasticity, order, final)
    exact = exact_power(field, noise_levels[-1], final)
    return float((after.sum() / exact.sum()).sqrt()), high_frequency_power(after, exact)


def exact_power(
    field: GaussianField,  # The world, its mean is left out
    noise_level: float,  # Last noise level, model units
    final: bool = True,  # After an exact denoise at that level
) -> torch.Tensor:  # Power of each mode, float64, shape (row, column)
    "What a perfect sampler leaves of each mode: field plus noise, or the mean of the field given both."
    noisy = field.spectrum + float(noise_level) ** 2
    return field.spectrum**2 / noisy if final else noisy
