"Forecasts of distances and of masks: closed forms, other implementations, exchangeable draws, lazy arrays, bad input."

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from sdfdiff.images.synthetic import tissue
from sdfdiff.uncertainty import forecasts
from sdfdiff.uncertainty.fields import PLANE, named
from sdfdiff.uncertainty.forecasts import (
    crps,
    energy_distance,
    expected_loss,
    hungarian_iou,
    rank_histogram,
    rank_shape,
    spread_skill,
    spread_skill_ratio,
    untied,
)


@pytest.fixture(scope="module")
def gaussian():
    "Truth and members that are exchangeable: 30 cases of a shared mean, independent deviations; and their spread."
    generator = np.random.default_rng(0)
    deviation = generator.uniform(0.5, 3, (30, 1, 20, 20))
    values = generator.normal(0, 5, (30, 1, 20, 20)) + deviation * generator.normal(size=(30, 11, 20, 20))
    return named(values[:, 0], "case"), named(values[:, 1:], "case", "member"), named(deviation[:, 0], "case")


@pytest.fixture(scope="module")
def masks():
    "Raters of synthetic tissue: any of them may be the model."
    drawn = []
    for seed in range(60):
        scene, generator = tissue(seed, (48, 48)), np.random.default_rng(seed)
        drawn.append([scene.rate(generator) > 0 for _ in range(16)])
    return named(drawn, "case", "member")


# ---- spread and error


def test_exchangeable_spread_is_the_error(gaussian):
    truth, members, deviation = gaussian
    for count in (2, 3, 10):
        some = members.isel(member=slice(count))
        sums = spread_skill(some.mean("member"), some.std("member", ddof=1), truth, count)
        table = spread_skill_ratio(sums.sum("case"))
        assert abs(float(table["ratio"]) - 1) < 0.03
        assert abs(float(table["error"]) / float(np.sqrt((deviation**2).mean() * (1 + 1 / count))) - 1) < 0.03
        assert set(sums.dims) == {"case"} and int(sums["pixels"].sum()) == truth.size


def test_spread_skill_by_hand_and_in_bins():
    mean, std = named([[0.0, 2.0], [1.0, 9.0]]), named([[1.0, 0.0], [2.0, 5.0]])
    truth = named([[1.0, 4.0], [1.0, np.nan]])
    where = truth.notnull()
    sums = spread_skill(mean, std, truth, 4, where=where)
    assert {name: float(value) for name, value in sums.items()} == {
        "pixels": 3,
        "variance": 5 * 5 / 4,
        "squared_error": 5,
    }
    binned = spread_skill(mean, std, truth, 4, where=where, edges=[0, 0.5, 2, 3])
    assert binned["pixels"].values.tolist() == [1, 1, 1, 0] and binned["squared_error"].values.tolist() == [4, 1, 0, 0]
    ratio = spread_skill_ratio(binned)["ratio"].values
    assert ratio[0] == 0 and np.isnan(ratio[2:]).all()
    assert float(binned["variance"].sum()) == float(sums["variance"]) and binned["low"].values.tolist() == [
        0,
        0.5,
        2,
        3,
    ]
    assert all(
        one.attrs["units"] and one.attrs["long_name"] for one in [*sums.values(), *spread_skill_ratio(sums).values()]
    )


def test_spread_skill_refuses(gaussian):
    truth, members, _ = gaussian
    mean, std = members.mean("member"), members.std("member")
    with pytest.raises(ValueError, match="1 member has no spread"):
        spread_skill(mean, std, truth, 1)
    with pytest.raises(ValueError, match="`std` is NaN or infinite at 1 of 12000 values"):
        spread_skill(mean, std.where((std.row > 0) | (std.column > 0) | (std.case > 0)), truth, 10)
    with pytest.raises(ValueError, match="differ in size"):
        spread_skill(mean, std, truth.isel(row=slice(5)), 10)
    with pytest.raises(ValueError, match="rising"):
        spread_skill(mean, std, truth, 10, edges=[1, 2])
    with pytest.raises(ValueError, match="`where` holds negative values"):
        spread_skill(mean, std, truth, 10, where=truth)


# ---- ranks


def test_exchangeable_ranks_are_flat(gaussian):
    truth, members, deviation = gaussian
    counts = rank_histogram(members, truth)
    assert counts.dims == ("case", "rank") and np.allclose(counts.sum("rank"), 400)
    total = counts.sum("case").values
    assert abs(((total - total.mean()) ** 2 / total.mean()).sum() - 10) < 20  # chi-squared with 10 degrees of freedom
    shape = rank_shape(counts.sum("case"))
    assert (
        float(shape["unevenness"]) < 0.02
        and abs(float(shape["bias"])) < 0.03
        and abs(float(shape["dispersion"]) - 1) < 0.03
    )
    assert float(rank_shape(rank_histogram(members + deviation, truth).sum("case"))["bias"]) < -0.3
    mean = members.mean("member")
    assert float(rank_shape(rank_histogram(mean + 0.5 * (members - mean), truth).sum("case"))["dispersion"]) > 1.4


def test_ties_are_spread_evenly():
    members, truth = named([[[1.0, 0.0]], [[2.0, 0.0]], [[2.0, 0.0]]], "member"), named([[2.0, 0.0]])
    assert np.allclose(rank_histogram(members, truth, "column")[0], [1 / 4, 7 / 12, 7 / 12, 7 / 12])
    assert untied(members, truth).values.tolist() == [[True, False]]
    assert np.allclose(rank_histogram(members, truth, where=untied(members, truth)), [0, 1 / 3, 1 / 3, 1 / 3])


@given(arrays(np.int8, (5, 12), elements=st.integers(0, 3)))
def test_even_ties_are_the_mean_of_random_ones(values):
    "Against breaking ties at random, and: each row may be the truth, so the sum over all choices is flat."
    found = sum(
        rank_histogram(named(np.delete(values, k, 0)[:, None] * 1.0, "member"), named(values[None, k] * 1.0)).values
        for k in range(5)
    )
    assert np.allclose(found, 12)


def test_rank_shape_of_known_histograms():
    counts = [[1, 1, 1, 1, 1], [5, 0, 0, 0, 0], [1, 0, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]
    histograms = xr.DataArray(counts, {"rank": np.arange(5)}, ("kind", "rank"))
    shape = rank_shape(histograms)
    assert np.allclose(shape["unevenness"], [0, 0.8, 0.6, 0.8, np.nan], equal_nan=True)
    assert np.allclose(shape["bias"], [0, -1, 0, 0, np.nan], equal_nan=True)
    assert np.allclose(shape["dispersion"], [1, 0, 2, 0, np.nan], equal_nan=True)


def test_untied_lets_nan_be_noticed():
    members, truth = named([[[np.nan, 1.0]], [[1.0, 1.0]]], "member"), named([[1.0, 1.0]])
    with pytest.raises(ValueError, match="`members` is NaN"):
        rank_histogram(members, truth, where=untied(members, truth))


# ---- CRPS


@given(arrays(np.float64, (4, 6), elements=st.floats(-50, 50)), arrays(np.float64, 4, elements=st.floats(-50, 50)))
def test_crps_is_its_definition(members, truth):
    error = np.abs(members - truth[:, None]).mean(1)
    pairs = np.abs(members[:, :, None] - members[:, None]).sum((1, 2)) / 2
    assert np.allclose(forecasts._crps(members, truth, fair=False), error - pairs / 36)
    assert np.allclose(forecasts._crps(members, truth), error - pairs / 30)


def test_crps_against_xskillscore(gaussian):
    xskillscore = pytest.importorskip("xskillscore")
    truth, members, _ = gaussian
    theirs = xskillscore.crps_ensemble(truth, members, dim=list(PLANE))
    assert np.allclose(crps(members, truth, fair=False), theirs)


def test_crps_of_gaussians(gaussian):
    truth, members, deviation = gaussian
    for count in (2, 10):  # E CRPS = sigma / sqrt(pi), fair for any number of members
        found = crps(members.isel(member=slice(count)), truth).mean()
        assert abs(float(found) / float(deviation.mean() / np.sqrt(np.pi)) - 1) < 0.03
    z = np.linspace(-3, 3, 7)
    dense = norm.ppf((np.arange(4000) + 0.5) / 4000)
    exact = z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
    assert np.allclose(forecasts._crps(np.tile(dense, (7, 1)), z, fair=False), exact, atol=1e-3)


def test_crps_map_mean_where_and_units(gaussian):
    truth, members, _ = gaussian
    each = crps(members, truth, dim=())
    assert each.dims == ("case", *PLANE)
    assert np.allclose(each.mean(PLANE), crps(members, truth)) and np.isclose(
        each.mean(), crps(members, truth, ("case", *PLANE))
    )
    where = truth > 0
    assert np.allclose(crps(members, truth, where=where), each.where(where).mean(PLANE))
    assert np.isnan(crps(members, truth, where=where & (where.case > 0))[0])
    assert crps(members, truth).attrs["units"] == "px"
    shifted = crps(members.astype("f4") + 10000, truth.astype("f4") + 10000)  # differences first: no cancellation
    assert np.allclose(shifted, crps(members, truth), atol=2e-3)


def test_crps_of_one_member(gaussian):
    truth, members, _ = gaussian
    single = members.isel(member=[0])
    with pytest.raises(ValueError, match="fair CRPS of 1 member"):
        crps(single, truth)
    assert np.allclose(crps(single, truth, fair=False), abs(single[:, 0] - truth).mean(PLANE))


# ---- several raters


def test_iou_matrix():
    a, b, none = (np.array(row, bool) for row in ([1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0]))
    assert np.allclose(forecasts._iou_matrix(np.array([a, none]), np.array([a, b, none])), [[1, 0.5, 0], [0, 0, 1]])


def test_energy_distance_of_a_perfect_model(masks):
    "V: mean distance times (1/m + 1/n); U: 0 (method page, section 6)."
    raters = masks.isel(member=slice(4)).rename(member="rater")
    flat = masks.values.reshape(60, 16, -1)
    off = ~np.eye(16, dtype=bool)
    apart = np.mean([(1 - forecasts._iou_matrix(one, one))[off].mean() for one in flat])
    for m in (2, 4, 12):
        model = masks.isel(member=slice(4, 4 + m))
        v, u = (energy_distance(model, raters, estimator=name) for name in "vu")
        assert abs(float(v.mean()) - apart * (1 / m + 1 / 4)) < 0.02 and (v >= -1e-12).all()
        assert abs(float(u.mean())) < 0.02 and u.attrs["long_name"] == "squared energy distance, U-statistic"


def test_energy_distance_exactly():
    "Two outcomes, a with probability p and b: all draws of 2 members and 2 raters, weighted: U is unbiased."
    a, b = np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool)
    d, p, q, mean = 1 - 1 / 3, 0.3, 0.8, 0.0
    for draw in np.ndindex(2, 2, 2, 2):
        weight = math.prod((p if one else 1 - p) for one in draw[:2]) * math.prod(
            (q if one else 1 - q) for one in draw[2:]
        )
        picked = [a if one else b for one in draw]
        mean += weight * float(energy_distance(named(picked[:2], "member"), named(picked[2:], "rater")))
    assert np.isclose(mean, 2 * d * (p - q) ** 2)


def test_hungarian(masks):
    raters = masks.isel(member=slice(4)).rename(member="rater")
    assert np.allclose(hungarian_iou(masks.isel(member=[3, 1, 0, 2]), raters), 1)
    twice = hungarian_iou(masks.isel(member=[0, 1, 2, 3, 0, 1, 2, 3]), raters)
    assert np.allclose(twice, 1)
    a, b = np.array([[1, 1, 0]], bool), np.array([[0, 1, 1]], bool)
    unequal = hungarian_iou(named([a, b], "member"), named([a, a, b], "rater"))  # a a a b b b against a a a a b b
    assert np.isclose(unequal, (5 + 1 / 3) / 6)
    with pytest.raises(ValueError, match="common multiple"):
        hungarian_iou(named(np.zeros((97, 1, 1), bool), "member"), named(np.zeros((89, 1, 1), bool), "rater"))


def test_expected_loss_by_hand_and_where():
    "Members of one and two pixels of the mask; a pixel that does not count; nothing drawn at all."
    mask = np.array([[1, 1, 0, 0]], bool)
    members = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 1]], [[0, 0, 0, 0]]], bool)
    found = expected_loss(members, mask)
    assert found.item() == pytest.approx(1 - (1 + 2 / 4 + 0) / 3) and found.attrs["units"] == "1"
    inside = np.array([[1, 1, 1, 0]], bool)
    assert expected_loss(members, mask, where=inside).item() == pytest.approx(1 - (1 + 2 / 3 + 0) / 3)
    assert expected_loss(np.zeros((2, 3, 3), bool), np.zeros((3, 3), bool)).item() == 0
    with pytest.raises(ValueError, match="members"):
        expected_loss(members - 0.5, mask)


def test_expected_loss_is_the_loss_of_one_more_member():
    "Of exchangeable masks, on average over which of them is the truth; the mask is fixed in advance."
    drawn = np.stack([tissue(3, (40, 40)).rate(np.random.default_rng(k)) > 0 for k in range(9)])
    mask = drawn[0]
    losses = [1 - 2 * (mask & one).sum() / (mask.sum() + one.sum()) for one in drawn[1:]]
    assert expected_loss(drawn[1:], mask).item() == pytest.approx(np.mean(losses))
    cases = expected_loss(named(np.stack([drawn[1:5], drawn[5:]]), "case", "member"), named(mask))
    assert cases.dims == ("case",) and cases.mean().item() == pytest.approx(np.mean(losses))


def test_masks_are_asked_for(gaussian, masks):
    _, members, _ = gaussian
    with pytest.raises(ValueError, match="`members` holds negative values, like a signed distance"):
        energy_distance(members, members.rename(member="rater"))
    with pytest.raises(ValueError, match="2 members and 2 raters"):
        energy_distance(masks, masks.isel(member=[0]).rename(member="rater"))
    with pytest.raises(ValueError, match="unknown"):
        energy_distance(masks, masks.rename(member="rater"), estimator="w")


def test_where_cuts_masks(masks):
    where = masks.isel(member=0) | (masks.row < 20)
    raters = masks.isel(member=slice(4)).rename(member="rater")
    cut = energy_distance(masks & where, raters & where)
    assert np.allclose(energy_distance(masks, raters, where=where), cut)
    assert np.isnan(energy_distance(masks, raters, where=where & False)).sum() == 0  # empty masks agree


# ---- studies: methods, cases, lazy arrays


def test_lazy_and_several_methods_give_the_same(gaussian, masks):
    truth, members, _ = gaussian
    methods = xr.concat([members, 0.5 * members], "method").transpose("case", "method", "member", *PLANE)
    inside = truth.row < 15
    padded, methods = truth.where(inside), methods.where(inside)
    mean, std = methods.mean("member"), methods.std("member", ddof=1)
    raters, both = masks.isel(member=slice(4)).rename(member="rater"), xr.concat([masks, ~masks], "method")

    def everything(wrap):
        m, t, i = wrap(methods), wrap(padded), wrap(inside.broadcast_like(truth))
        yield from spread_skill(wrap(mean), wrap(std), t, 10, where=i, edges=[0, 1, 2]).values()
        yield from (rank_histogram(m, t, where=i), crps(m, t, where=i), crps(m, t, (), where=i))
        yield from (energy_distance(wrap(both), wrap(raters)), hungarian_iou(wrap(both), wrap(raters)))

    assert set(spread_skill(mean, std, padded, 10, where=inside.broadcast_like(truth))["pixels"].dims) == {
        "case",
        "method",
    }
    lazy = list(everything(lambda one: one.chunk({"case": 1} | ({"method": 1} if "method" in one.dims else {}))))
    assert all(one.chunks for one in lazy)
    for one, direct in zip(lazy, everything(lambda one: one)):
        xr.testing.assert_allclose(one.compute(), direct)
        assert {"case", "method"} <= set(one.dims)
    one_by_one = [
        crps(methods.isel(method=k, case=3), padded[3], where=inside.broadcast_like(truth[3])) for k in range(2)
    ]
    assert np.allclose(one_by_one, crps(methods, padded, where=inside.broadcast_like(truth))[3])


def test_nan_is_found_in_lazy_fields_too(gaussian):
    truth, members, _ = gaussian
    lazy = crps(members.chunk(case=1), truth.where(truth.row > 0).chunk(case=1))
    with pytest.raises(ValueError, match="`truth` is NaN"):
        lazy.compute()


def test_dimensions_must_be_there(gaussian):
    truth, members, _ = gaussian
    for score in (rank_histogram, crps):
        with pytest.raises(
            ValueError, match="`members` needs the dimensions row, height, and it has case, member, row"
        ):
            score(members, truth, dim=("row", "height"))
    with pytest.raises(ValueError, match="`members` needs the dimension member, and it has"):
        crps(truth, truth)
