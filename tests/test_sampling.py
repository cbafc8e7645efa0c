"Samplers against exact solutions, diffusers, arithmetic written anew, and the moments of the oracles."

import math
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdfdiff.diffusion import oracle, sampling
from sdfdiff.diffusion.oracle import FiniteMasks, GaussianField
from sdfdiff.diffusion.sampling import (
    SAMPLERS,
    Counted,
    ancestral,
    calls,
    corrector_step,
    dpm_solver,
    euler_maruyama,
    gaussian,
    geometric_levels,
    heun,
    karras_levels,
    last,
    member_generators,
    predictor_corrector,
)

FIELD = GaussianField((16, 16), length=2.0)
SCORE = partial(oracle.score, FIELD)
CORRECTORS = ("paper", "score_sde", "authors")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def start(members=4, shape=(16, 16), level=5.0, seed=0):
    return level * gaussian((members, 1, *shape), seeded(seed))


def elementwise(noisy, noise_level):
    return 0.15 * torch.clamp(noisy, -1, 1) / (1 + noise_level)


def zero(noisy, noise_level):
    return torch.zeros_like(noisy)


# ---- noise levels and noise


@given(st.floats(1e-4, 0.1), st.floats(0.2, 100), st.integers(1, 300))
def test_levels_fall_from_end_to_end(sigma_min, sigma_max, steps):
    for levels in (geometric_levels(sigma_min, sigma_max, steps), karras_levels(sigma_min, sigma_max, steps)):
        assert levels.shape == (steps + 1,) and levels.dtype == torch.float32
        assert levels[0] == torch.tensor(sigma_max) and levels[-1] == torch.tensor(sigma_min)
        assert (levels.diff() < 0).all()


def test_geometric_levels_are_the_papers():
    t = torch.linspace(1, 0, 51)
    torch.testing.assert_close(geometric_levels(1e-3, 5, 50), 1e-3 * (5 / 1e-3) ** t)


def test_karras_levels_are_diffusers():
    from diffusers import EDMEulerScheduler

    scheduler = EDMEulerScheduler(sigma_min=0.01, sigma_max=5.0, rho=7.0)
    scheduler.set_timesteps(11)
    torch.testing.assert_close(karras_levels(0.01, 5.0, 10), scheduler.sigmas[:11].float(), rtol=1e-5, atol=0)


def test_member_generators_depend_on_seed_and_number_only():
    noise = gaussian((4, 1, 3, 3), member_generators(7, range(4)))
    assert torch.equal(gaussian((2, 1, 3, 3), member_generators(7, [3, 1])), noise[[3, 1]])
    seeds = {g.initial_seed() for seed in range(300) for g in member_generators(seed, range(8))}
    assert len(seeds) == 2400
    assert len({float(gaussian((1, 1, 1, 1), member_generators(s, [0]))) for s in (1, 1 + 2**32, -1)}) == 3


# ---- a member is a member, whatever its batch


@pytest.mark.parametrize("shape", [(5, 7), (16, 16)])
@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "authors"])
def test_member_does_not_depend_on_its_batch(name, shape):
    def run(members):
        generators = member_generators(3, members)
        noisy = 5 * gaussian((len(members), 1, *shape), generators)
        return last(SAMPLERS[name](elementwise, noisy, geometric_levels(1e-3, 5, 12), generators, final=True))

    together = run(range(6))
    assert torch.isfinite(together).all()
    assert torch.equal(run([4]), together[4:5])
    assert torch.equal(run([5, 0, 2]), together[[5, 0, 2]])


def test_authors_variant_depends_on_its_batch():
    "The documented departure: norms over the batch."
    mates = [member_generators(3, [0, 1]), member_generators(3, [0])]
    samples = []
    for generators in mates:
        noisy = 5 * gaussian((len(generators), 1, 16, 16), generators)
        samples.append(last(SAMPLERS["authors"](FIELD, noisy, geometric_levels(1e-3, 5, 12), generators))[0])
    assert not torch.equal(*samples)


@pytest.mark.parametrize("name", SAMPLERS)
def test_same_seed_same_path_and_input_untouched(name):
    noisy, levels = start(), geometric_levels(1e-3, 5, 8)
    kept = noisy.clone()
    paths = [list(SAMPLERS[name](FIELD, noisy, levels, seeded(2))) for _ in range(2)]
    assert len(paths[0]) == 8 and torch.equal(noisy, kept)
    assert all(torch.equal(a, b) for a, b in zip(*paths))
    assert len({state.data_ptr() for state in paths[0]}) == 8  # no state is overwritten later


# ---- calls


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("name", SAMPLERS)
def test_calls_are_counted_exactly(name, final):
    for corrections in (0, 1, 3) if name in CORRECTORS else (1,):
        options = {"corrections": corrections} if name in CORRECTORS else {}
        counted = Counted(elementwise)
        states = list(SAMPLERS[name](counted, start(2), geometric_levels(1e-3, 5, 7), seeded(), final=final, **options))
        assert counted.calls == calls(name, 7, corrections, final)
        assert len(states) == 7 + final


def test_paper_settings_cost_what_the_paper_says():
    assert calls("paper", 500, corrections=2) == 1500 and calls("authors", 200, corrections=1) == 400


@pytest.mark.parametrize("name", SAMPLERS)
def test_final_is_one_more_denoise(name):
    levels = geometric_levels(1e-2, 5, 6)
    plain, ended = (list(SAMPLERS[name](FIELD, start(), levels, seeded(), final=final)) for final in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain, ended))
    torch.testing.assert_close(ended[-1], FIELD(plain[-1], 1e-2))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_single_level_with_final_is_one_call(name):
    noisy = start()
    (sample,) = SAMPLERS[name](FIELD, noisy.clamp(-10, 10), torch.tensor([5.0]), final=True)
    torch.testing.assert_close(sample, FIELD(noisy.clamp(-10, 10), 5.0))


# ---- the ODE


def exact_flow(noisy, high, low):
    gain = ((FIELD.spectrum + low**2) / (FIELD.spectrum + high**2)).sqrt()
    return torch.fft.ifft2(torch.fft.fft2(noisy.double()) * gain).real.float()


@pytest.mark.parametrize("sampler", [heun, dpm_solver])
def test_ode_reaches_the_exact_solution_with_second_order(sampler):
    noisy = start()
    truth = exact_flow(noisy, 5.0, 0.01)
    errors = [(last(sampler(FIELD, noisy, geometric_levels(0.01, 5, k))) - truth).norm() for k in (20, 40, 80)]
    orders = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:])]
    assert errors[-1] / truth.norm() < 2e-3
    assert 1.7 < orders[0] < 2.5 and 1.8 < orders[1] < 2.3


@pytest.mark.parametrize("sampler", [heun, dpm_solver])
def test_ode_ignores_the_generator(sampler):
    levels = karras_levels(1e-2, 5, 6)
    assert torch.equal(last(sampler(FIELD, start(), levels, seeded(1))), last(sampler(FIELD, start(), levels)))


def in_diffusers(scheduler, sigmas, denoise, noisy, **options):
    "Run a VE scheduler of diffusers at the given levels, without its last step, to zero noise."
    scheduler.set_timesteps(len(sigmas))
    scheduler.sigmas = torch.cat([sigmas, torch.zeros(1)])
    scheduler._step_index, scheduler.is_scale_input_called, state = 0, True, noisy
    scheduler.precondition_outputs = lambda sample, output, sigma: output  # our denoiser returns the clean field
    for level in sigmas[:-1]:
        state = scheduler.step(denoise(state, level), level, state, **options).prev_sample
    return state


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")
@pytest.mark.parametrize("oracle", ["field", "masks"])
@pytest.mark.parametrize("spaced", [geometric_levels, karras_levels])
@pytest.mark.parametrize("name", ["heun", "dpm", "dpm_sde", "ancestral"])
def test_agrees_with_diffusers(name, spaced, oracle):
    import diffusers

    denoise = FIELD if oracle == "field" else FiniteMasks(FIELD.sample(3, seeded(8))[:, 0])
    levels, noisy = spaced(0.01, 5, 14), start()
    if name == "heun":
        scheduler, options = diffusers.HeunDiscreteScheduler(prediction_type="sample"), {}
        sigmas = torch.cat([levels[:1], levels[1:].repeat_interleave(2)])
    else:
        sigmas, options = levels, {"generator": seeded(1)}
        kind = "sde-dpmsolver++" if name == "dpm_sde" else "dpmsolver++"
        scheduler = diffusers.EDMDPMSolverMultistepScheduler(algorithm_type=kind, lower_order_final=False)
        if name == "ancestral":
            scheduler = EulerAncestral()
    theirs = in_diffusers(scheduler, sigmas, denoise, noisy, **options)
    torch.testing.assert_close(last(SAMPLERS[name](denoise, noisy, levels, seeded(1))), theirs, atol=1e-4, rtol=0)


def EulerAncestral():
    "diffusers' ancestral scheduler, told that the model returns the clean field."
    from diffusers import EulerAncestralDiscreteScheduler

    class Clean(EulerAncestralDiscreteScheduler):
        def step(self, clean, level, state, generator):
            return super().step((state - clean) / level, level, state, generator=generator)

    return Clean(prediction_type="epsilon")


# ---- the stochastic ones, against their formulas written anew


def algorithm_1(score, noisy, levels, draw, corrections, ratio):
    "The paper's Algorithm 1, line by line, for one member in float64."
    state, sigma = noisy.double(), levels.double()
    for k in range(len(sigma) - 1):
        z = draw()
        change = sigma[k] ** 2 - sigma[k + 1] ** 2
        state = state + change * score(state, sigma[k]) + change.sqrt() * z
        for _ in range(corrections):
            z = draw()
            g = score(state, sigma[k + 1])
            epsilon = 2 * (ratio * z.norm() / g.norm()) ** 2
            state = state + epsilon * g + (2 * epsilon).sqrt() * z
    return state


@pytest.mark.parametrize("corrections, ratio", [(0, 0.1), (1, 0.15), (2, 0.35)])
def test_paper_variant_is_algorithm_1(corrections, ratio):
    noisy, levels, generator = start(1), geometric_levels(1e-2, 5, 30), seeded(4)
    draw = lambda: gaussian((1, 1, 16, 16), generator).double()  # noqa: E731
    expected = algorithm_1(SCORE, noisy, levels, draw, corrections, ratio)
    sample = last(predictor_corrector(FIELD, noisy, levels, seeded(4), corrections=corrections, ratio=ratio))
    torch.testing.assert_close(sample.double(), expected, atol=2e-4, rtol=0)


def test_score_sde_variant_corrects_first_and_ends_at_the_predictor_mean():
    noisy, levels, generator = start(1), geometric_levels(1e-2, 5, 12), seeded(4)
    state = noisy.double()
    for k, (high, low) in enumerate(zip(levels.double(), levels.double()[1:])):
        for _ in range(2):
            z, g = gaussian(noisy.shape, generator).double(), SCORE(state, high)
            epsilon = 2 * (0.2 * z.norm() / g.norm()) ** 2
            state = state + epsilon * g + (2 * epsilon).sqrt() * z
        z = gaussian(noisy.shape, generator).double()
        state = state + (high**2 - low**2) * SCORE(state, high) + (k < 11) * (high**2 - low**2).sqrt() * z
    sample = last(SAMPLERS["score_sde"](FIELD, noisy, levels, seeded(4), corrections=2, ratio=0.2))
    torch.testing.assert_close(sample.double(), state, atol=2e-4, rtol=0)


def test_authors_variant_is_the_released_loop():
    "sigma from t = 1 - 1/N in N values, clipped noise, norms over the batch, the last corrector mean."
    count, noisy, generator = 15, start(3), seeded(4)
    sigma = 0.01 * (5 / 0.01) ** torch.linspace(1 - 1 / count, 0, count, dtype=torch.float64)
    state, before = noisy.double().clamp(-10, 10), sigma[0]
    for level in sigma:
        z, change = gaussian(noisy.shape, generator).clamp(-2, 2).double(), before**2 - level**2
        state = state + change * SCORE(state, before) + change.sqrt() * z
        for _ in range(2):
            z, g = gaussian(noisy.shape, generator).clamp(-2, 2).double(), SCORE(state, level)
            epsilon = 2 * (0.15 * z.norm() / g.norm()) ** 2
            mean = state + epsilon * g
            state = mean + (2 * epsilon).sqrt() * z
        before = level
    levels = geometric_levels(0.01, 5, count)
    sample = last(SAMPLERS["authors"](FIELD, noisy, levels, seeded(4), corrections=2, ratio=0.15))
    torch.testing.assert_close(sample.double(), mean, atol=2e-4, rtol=0)


def test_corrector_step_is_diffusers():
    from diffusers import ScoreSdeVeScheduler

    state, level = start(1, level=0.3), 0.3
    theirs = ScoreSdeVeScheduler(snr=0.15)
    theirs.set_timesteps(10)
    theirs.set_sigmas(10)
    theirs = theirs.step_correct(SCORE(state, level), state, generator=seeded(2)).prev_sample
    ours = sum(corrector_step(FIELD, state, level, gaussian(state.shape, seeded(2)), 0.15))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_euler_maruyama_is_the_papers_sde():
    "One step in the paper's t, with g^2 = 2 sigma^2 ln(sigma_max / sigma_min)."
    noisy, levels = start(2), geometric_levels(1e-3, 5, 10)
    state = next(iter(euler_maruyama(FIELD, noisy, levels, seeded(3))))
    g_squared, dt = 2 * 25 * math.log(5 / 1e-3), 0.1
    noise = gaussian(noisy.shape, seeded(3))
    expected = noisy + g_squared * dt * SCORE(noisy, 5.0) + math.sqrt(g_squared * dt) * noise
    torch.testing.assert_close(state, expected, atol=1e-4, rtol=1e-5)


def test_ancestral_step_is_the_conditional_gaussian():
    "Mean and variance of the lower state given the upper one, from the joint Gaussian, with the clean field known."
    high, low, clean = 2.0, 0.7, 0.1
    upper, levels = torch.full((3, 1, 200, 200), 1.5), torch.tensor([high, low])
    steps = last(ancestral(lambda noisy, level: torch.full_like(noisy, clean), upper, levels, seeded()))
    gain = low**2 / high**2  # covariance(lower, upper) / variance(upper)
    assert abs(steps.mean() - (clean + gain * (1.5 - clean))) < 0.01
    assert abs(steps.var() - (low**2 - gain * low**2)) < 0.005


def test_dpm_sde_starts_as_ancestral():
    "With one step there is nothing to extrapolate from."
    levels = torch.tensor([5.0, 1.0])
    samples = [last(SAMPLERS[name](FIELD, start(), levels, seeded(1))) for name in ("dpm_sde", "ancestral")]
    torch.testing.assert_close(*samples)


# ---- what they sample


def relative_power(sample, level):
    "Mean power over the right one, for the loud third of the modes and for the silent ones."
    power = torch.fft.fft2(sample.double()).abs().square().mean((0, 1)) / sample[0].numel()
    right = FIELD.power(level)
    return [float((power / right)[some].mean()) for some in (FIELD.spectrum > 0.01, FIELD.spectrum < 1e-4)]


@pytest.mark.parametrize(
    "name, steps, options, silent",
    [
        ("paper", 200, {"corrections": 1, "ratio": 0.15}, 1.05),
        ("score_sde", 200, {"corrections": 1, "ratio": 0.15}, None),
        ("euler_maruyama", 300, {}, 1.03),
        ("ancestral", 600, {}, 1.0),
        ("dpm_sde", 60, {}, 1.0),
    ],
)
def test_stochastic_samplers_reach_the_field(name, steps, options, silent):
    "300 members of 16 x 16 pixels: the power of the loud modes is known to 2 %, that of the silent ones to 1 %."
    clean = FIELD.sample(300, seeded(9))
    noisy = clean + start(300)  # the true start, so that only the sampler is judged
    sample = last(SAMPLERS[name](FIELD, noisy, geometric_levels(0.01, 5, steps), seeded(1), **options))
    loud, quiet = relative_power(sample, 0.01)
    assert abs(loud - 1) < 0.06
    assert silent is None or abs(quiet - silent) < 0.03
    assert abs(sample.mean()) < 0.01


@pytest.mark.parametrize("ratio", [0.15, 0.35, 0.5])
def test_corrector_rests_at_one_plus_ratio_squared(ratio):
    "Stationary variance sigma^2 (1 + r^2) for a Gaussian, whatever the start."
    generator, level = seeded(), 0.02
    for scale in (0.7, 1.5):
        state, variances = scale * level * gaussian((16, 1, 32, 32), generator), []
        for index in range(160):
            state = sum(corrector_step(zero, state, level, gaussian(state.shape, generator), ratio))
            variances += [float(state.var() / level**2)] if index >= 80 else []
        assert sum(variances) / 80 == pytest.approx(1 + ratio**2, abs=0.02)


def test_guard_caps_the_step_and_spares_a_good_score():
    state, noise = 0.01 * gaussian((4, 1, 16, 16), seeded()), gaussian((4, 1, 16, 16), seeded(1))
    free, capped = (corrector_step(zero, state, 0.01, noise, 0.35, guarded=guarded) for guarded in (False, True))
    assert torch.equal(free[0], capped[0]) and torch.equal(free[1], capped[1])

    def mute(noisy, noise_level):
        return noisy - 1e-3 * noisy

    exploded, capped = (sum(corrector_step(mute, state, 0.01, noise, 0.35, guarded=cap)) for cap in (False, True))
    assert exploded.std() > 1 and capped.std() < 0.02
    silent = sum(corrector_step(lambda x, s: x, state, 0.01, noise, 0.35))
    assert torch.isfinite(silent).all()


def test_step_size_is_line_9():
    noise, score = gaussian((3, 1, 4, 4), seeded()), gaussian((3, 1, 4, 4), seeded(1))
    sizes = sampling._corrector_step_size(noise, score, 0.2).flatten()
    for z, g, size in zip(noise, score, sizes):
        assert size == pytest.approx(float(2 * (0.2 * z.norm() / g.norm()) ** 2))
    assert sampling._corrector_step_size(noise, score, 0.2, per_member=False) == pytest.approx(
        float(2 * (0.2 * noise.norm() / score.norm()) ** 2)
    )


@pytest.mark.parametrize("name", ["heun", "dpm", "dpm_sde", "ancestral"])
def test_masks_are_drawn_with_their_weights(name):
    "Three well-separated masks: every sample is one of them plus noise of sigma_min, each as often as it should be."
    row, column = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    distances = torch.stack([(row - 6).abs() - 3, (column - 6).abs() - 3, (row - column).abs() - 2])
    masks = FiniteMasks(0.1 * distances, [0.5, 0.3, 0.2])
    noisy = masks.sample(1500, seeded(2)) + start(1500, (12, 12))
    sample = last(SAMPLERS[name](masks, noisy, geometric_levels(0.02, 5, 40), seeded(1)))
    nearest = torch.cdist(sample.flatten(1), masks.distances.flatten(1).float()).argmin(1)
    counts = torch.bincount(nearest, minlength=3)
    chi_square = ((counts - 1500 * masks.weights) ** 2 / (1500 * masks.weights)).sum()
    assert chi_square < 13.8  # one in a thousand for two degrees of freedom
    assert (sample[:, 0] - masks.distances[nearest]).std() == pytest.approx(0.02, rel=0.05)


# ---- half precision, gradients, bad input


@pytest.mark.parametrize("name", SAMPLERS)
def test_state_stays_float32_or_float64_and_without_gradient(name):
    weight = torch.ones((), requires_grad=True)

    def half(noisy, noise_level):
        assert noise_level.ndim == 0 and noise_level.dtype == noisy.dtype == expected
        return (weight * elementwise(noisy, noise_level)).bfloat16()

    for noisy in (start(2), start(2).double(), start(2).bfloat16()):
        expected = torch.float64 if noisy.dtype == torch.float64 else torch.float32  # for exact comparisons
        for state in SAMPLERS[name](half, noisy, geometric_levels(1e-2, 5, 3), seeded()):
            assert state.dtype == expected and not state.requires_grad
            assert torch.is_grad_enabled()  # the consumer's setting is its own
    with torch.inference_mode():
        assert torch.isfinite(last(SAMPLERS[name](elementwise, start(2), geometric_levels(1e-2, 5, 3), seeded()))).all()


GOOD = geometric_levels(1e-2, 5, 4)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(
    "levels, noisy, generator, said",
    [
        (torch.tensor([1.0, 2.0]), start(2), None, "decrease"),
        (torch.tensor([2.0, 2.0, 1.0]), start(2), None, "decrease"),
        (torch.tensor([2.0, 0.0]), start(2), None, "positive"),
        (torch.tensor([2.0, -1.0]), start(2), None, "positive"),
        (torch.tensor([math.inf, 1.0]), start(2), None, "finite"),
        (torch.tensor([math.nan, 1.0]), start(2), None, "positive"),
        (torch.tensor([2.0]), start(2), None, "at least two"),
        (torch.tensor([]), start(2), None, "at least two"),
        (torch.ones(2, 2), start(2), None, "1-d"),
        (GOOD, torch.zeros(4, 4), None, "member, 1, row, column"),
        (GOOD, start(2), [seeded()], "1 generators for 2 members"),
    ],
)
def test_bad_input_is_refused_before_the_first_call(name, levels, noisy, generator, said):
    counted = Counted(elementwise)
    with pytest.raises(ValueError, match=said) as caught:
        SAMPLERS[name](counted, noisy, levels, generator)
    assert counted.calls == 0 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_network_that_blows_up_is_reported_at_once(name, bad):
    def broken(noisy, noise_level):
        return torch.full_like(noisy, bad) if noise_level < 0.5 else zero(noisy, noise_level)

    states = []
    with pytest.raises(ValueError, match=r"not finite after step \d+ of 12 \(noise level 0\.\d+\)"):
        for state in SAMPLERS[name](broken, start(2), geometric_levels(1e-2, 5, 12), seeded()):
            states.append(state)
    assert 0 < len(states) < 12


def test_other_bad_input():
    levels = geometric_levels(1e-2, 5, 4)
    with pytest.raises(ValueError, match="choose paper, score_sde or authors"):
        predictor_corrector(zero, start(), levels, variant="song")
    with pytest.raises(ValueError, match="corrections >= 0"):
        predictor_corrector(zero, start(), levels, corrections=-1)
    with pytest.raises(ValueError, match="ratio > 0"):
        predictor_corrector(zero, start(), levels, ratio=0.0)
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        geometric_levels(5, 1e-3, 10)
    with pytest.raises(ValueError, match="at least one"):
        karras_levels(1e-3, 5, 0)
    with pytest.raises(ValueError, match="rho"):
        karras_levels(1e-3, 5, 4, rho=0)
    with pytest.raises(ValueError, match="Unknown sampler 'unipc'"):
        calls("unipc", 10)
    with pytest.raises(ValueError, match="denoise returned shape"):
        last(heun(lambda noisy, level: noisy[:1], start(), levels))
    with pytest.raises(ValueError, match="2 generators for 3 members"):
        gaussian((3, 1, 2, 2), member_generators(0, range(2)))
