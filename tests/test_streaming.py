"Statistics of members that are not kept: exact in any order, against NumPy, at the integers' limits, when to stop."

import itertools
import math
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdfdiff.ensembles.streaming import ROUND, STEP, Running, certain, most_members, standard_error

SHAPE = (3, 2)
SUMS = ("total", "squares", "inside")
LIMITS = st.sampled_from([0.3, 1.0, 10.0, 64.0])
SEEDS = st.integers(0, 2**32 - 1)


def numbers(members, seed=0, reach=10.0):
    "Distances of which some lie beyond the reach, float32."
    return np.random.default_rng(seed).normal(0, reach, (members, *SHAPE)).astype(np.float32)


def summed(*groups, threshold=0.5, reach=10.0):
    running = Running(groups[0].shape[1:], threshold, reach)
    for group in groups:
        running.add(group)
    return running


def same_bits(one, other):
    assert one.count == other.count
    for name in SUMS:
        assert getattr(one, name).dtype == getattr(other, name).dtype and np.array_equal(
            getattr(one, name), getattr(other, name)
        )
    for name, field in one.fields().items():
        assert np.array_equal(field, other.fields()[name], equal_nan=True), name


# ---- exact


@settings(max_examples=50)
@given(st.integers(1, 12), st.data(), SEEDS, LIMITS)
def test_order_grouping_and_merging_leave_no_trace(members, data, seed, reach):
    distances = numbers(members, seed, reach)
    whole = summed(distances, reach=reach)
    order = data.draw(st.permutations(range(members)), "order")
    cuts = sorted(data.draw(st.lists(st.integers(0, members), max_size=5), "cuts"))
    groups = np.split(distances[order], cuts)
    same_bits(summed(*groups, reach=reach), whole)
    parts = [summed(group, reach=reach) for group in groups]
    for index in data.draw(st.permutations(range(1, len(parts))), "merged in this order"):
        parts[0].merge(parts[index])
    same_bits(parts[0], whole)


@given(st.integers(1, 12), SEEDS, LIMITS, st.floats(-1, 1))
def test_it_is_numpy_up_to_a_step(members, seed, reach, place):
    distances, threshold = numbers(members, seed, reach), float(np.float32(place * reach))
    running = summed(distances, threshold=threshold, reach=reach)
    exact = distances.astype(np.float64).clip(-reach, reach)
    assert running.count == members
    assert np.abs(running.fields()["mean"] - exact.mean(axis=0)).max() <= STEP / 2 + 1e-7 * reach
    assert (running.fields()["probability"] == (distances <= threshold).sum(axis=0) / members).all(), (
        "of the whole distances"
    )
    np.testing.assert_allclose(running.fields()["mask_std"], (distances <= threshold).std(axis=0), atol=1e-12)
    if members == 1:
        assert np.isnan(running.std).all() and np.isnan(standard_error(running)).all()
    else:  # a shift of every number by half a step changes the deviation by at most so much
        off, most = np.abs(running.std - exact.std(axis=0, ddof=1)).max(), STEP / 2 * math.sqrt(members / (members - 1))
        assert off <= most + 1e-6 * reach
        np.testing.assert_allclose(standard_error(running), running.std / math.sqrt(members), rtol=1e-12)


def test_whole_steps_are_exact_to_the_last_bit():
    "Nothing is rounded but the input: on multiples of the step the result is the correctly rounded one."
    steps = np.random.default_rng(0).integers(-40960, 40961, (200, 4, 4))
    running = summed((steps * STEP).astype(np.float32))
    total, squares = steps.astype(object).sum(axis=0), (steps.astype(object) ** 2).sum(axis=0)
    assert (running.total == total).all() and (running.squares == squares).all()
    variance = (200 * squares - total**2) / (200 * 199)
    np.testing.assert_allclose(running.std, np.sqrt(variance.astype(np.float64)) * STEP, rtol=1e-15)


def test_a_far_pixel_that_varies_little():
    "Where sums of floating-point numbers lose everything."
    distances = np.random.default_rng(0).normal(1000, 0.1, (50, 4, 4)).astype(np.float32)
    running = summed(distances, reach=2000.0)
    np.testing.assert_allclose(running.std, distances.astype(np.float64).std(axis=0, ddof=1), atol=STEP)


def test_members_that_agree_have_no_spread_at_all():
    running = summed(np.full((7, *SHAPE), 1 / 3, np.float32))
    assert (running.std == 0).all() and (standard_error(running) == 0).all()


def test_input_stays_as_it_was():
    distances = numbers(3)
    before = distances.copy()
    running = summed(distances)
    other = summed(distances)
    kept = [getattr(other, name).copy() for name in SUMS]
    running.merge(other)
    assert (distances == before).all() and other.count == 3
    assert all(np.array_equal(a, getattr(other, name)) for a, name in zip(kept, SUMS))


def test_a_distance_at_the_threshold_is_object():
    assert summed(np.array([[[0.5, 0.5 + 2**-20, -0.5]]])).fields()["probability"].tolist() == [[1, 0, 1]]


def test_one_member_has_no_spread():
    one = summed(numbers(1)).fields()
    assert np.isnan(one["std"]).all() and (one["mask_std"] == 0).all() and set(np.unique(one["probability"])) <= {0, 1}


# ---- limits


@pytest.mark.parametrize("reach", [0.3, 1.0, 10.0, 64.0, 100.0, 1e5, 0.1001])
def test_most_members_is_the_largest_number_that_fits(reach):
    "Every member at the reach: n Q and S^2 are as large as can be, and one more step of them would not fit."
    steps, most = math.ceil(reach / STEP), most_members(reach)
    assert (most * steps) ** 2 < 2**63 <= ((most + 1) * steps) ** 2


@pytest.mark.parametrize("reach", [1e5, 123456.789])
def test_the_guard_is_exact(reach):
    "Up to the last member everything is right; one more is refused, and changes nothing. Added or merged."
    most = most_members(reach)
    ends = np.where(np.arange(most) % 2, reach, -reach).astype(np.float64)[:, None, None]
    running = summed(ends, reach=reach)
    np.testing.assert_allclose(running.std, ends.std(axis=0, ddof=1), rtol=1e-6)
    same = summed(np.full((most, 1, 1), reach), reach=reach)
    assert running.count == most and (same.std == 0).all()
    kept = [getattr(running, name).copy() for name in SUMS]
    for wrong in (lambda: running.add(ends[:1]), lambda: running.merge(summed(ends[:1], reach=reach))):
        with pytest.raises(ValueError, match=f"{most + 1} members .*too many.* {most}"):
            wrong()
        assert running.count == most and all(np.array_equal(a, getattr(running, n)) for a, n in zip(kept, SUMS))
    empty, part = Running((1, 1), 0.5, reach), summed(ends[:-1], reach=reach)
    empty.merge(running)
    part.add(ends[-1:])
    same_bits(empty, running)
    same_bits(part, running)


@pytest.mark.parametrize(
    "other",
    [Running(SHAPE, 0.5, 9.0), Running(SHAPE, 0.0, 10.0), Running((2, 3), 0.5, 10.0), Running((1, *SHAPE), 0.5, 10.0)],
)
def test_only_sums_of_the_same_kind_are_merged(other):
    running = summed(numbers(2))
    with pytest.raises(ValueError, match="another shape, threshold or reach"):
        running.merge(other)
    assert running.count == 2


@pytest.mark.parametrize("reach", [0.0, -1.0, math.inf, math.nan])
def test_the_reach_is_a_positive_number(reach):
    with pytest.raises(ValueError, match="reach is"):
        Running(SHAPE, 0.0, reach)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_number_is_no_distance(bad):
    "An integer cannot say NaN: it would become a wrong mean in silence."
    distances = numbers(3)
    distances[1, 2, 0] = bad
    running = summed(numbers(1))
    with warnings.catch_warnings(), pytest.raises(ValueError, match="finite"):
        warnings.simplefilter("error")
        running.add(distances)
    same_bits(running, summed(numbers(1)))


def test_memory_does_not_grow_with_members():
    def peak(members):
        generator = np.random.default_rng(0)
        tracemalloc.start()
        running = Running((64, 64), 0.5, 10.0)
        for _ in range(members):
            running.add(generator.normal(0, 3, (1, 64, 64)).astype(np.float32))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1)  # the first run fills caches
    assert peak(500) < 1.05 * peak(4)


# ---- when to stop


def test_certain_asks_every_pixel():
    running = summed(np.array([[[0.0, 0.0]], [[0.0, 4.0]]]))  # standard errors 0 and 2
    assert [certain(running, tolerance) for tolerance in (1.999, 2.0, 2.001)] == [False, True, True]


def test_one_member_is_never_certain():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not certain(Running(SHAPE, 0.5, 10.0), 1e9) and not certain(summed(numbers(1)), 1e9)


@pytest.mark.parametrize("tolerance", [3.0, 1.0, 0.5])
def test_members_until_certain(tolerance):
    "The standard error falls with the root of the number: so many members are needed, give or take chance."
    running = Running((8, 8), 0.5, 100.0)
    generator = np.random.default_rng(1)
    for count in itertools.count(1):
        running.add(generator.normal(0, 4, (1, 8, 8)))
        if count % ROUND == 0 and certain(running, tolerance):
            break
    assert 0.8 * (4 / tolerance) ** 2 <= count <= 2.2 * (4 / tolerance) ** 2 + ROUND
