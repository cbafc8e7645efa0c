"Noise schedules, the forward process in one jump and in steps, and the counting of damage."

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, ndimage, stats

from sdfdiff.diffusion.corruption import (
    VE,
    VP,
    SubVP,
    binary_field,
    corrupt,
    corruption_path,
    displacement,
    flip_probability,
    fragments,
    holes,
)

SCHEDULES = [VE(), VE(0.01, 50.0), VP(), VP(0.01, 12.0), SubVP()]
TIMES = torch.linspace(0, 1, 101, dtype=torch.float64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# Schedules -----------------------------------------------------------------------------------------------------------


def test_ve_is_the_paper_s_formula():
    for t in (0.0, 1e-5, 0.3, 0.5, 1.0):
        assert float(VE().noise_level(t)) == pytest.approx(1e-3 * 5000**t, rel=1e-12)
    assert float(VE().noise_level(0.5)) == pytest.approx(math.sqrt(1e-3 * 5.0), rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_time_inverts_noise_level(schedule):
    levels = schedule.noise_level(TIMES)
    assert (levels.diff() > 0).all()
    assert torch.allclose(schedule.time(levels), TIMES, atol=1e-9)


def test_vp_matches_an_integral_computed_independently():
    schedule = VP()
    for t in (0.05, 0.4, 1.0):
        integral = integrate.quad(lambda s: 0.1 + s * 19.9, 0, t)[0]
        signal, noise = math.exp(-integral / 2), math.sqrt(1 - math.exp(-integral))
        assert float(schedule.noise_level(t)) == pytest.approx(noise / signal, rel=1e-10)
        assert float(schedule.scale(t)) == pytest.approx(signal, rel=1e-12)
        assert float(SubVP().noise_level(t)) == pytest.approx((1 - math.exp(-integral)) / signal, rel=1e-10)


def test_vp_scale_is_one_over_root_one_plus_sigma_squared():
    schedule = VP()
    assert torch.allclose(schedule.scale(TIMES), 1 / (1 + schedule.noise_level(TIMES) ** 2).sqrt(), rtol=1e-12)
    assert (VE().scale(TIMES) == 1).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_schedule_keeps_dtype_and_shape(schedule):
    for dtype in (torch.float32, torch.float64):
        times = torch.full((3, 2), 0.25, dtype=dtype)
        for answer in (schedule.noise_level(times), schedule.scale(times), schedule.time(schedule.noise_level(times))):
            assert answer.dtype == dtype and answer.shape == (3, 2)
    assert schedule.noise_level(0.5).dtype == torch.float64 and schedule.noise_level(1).ndim == 0
    assert schedule.noise_level(np.array([0.1, 0.2])).shape == (2,)


@pytest.mark.parametrize("smaller,larger", [(0, 1), (2, 1), (1, 1), (-1, 1), (1, math.inf), (math.nan, 1)])
def test_ve_refuses_impossible_levels(smaller, larger):
    with pytest.raises(ValueError, match="0 < sigma_min < sigma_max"):
        VE(smaller, larger)


def test_vp_refuses_impossible_rates_and_schedules_are_frozen():
    with pytest.raises(ValueError, match="beta_min"):
        VP(3.0, 2.0)
    with pytest.raises(FrozenInstanceError):
        VE().sigma_min = 2.0
    assert VE() == VE(1e-3, 5.0) and hash(VP()) == hash(VP())


# Forward process -----------------------------------------------------------------------------------------------------


def test_corrupt_adds_gaussian_noise_of_the_level():
    clean = torch.full((4, 1, 100, 100), 0.2)
    noise = corrupt(clean, 3.0, seeded()) - clean
    assert float(noise.std()) == pytest.approx(3.0, rel=0.01)
    assert stats.kstest(noise.ravel().numpy()[::7] / 3.0, "norm").pvalue > 0.01


def test_corrupt_broadcasts_one_level_per_batch_element():
    clean, levels = torch.zeros(3, 1, 64, 64), torch.tensor([0.0, 1.0, 10.0])
    noisy = corrupt(clean, levels, seeded())
    assert (noisy[0] == 0).all()
    assert float(noisy[1].std()) == pytest.approx(1, rel=0.05) and float(noisy[2].std()) == pytest.approx(10, rel=0.05)
    assert torch.equal(noisy, corrupt(clean, levels.reshape(3, 1, 1, 1), seeded()))


def test_corrupt_is_repeatable_and_leaves_the_global_generator_alone():
    clean, before = torch.zeros(2, 1, 8, 8), torch.random.get_rng_state()
    assert torch.equal(corrupt(clean, 1.0, seeded(3)), corrupt(clean, 1.0, seeded(3)))
    assert not torch.equal(corrupt(clean, 1.0, seeded(3)), corrupt(clean, 1.0, seeded(4)))
    assert torch.equal(before, torch.random.get_rng_state())


def test_corrupt_does_not_change_its_input_and_keeps_dtype():
    clean = torch.zeros(2, 1, 8, 8)
    corrupt(clean, torch.tensor(2.0, dtype=torch.float64), seeded())
    assert (clean == 0).all()
    assert corrupt(clean, torch.tensor([1.0, 2.0], dtype=torch.float64), seeded()).dtype == torch.float32
    assert corrupt(clean.double(), 1.0, seeded()).dtype == torch.float64


@pytest.mark.parametrize("level", [torch.ones(3), torch.ones(2, 2), torch.ones(2, 1, 8, 8), torch.ones(0)])
def test_corrupt_refuses_levels_of_another_shape(level):
    with pytest.raises(ValueError, match="one number, or one per batch element"):
        corrupt(torch.zeros(2, 1, 8, 8), level)


def test_corrupt_refuses_masks_and_negative_levels():
    with pytest.raises(ValueError, match="floating-point"):
        corrupt(torch.zeros(1, 1, 4, 4, dtype=torch.bool), 1.0)
    for level in (-1.0, math.nan):
        with pytest.raises(ValueError, match="noise_level is"):
            corrupt(torch.zeros(1, 1, 4, 4), level)


def test_path_and_jump_have_the_same_law():
    clean, levels = torch.full((20000,), 0.2), [0.1, 0.5, 0.9, 2.0]
    for level, state in zip(levels, corruption_path(clean, levels, seeded()), strict=True):
        jump = corrupt(clean, level, seeded(1))
        assert stats.ks_2samp(state.numpy(), jump.numpy()).pvalue > 0.005
        assert float(state.std()) == pytest.approx(level, rel=0.02)


def test_path_s_states_are_correlated_as_brownian_motion():
    states = list(corruption_path(torch.zeros(40000), [1.0, 4.0], seeded()))
    assert np.corrcoef(states[0], states[1])[0, 1] == pytest.approx(1 / 4, abs=0.02)


def test_path_refuses_shrinking_levels():
    with pytest.raises(ValueError, match="must grow"):
        list(corruption_path(torch.zeros(3), [1.0, 0.5]))


def test_vp_s_own_equation_gives_the_law_of_the_scaled_ve_state():
    schedule, steps, generator = VP(), 400, seeded()
    state, dt = torch.full((20000,), 0.7), 1 / steps
    for k in range(steps // 2):  # Euler-Maruyama of dx = -beta x / 2 dt + sqrt(beta) dw up to t = 1/2
        beta = 0.1 + (k + 0.5) * dt * 19.9
        state = state - 0.5 * beta * dt * state + math.sqrt(beta * dt) * torch.randn(20000, generator=generator)
    scale, level = float(schedule.scale(0.5)), float(schedule.noise_level(0.5))
    assert float(state.mean()) == pytest.approx(scale * 0.7, abs=0.03)
    assert float(state.std()) == pytest.approx(scale * level, rel=0.02)


def test_binary_field_has_two_values_and_the_sign_of_a_distance():
    labels = np.array([[0, 1], [7, 0]], np.int32)
    field = binary_field(labels)
    assert field.dtype == torch.float32
    assert torch.equal(field, torch.tensor([[0.2, -0.2], [-0.2, 0.2]]))
    assert torch.equal(binary_field(torch.from_numpy(labels) > 0, 1.0), field * 5)


@settings(max_examples=30, deadline=None)
@given(value=st.floats(-2, 2), level=st.floats(0.05, 3), threshold=st.floats(-0.5, 0.5))
def test_flip_probability_is_the_normal_tail(value, level, threshold):
    field = torch.tensor(value, dtype=torch.float64)
    expected = stats.norm.sf(abs(value - threshold), scale=level)
    assert float(flip_probability(field, level, threshold)) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_flip_probability_matches_frequencies():
    clean = torch.linspace(-0.2, 0.2, 9).expand(20000, 9).contiguous()
    flipped = (corrupt(clean, 0.1, seeded()) <= 0) != (clean <= 0)
    assert torch.allclose(flipped.double().mean(0), flip_probability(clean[0].double(), 0.1), atol=0.012)


# Damage --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_squares():
    labels = np.zeros((20, 40), np.int32)
    labels[5:15, 5:15], labels[5:15, 25:35] = 1, 2
    return labels


def test_an_undamaged_mask_has_no_damage(two_squares):
    mask = two_squares > 0
    for truth in (two_squares, mask, mask.astype(np.int32), two_squares * 17):
        assert fragments(mask, truth) == 0 and holes(mask, truth) == 0
        assert math.isnan(displacement(mask, truth))


def test_specks_shards_and_holes_are_counted_per_object(two_squares):
    mask = two_squares > 0
    mask[0, 0] = mask[1, 1] = True  # two specks: they touch only at a corner
    mask[9, 5:15] = False  # cuts the first square: one shard, and the cut reaches the outside
    mask[8, 30] = mask[12, 27] = False  # two holes in the second square
    assert fragments(mask, two_squares) == 3 / 2
    assert holes(mask, two_squares) == 2 / 2


def test_merging_and_losing_objects_make_no_fragments(two_squares):
    mask = two_squares > 0
    mask[10, 15:25] = True
    assert fragments(mask, two_squares) == 0
    assert fragments(np.zeros_like(mask), two_squares) == 0
    mask[:] = True
    assert fragments(mask, two_squares) == 0 and holes(mask, two_squares) == 0


def test_a_hole_of_the_truth_is_no_hole():
    truth = np.zeros((12, 12), bool)
    truth[2:10, 2:10] = True
    truth[5:7, 5:7] = False
    assert holes(truth, truth) == 0
    mask = truth.copy()
    mask[5, 7] = False  # the true hole grows: still connected to true background
    mask[3, 3] = False
    assert holes(mask, truth) == 1


def test_an_object_that_vanishes_inside_the_image_leaves_no_hole_but_a_missing_one(two_squares):
    assert holes(np.zeros_like(two_squares, bool), two_squares) == 0  # its place joins the background outside


def test_displacement_counts_from_the_pixel_edge():
    truth = np.zeros((30, 30), bool)
    truth[10:20, 10:20] = True
    mask = truth.copy()
    mask[10, 12] = False  # just inside
    assert displacement(mask, truth) == pytest.approx(0.5)
    mask[25, 15] = True  # six rows below the last true row
    assert displacement(mask, truth) == pytest.approx((0.5 + 5.5) / 2)


def test_damage_agrees_with_a_slow_count(two_squares):
    rng = np.random.default_rng(0)
    for share in (0.05, 0.3, 0.5):
        mask = (two_squares > 0) ^ (rng.random(two_squares.shape) < share)
        pieces, found = ndimage.label(mask)
        main = set()
        for k in (1, 2):
            sizes = [((pieces == piece) & (two_squares == k)).sum() for piece in range(1, found + 1)]
            if max(sizes) > 0:
                main.add(int(np.argmax(sizes)))
        assert fragments(mask, two_squares) == (found - len(main)) / 2
        gaps, found = ndimage.label(~mask)
        inside = sum((two_squares[gaps == gap] > 0).all() for gap in range(1, found + 1))
        assert holes(mask, two_squares) == inside / 2


def test_damage_refuses_an_empty_truth_and_another_size(two_squares):
    for count in (fragments, holes):
        with pytest.raises(ValueError, match="no object"):
            count(np.ones((4, 4), bool), np.zeros((4, 4), bool))
    for count in (fragments, holes, displacement):
        with pytest.raises(ValueError, match="same image"):
            count(np.ones((4, 4), bool), two_squares)
