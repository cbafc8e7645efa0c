"What is asked of the members while they are there: by hand, and by other means."

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from small_studies import REACH, drawn_from

from sdfdiff.distance import signed_distance
from sdfdiff.images.synthetic import tissue
from sdfdiff.study import schema
from sdfdiff.study.schema import NUMBERS, RANK_BINS, SCORE_LABELS, estimated_masks, scored

NUMBERS_OF = np.random.default_rng(0)


def f1(one, other):
    total = one.sum() + other.sum()
    return 2 * (one & other).sum() / total if total else 1.0


def iou(one, other):
    either = (one | other).sum()
    return (one & other).sum() / either if either else 1.0


def rated(seed, members=6, raters=3, shape=(40, 48)):
    "Members and raters of a scene, all drawn from the same distribution."
    scene = tissue(seed, shape)
    drawn = np.stack([scene.rate(np.random.default_rng((seed, k))) > 0 for k in range(members + raters)])
    return drawn[:members], drawn[members:]


def test_by_hand():
    "Two members and a truth of four pixels in a row."
    masks = np.array([[[1, 1, 0, 0]], [[1, 0, 0, 0]]], bool)
    truth = np.array([[1, 1, 1, 0]], bool)
    found = scored(drawn_from(masks), truth)
    assert found["iou"].tolist() == pytest.approx(
        [(2 / 3 + 1 / 3) / 2, 2 / 3, 2 / 3, 2 / 3]
    )  # mean: (-.5 - .5)/2, so the tie is object
    assert found["f1"].tolist() == pytest.approx([(4 / 5 + 2 / 4) / 2, 4 / 5, 4 / 5, 4 / 5])
    assert found["expected_loss"] == pytest.approx(1 - 2 / 3) and found["fragments"] == 1
    first, second, true = (
        np.array(line) for line in ([-1.5, -0.5, 0.5, 1.5], [-0.5, 0.5, 1.5, 2.5], [-2.5, -1.5, -0.5, 0.5])
    )
    crps = (abs(first - true) + abs(second - true)) / 2 - abs(first - second) / 2
    assert found["crps"] == pytest.approx(crps.mean())
    np.testing.assert_allclose(
        found["ranks"], 4 * 3 / 11 * np.array([1, 1, 1, 2 / 3, *[0] * 7])
    )  # below both members: the first third of the bins
    assert np.isnan([found[name] for name in ("ged_v", "ged_u", "hungarian_iou")]).all()


def test_four_masks_by_hand():
    "Three members of three pixels: one sample, mean, majority and initial estimate all differ."
    distance = np.array([[[-1.0, 3.0, -1.0]], [[-1.0, -2.0, -1.0]], [[5.0, -2.0, 0.4]]], np.float32)
    fields = {"distance": (("member", "row", "column"), distance), "mean": (("row", "column"), distance.mean(axis=0))}
    drawn = xr.Dataset(fields | {"initial_estimate": (("row", "column"), np.array([[9.0, 9.0, 0.3]], np.float32))})
    masks = [[1, 0, 1]], [[0, 1, 1]], [[1, 1, 1]], [[0, 0, 0]]
    assert estimated_masks(drawn, 0.0).astype(int).tolist() == list(masks)
    assert estimated_masks(drawn, 0.5)[3].tolist() == [[False, False, True]]
    assert estimated_masks(drawn.isel(member=slice(0, 2)), 0.0)[2].all(), "an even vote counts as object"


@pytest.mark.parametrize("seed", range(3))
def test_by_direct_definitions(seed):
    "Loops over members, raters and pixels."
    masks, raters = rated(seed)
    drawn, truth = drawn_from(masks, initial_estimate=signed_distance(raters[1], REACH, "half_pixel")), raters[0]
    found = scored(drawn, truth, raters)
    singles = [drawn["mean"].values <= 0, 2 * masks.sum(0) >= len(masks), raters[1]]
    for name, function in (("f1", f1), ("iou", iou)):
        np.testing.assert_allclose(
            found[name], [np.mean([function(one, truth) for one in masks]), *(function(one, truth) for one in singles)]
        )
    cut = drawn["distance"].values.clip(-drawn.attrs["reach_px"], drawn.attrs["reach_px"])
    others = [np.delete(cut, k, axis=0).mean(axis=0) <= 0 for k in range(len(masks))]
    losses = [1 - f1(one, other) for one, other in zip(masks, others, strict=True)]
    assert found["expected_loss"] == pytest.approx(np.mean(losses))
    assert found["fragments"] == np.mean([ndimage.label(one)[1] for one in masks])
    between = np.mean([1 - iou(one, other) for one in masks for other in raters])
    for name, pairs in (("ged_v", itertools.product), ("ged_u", lambda one, other: itertools.permutations(one, 2))):
        within = [np.mean([1 - iou(one, other) for one, other in pairs(which, which)]) for which in (masks, raters)]
        assert found[name] == pytest.approx(2 * between - sum(within))
    best = max(
        np.mean([iou(masks[k], raters[j // 2]) for k, j in enumerate(order)])
        for order in itertools.permutations(range(6))
    )
    assert found["hungarian_iou"] == pytest.approx(best)
    distance, members = signed_distance(truth, REACH, "half_pixel"), drawn["distance"].values.astype(float)
    differ = ~((members == distance).all(0))
    values, true = members[:, differ], distance[differ]
    fair = abs(values - true).mean(0) - abs(values[:, None] - values).sum((0, 1)) / (2 * 6 * 5)
    assert found["crps"] == pytest.approx(fair.mean())
    assert found["ranks"].sum() == pytest.approx(differ.sum())


def test_names_are_those_of_the_store():
    found = scored(drawn_from(rated(0)[0]), rated(0)[1][0], rated(0)[1])
    assert set(found) == set(NUMBERS)
    for name, (dims, unit, meaning) in NUMBERS.items():
        lengths = {"rank": RANK_BINS} | {name: len(labels) for name, labels in SCORE_LABELS.items()}
        assert np.shape(found[name]) == tuple(lengths[dim] for dim in dims) and unit and meaning


def test_nothing_there_and_nothing_drawn():
    "All empty: full marks, no loss, and no pixel at which a rank would mean something."
    empty = np.zeros((3, 8, 8), bool)
    found = scored(drawn_from(empty), empty[0], empty)
    assert (
        found["f1"].tolist() == found["iou"].tolist() == [1] * 4
        and found["expected_loss"] == 0
        and found["fragments"] == 0
    )
    assert (
        np.isnan(found["crps"])
        and found["ranks"].sum() == 0
        and found["ged_u"] == found["ged_v"] == 0
        and found["hungarian_iou"] == 1
    )


def test_an_object_that_nobody_drew():
    truth = np.zeros((8, 8), bool)
    truth[2:5, 2:5] = True
    found = scored(drawn_from(np.zeros((3, 8, 8), bool)), truth)
    assert found["f1"].tolist() == [0] * 4 and found["expected_loss"] == 0
    assert found["crps"] == pytest.approx(REACH - signed_distance(truth, REACH, "half_pixel").mean())


def test_perfect_members_are_told_from_others():
    "Members drawn as the raters are: the unbiased distance is near 0, ranks are flat; others fail both."
    numbers = [scored(drawn_from(masks), raters[0], raters) for masks, raters in (rated(k, 8, 8) for k in range(30))]
    distances = np.array([one["ged_u"] for one in numbers])
    assert (
        abs(distances.mean()) < 4 * distances.std() / 30**0.5
        and np.mean([one["ged_v"] for one in numbers]) > distances.mean()
    )
    ranks = sum(one["ranks"] for one in numbers)
    bold = sum(
        scored(drawn_from(np.stack([masks[0]] * 7 + [masks[1]])), raters[0])["ranks"]
        for masks, raters in (rated(k, 8, 8) for k in range(30))
    )
    shares = ranks / ranks.sum(), bold / bold.sum()
    assert abs(shares[0] - 1 / RANK_BINS).max() < 0.05 < abs(shares[1] - 1 / RANK_BINS).max()


# ---- ranks


@given(st.integers(1, 200), st.integers(0, 10**6))
def test_bins_keep_their_pixels(members, seed):
    "Nothing is lost, flat stays flat, and a rank lies where it belongs."
    ranks = np.random.default_rng(seed).random(members + 1)
    found = schema._binned(ranks)
    assert found.sum() == pytest.approx(ranks.sum()) and (found >= -1e-12).all()
    np.testing.assert_allclose(schema._binned(np.ones(members + 1)), (members + 1) / RANK_BINS)
    np.testing.assert_allclose(schema._binned(ranks[::-1]), found[::-1], atol=1e-9)


def test_ranks_of_ten_members_are_not_changed():
    ranks = np.arange(11.0)
    np.testing.assert_allclose(schema._binned(ranks), ranks)


# ---- members and raters one to one


@pytest.mark.parametrize(
    ("members", "raters", "used"),
    [(16, 7, 14), (32, 8, 32), (2, 7, 2), (7, 7, 7), (9, 4, 8), (2000, 7, 1022), (1500, 3, 1023)],
)
def test_a_multiple_of_the_raters(monkeypatch, members, raters, used):
    "However many there are, the table of pairs stays small."
    seen = []
    monkeypatch.setattr(
        schema,
        "hungarian_iou",
        lambda one, other: seen.append((one.sizes["member"], other.sizes["rater"])) or xr.DataArray(0.5),
    )
    masks = xr.DataArray(np.zeros((members, 1, 1), bool), dims=("member", "row", "column"))
    assert (
        schema._hungarian(masks, xr.DataArray(np.zeros((raters, 1, 1), bool), dims=("rater", "row", "column"))) == 0.5
    )
    assert seen == [(used, raters)] and np.lcm(used, raters) <= 4096


def test_very_many_members():
    "More than a thousand, seven raters."
    masks = NUMBERS_OF.random((1100, 3, 4)) < 0.5
    found = scored(drawn_from(masks), masks[0], masks[:7])
    assert 0 < found["hungarian_iou"] <= 1
