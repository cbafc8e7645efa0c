"F1, IoU and boundary distances against independent formulas, and every convention of averaging them."

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial import cKDTree
from scipy.spatial.distance import directed_hausdorff
from skimage.metrics import hausdorff_distance

from sdfdiff.distance import signed_distance
from sdfdiff.uncertainty import metrics
from sdfdiff.uncertainty.fields import named
from sdfdiff.uncertainty.metrics import (
    ZERO_HIT_RULES,
    average,
    boundary,
    boundary_distances,
    counts,
    patch_counts,
    scores,
    scores_from_counts,
)

masks = arrays(bool, (7, 9))
NAMES = {"f1", "iou", "precision", "recall"}


def disc(radius, shape=(41, 41), centre=(20, 20)):
    row, column = np.ogrid[: shape[0], : shape[1]]
    return (row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= radius**2


# Counts and scores ---------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(masks, masks)
def test_scores_agree_with_sets(prediction, truth):
    a, b = set(zip(*np.nonzero(prediction), strict=True)), set(zip(*np.nonzero(truth), strict=True))
    assert tuple(counts(prediction, truth)) == (len(a & b), len(a - b), len(b - a))
    got = scores(prediction, truth)
    assert set(got) == NAMES
    if a & b:
        assert got["f1"] == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
        assert got["iou"] == pytest.approx(len(a & b) / len(a | b))
        assert got["precision"] == pytest.approx(len(a & b) / len(a))
        assert got["recall"] == pytest.approx(len(a & b) / len(b))
    else:
        assert set(got.values()) == {float(not a and not b)}


@settings(max_examples=60, deadline=None)
@given(masks, masks, st.sampled_from(ZERO_HIT_RULES))
def test_identities_and_invariances(prediction, truth, rule):
    one, other = scores(prediction, truth, rule), scores(truth, prediction, rule)
    assert one["f1"] == other["f1"] and one["iou"] == other["iou"]
    assert one["precision"] == other["recall"]
    assert one["f1"] == pytest.approx(2 * one["iou"] / (1 + one["iou"]))
    assert one["iou"] <= one["f1"] <= 1
    for change in (np.flipud, np.fliplr, np.transpose):
        assert scores(change(prediction), change(truth), rule) == one
    big = np.ones((3, 3), bool)
    larger = scores(np.kron(prediction, big), np.kron(truth, big), rule)
    assert all(larger[name] == pytest.approx(one[name]) for name in NAMES)
    padded = scores(np.pad(prediction, 4), np.pad(truth, 4), rule)
    assert padded == one  # background says nothing


@settings(max_examples=30, deadline=None)
@given(masks)
def test_a_perfect_prediction_scores_one(truth):
    for rule in ZERO_HIT_RULES:
        assert set(scores(truth, truth, rule).values()) == {1.0}


def test_degenerate_cases_are_decided():
    empty, full, corner = np.zeros((4, 4), bool), np.ones((4, 4), bool), np.zeros((4, 4), bool)
    corner[0, 0] = True
    expected = {  # (prediction, truth): F1 with "zero", F1 with "one"
        "both empty": (empty, empty, 1, 1),
        "nothing predicted": (empty, corner, 0, 1),
        "nothing there": (corner, empty, 0, 1),
        "missed": (corner, corner[::-1], 0, 1),
        "both full": (full, full, 1, 1),
        "full against one pixel": (full, corner, 2 / 17, 2 / 17),
    }
    for name, (prediction, truth, zero, one) in expected.items():
        for rule, value in (("zero", zero), ("one", one)):
            got = scores(prediction, truth, rule)
            assert got["f1"] == pytest.approx(value), (name, rule)
            assert all(math.isfinite(number) for number in got.values())


def test_the_rule_one_is_medt_s_loop():
    rng = np.random.default_rng(1)
    for share in (0.0, 0.02, 0.5):
        prediction, truth = rng.random((2, 12, 12)) < share
        hit = extra = missed = union = 0
        for row in range(12):
            for column in range(12):
                p, t = prediction[row, column], truth[row, column]
                hit, extra = hit + (p and t), extra + (p and not t)
                missed, union = missed + (t and not p), union + (p or t)
        got = scores(prediction, truth, "one")
        assert got["f1"] == (2 * hit / (2 * hit + extra + missed) if hit else 1)
        assert got["iou"] == (hit / union if hit else 1)


def test_counts_are_vectorised_and_broadcast():
    rng = np.random.default_rng(0)
    members, truth = rng.random((5, 3, 8, 8)) < 0.4, rng.random((3, 8, 8)) < 0.4
    table = counts(members, truth)
    assert table.shape == (5, 3, 3) and table.dtype.kind == "i"
    for member in range(5):
        for case in range(3):
            assert (table[member, case] == counts(members[member, case], truth[case])).all()
            assert scores(members, truth)["iou"][member, case] == scores(members[member, case], truth[case])["iou"]


def test_numbers_that_are_0_and_1_are_masks():
    mask = np.array([[0, 1, 1], [0, 1, 0]])
    for kind in (bool, np.uint8, np.int64, np.float32):
        assert tuple(counts(mask.astype(kind), mask > 0)) == (3, 0, 0)


def test_labelled_masks_give_labelled_scores():
    "The same numbers, with names in place of positions, in whatever order the dimensions come."
    rng = np.random.default_rng(0)
    members, truth = rng.random((5, 3, 8, 9)) < 0.4, rng.random((3, 8, 9)) < 0.4
    plain, found = (
        scores(members, truth),
        scores(named(members, "member", "case").transpose("row", ...), named(truth, "case")),
    )
    assert set(found) == NAMES and found["f1"].dims == ("member", "case") and found["f1"].attrs["units"] == "1"
    for name in NAMES:
        np.testing.assert_array_equal(found[name], plain[name])
    table = counts(named(members, "member", "case"), truth)
    assert table.dtype == np.int64 and table["count"].values.tolist() == [
        "true_positive",
        "false_positive",
        "false_negative",
    ]
    np.testing.assert_array_equal(table, counts(members, truth))
    lazy = scores(named(members, "member", "case").chunk(case=1), named(truth, "case").chunk(case=1), "one")
    assert all(one.chunks for one in lazy.values())
    np.testing.assert_array_equal(lazy["iou"], scores(members, truth, "one")["iou"])
    cut, turned = named(members[0, 0]), named(members[1, 0]).transpose("column", "row")
    assert boundary_distances(cut, turned) == boundary_distances(members[0, 0], members[1, 0])
    np.testing.assert_array_equal(patch_counts(cut, turned, 4), patch_counts(members[0, 0], members[1, 0], 4))
    assert average(counts(named(truth, "case"), truth))["f1"] == 1


def test_large_stacks_do_not_overflow():
    table = counts(np.ones((300, 300), bool), np.ones((300, 300), bool))
    assert tuple(table) == (90000, 0, 0)
    assert scores_from_counts(np.array([2**31, 0, 0]))["f1"] == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: counts(np.zeros((4, 4)), np.zeros((4, 5))), "same image"),
        (lambda: counts(np.zeros(4), np.zeros(4)), "row and a column"),
        (lambda: counts(np.full((4, 4), np.nan), np.zeros((4, 4))), "NaN"),
        (lambda: counts(np.zeros((4, 4)), np.full((4, 4), -1.5)), "signed distance"),
        (lambda: counts(np.zeros((2, 4, 4)), np.zeros((3, 4, 4))), "do not broadcast"),
        (lambda: scores(np.zeros((4, 4)), np.zeros((4, 4)), "half"), "zero, one"),
        (lambda: scores_from_counts([1, 2]), r"\(..., 3\)"),
        (lambda: scores_from_counts([1, -2, 0]), "non-negative"),
        (lambda: scores_from_counts([1, np.nan, 0]), "non-negative"),
        (lambda: average([], "pooled"), "no case"),
        (lambda: average(np.ones((2, 3)), "mean"), "per_image, pooled, per_patch"),
        (lambda: average(np.ones((2, 3)), "per_patch"), "every patch"),
        (lambda: average(np.ones(3), "pooled"), r"\(case, 3\)"),
        (lambda: patch_counts(np.ones((4, 4)), np.ones((4, 4)), 0), "at least one pixel"),
        (lambda: patch_counts(np.ones((4, 4)), np.ones((4, 9)), 4), "same image"),
        (lambda: boundary_distances(np.ones((4, 4)), np.ones((4, 5))), "two masks of one image"),
        (lambda: boundary_distances(np.ones((2, 4, 4)), np.ones((2, 4, 4))), "two masks of one image"),
        (lambda: boundary_distances(np.ones((4, 4)), np.ones((4, 4)), spacing=0), "positive"),
        (lambda: boundary_distances(np.ones((4, 4)), np.ones((4, 4)), spacing=(1, 2, 3)), "one number or"),
    ],
)
def test_bad_input_says_what_would_be_right(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# Averages ------------------------------------------------------------------------------------------------------------


def test_the_three_conventions_by_hand():
    table = np.array([[[8, 2, 0], [0, 0, 0]], [[0, 0, 4], [1, 1, 0]]])  # two images, two patches each
    f1 = {"per_image": (16 / 18 + 2 / 7) / 2, "pooled": 18 / (18 + 7), "per_patch": (16 / 18 + 1 + 0 + 2 / 3) / 4}
    for convention in metrics._CONVENTIONS:
        assert average(table, convention)["f1"] == pytest.approx(f1[convention])
    assert average(table, "per_patch", "one")["f1"] == pytest.approx((16 / 18 + 1 + 1 + 2 / 3) / 4)
    for convention in ("per_image", "pooled"):
        assert average(table, convention) == average(table.sum(axis=1), convention)


def test_images_may_have_different_numbers_of_patches():
    ragged = [np.array([[1, 0, 0]]), np.array([[1, 1, 0], [0, 1, 1], [3, 0, 1]])]
    assert average(ragged, "per_patch")["iou"] == pytest.approx((1 + 0.5 + 0 + 0.75) / 4)
    assert average(ragged, "per_image")["iou"] == pytest.approx((1 + 4 / 8) / 2)
    assert average(ragged, "pooled")["iou"] == pytest.approx(5 / 9)


@settings(max_examples=40, deadline=None)
@given(arrays(np.int64, (4, 3), elements=st.integers(0, 50)), st.sampled_from(ZERO_HIT_RULES))
def test_averages_of_one_image_agree_and_order_does_not_matter(table, rule):
    for convention in ("per_image", "pooled"):
        same = average(np.repeat(table[:1], 3, axis=0), convention, rule)
        assert same == pytest.approx(scores_from_counts(table[0], rule))
        assert average(table[::-1], convention, rule) == pytest.approx(average(table, convention, rule))


@settings(max_examples=40, deadline=None)
@given(arrays(np.int64, (5, 3), elements=st.integers(0, 50)))
def test_pooled_scores_are_means_weighted_by_area(table):
    hit, extra, missed = table.T
    single = scores_from_counts(table)
    for name, weight in (("f1", 2 * hit + extra + missed), ("iou", hit + extra + missed)):
        if hit.sum() > 0:
            assert average(table, "pooled")[name] == pytest.approx(np.average(single[name], weights=weight))


def test_patches_cover_the_image_once():
    mask = np.arange(7 * 10).reshape(7, 10)
    cut = metrics._patches(mask, 4)
    assert [patch.shape for patch in cut] == [(4, 4), (4, 4), (4, 2), (3, 4), (3, 4), (3, 2)]
    assert sorted(np.concatenate([patch.ravel() for patch in cut])) == list(range(70))
    rng = np.random.default_rng(0)
    prediction, truth = rng.random((2, 7, 10)) < 0.5
    assert (patch_counts(prediction, truth, 4).sum(axis=0) == counts(prediction, truth)).all()
    assert patch_counts(np.stack([prediction] * 2), truth, 4).shape == (2, 6, 3)


# Boundary distances --------------------------------------------------------------------------------------------------


def test_boundary_is_the_zero_set_of_the_signed_distance():
    rng = np.random.default_rng(0)
    for mask in (disc(9), rng.random((20, 30)) < 0.6, np.eye(9, dtype=bool), disc(30)):
        assert (boundary(mask) == (signed_distance(mask, boundary="inner") == 0)).all()


def test_boundary_of_a_cut_object_does_not_run_along_the_image_border():
    mask = np.zeros((6, 6), bool)
    mask[:, :3] = True
    expected = np.zeros((6, 6), bool)
    expected[:, 2] = True
    assert (boundary(mask) == expected).all()
    assert not boundary(np.ones((5, 5), bool)).any() and not boundary(np.zeros((5, 5), bool)).any()


def brute(prediction, truth, spacing=(1, 1)):
    a, b = (np.argwhere(boundary(mask)) * spacing for mask in (prediction, truth))
    there, back = cKDTree(b).query(a)[0], cKDTree(a).query(b)[0]
    return {
        "assd": (there.sum() + back.sum()) / (len(there) + len(back)),
        "hausdorff": max(there.max(), back.max()),
        "hausdorff_95": max(np.percentile(there, 95), np.percentile(back, 95)),
    }


@settings(max_examples=50, deadline=None)
@given(masks, masks, st.tuples(st.floats(0.2, 4), st.floats(0.2, 4)))
def test_distances_agree_with_point_sets(prediction, truth, spacing):
    got = boundary_distances(prediction, truth, spacing)
    if boundary(prediction).any() and boundary(truth).any():
        assert got == pytest.approx(brute(prediction, truth, spacing))
        a, b = (np.argwhere(boundary(mask)) * spacing for mask in (prediction, truth))
        assert got["hausdorff"] == pytest.approx(max(directed_hausdorff(a, b)[0], directed_hausdorff(b, a)[0]))
        plain = boundary_distances(prediction, truth)["hausdorff"]
        assert plain == pytest.approx(hausdorff_distance(boundary(prediction), boundary(truth)))
        assert got["assd"] <= got["hausdorff"] and got["hausdorff_95"] <= got["hausdorff"]


@settings(max_examples=40, deadline=None)
@given(masks, masks)
def test_distance_invariances(prediction, truth):
    one = boundary_distances(prediction, truth)
    assert boundary_distances(truth, prediction) == pytest.approx(one)
    for change in (np.flipud, np.fliplr, np.transpose):
        assert boundary_distances(change(prediction), change(truth)) == pytest.approx(one)
    doubled = boundary_distances(prediction, truth, spacing=2)
    assert doubled == pytest.approx({name: 2 * value for name, value in one.items()})
    assert set(boundary_distances(truth, truth).values()) == {0.0}


def test_exact_distances():
    truth = disc(9)
    for shift in (1, 4):
        moved = boundary_distances(np.roll(truth, shift, axis=1), truth)
        assert moved["hausdorff"] == shift and 0 < moved["assd"] < shift
    rows = np.zeros((30, 30), bool)
    rows[10:] = True
    lower = np.zeros((30, 30), bool)
    lower[13:] = True
    assert set(boundary_distances(lower, rows).values()) == {3.0}
    assert set(boundary_distances(lower, rows, spacing=(0.25, 9)).values()) == {0.75}


def test_one_stray_pixel_moves_the_hausdorff_distance_only():
    truth = disc(10)
    stray = truth.copy()
    stray[0, 0] = True
    got = boundary_distances(stray, truth)
    assert got["hausdorff"] > 17 and got["hausdorff_95"] == 0 and got["assd"] < 0.2


def test_degenerate_boundaries_are_decided():
    empty, full, one = np.zeros((9, 9), bool), np.ones((9, 9), bool), disc(2, (9, 9), (4, 4))
    for same in (empty, full):
        assert set(boundary_distances(same, same).values()) == {0.0}
    for prediction, truth in ((empty, one), (one, empty), (full, one), (empty, full)):
        assert set(boundary_distances(prediction, truth).values()) == {np.inf}
        assert set(boundary_distances(prediction, truth, missing=12.5).values()) == {12.5}
