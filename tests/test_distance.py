"Signed distances against brute force over all pairs of pixels and shapes known exactly; units and thresholds."

import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage
from small_masks import blobs, each_boundary

from sdfdiff import shapes
from sdfdiff.distance import denormalise, normalise, signed_distance, threshold, to_mask
from sdfdiff.fast_distance import BOUNDARIES, edge, signed_distance_batch

instances = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.integers(0, 3))
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=11))


def brute_force(labels, boundary):
    "Every pixel against every pixel, no distance transform; pixels outside the image do not exist."
    labels = np.asarray(labels).astype(int)
    pixels = [(row, column) for row in range(labels.shape[0]) for column in range(labels.shape[1])]

    def touches(row, column):
        beside = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
        return any(p in pixels and labels[p] != labels[row, column] for p in beside)

    def nearest(here, chosen):
        return min((math.dist(here, there) for there in chosen), default=math.inf)

    edge = [p for p in pixels if labels[p] > 0 and touches(*p)]
    answer = np.empty(labels.shape)
    for p in pixels:
        if boundary == "inner":
            answer[p] = nearest(p, edge) * (-1 if labels[p] > 0 else 1)
        elif labels[p] > 0:
            answer[p] = 0.5 - nearest(p, [q for q in pixels if labels[q] != labels[p]])
        else:
            answer[p] = nearest(p, [q for q in pixels if labels[q] > 0]) - 0.5
    return answer


# Against slow and exact answers --------------------------------------------------------------------------------------


@each_boundary
@settings(max_examples=40)
@given(labels=instances)
def test_equals_brute_force(boundary, labels):
    slow = brute_force(labels, boundary)
    twice = signed_distance_batch(np.stack([labels, labels]), math.inf, boundary)  # one alone may be left to SciPy
    for found in (signed_distance(labels, boundary=boundary), *twice):
        np.testing.assert_allclose(found, slow, rtol=1e-6)


@each_boundary
def test_equals_brute_force_on_a_sparse_and_a_dense_mask(boundary):
    "Random masks have boundary everywhere; here the nearest boundary is far away."
    sparse = np.zeros((14, 17), bool)
    sparse[2, 3] = sparse[11:14, 12:17] = True
    for mask in (sparse, ~sparse, sparse * np.int32(7)):
        np.testing.assert_allclose(signed_distance(mask, boundary=boundary), brute_force(mask, boundary), rtol=1e-6)


@pytest.mark.parametrize("normal", [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_half_planes_along_the_grid_are_exact(normal):
    exact = shapes.half_plane((12, 15), (5.5, 7.5), normal)  # the border runs between pixels
    mask = shapes.mask(exact)
    np.testing.assert_array_equal(signed_distance(mask, boundary="half_pixel"), exact)
    np.testing.assert_array_equal(signed_distance(mask), exact + 0.5)


def test_a_box_through_pixel_centres_is_exact_under_the_inner_convention():
    exact = shapes.box((25, 30), (12, 14), (5, 8))
    np.testing.assert_allclose(signed_distance(exact <= 0), exact, atol=1e-6)


@pytest.mark.parametrize(
    "exact",
    [
        shapes.disc((60, 64), (30.3, 31.1), 17.4),
        shapes.ring((64, 60), (31.0, 29.6), 8.2, 21.5),
        shapes.capsule((60, 60), (15.2, 18.9), (41.0, 40.3), 9.1),
        shapes.half_plane((50, 50), (24.2, 25.9), (0.6, 0.8)),
        shapes.complement(shapes.disc((60, 64), (30.3, 31.1), 17.4)),
    ],
    ids=["disc", "ring", "capsule", "plane", "hole"],
)
def test_smooth_shapes_are_right_to_half_a_pixel(exact):
    "The mask knows the border up to half a pixel, and half_pixel no worse; inner lies up to half a pixel above it."
    half_pixel, inner = (signed_distance(shapes.mask(exact), boundary=b) for b in ("half_pixel", "inner"))
    seen = np.s_[15:-15, 15:-15]  # elsewhere the nearest border may lie outside the image
    error, shift = (half_pixel - exact)[seen], (inner - half_pixel)[seen]
    assert np.abs(error).max() < 0.5 and abs(error.mean()) < 0.25
    assert shift.max() < 0.50001 and shift.min() > -0.1 and 0.3 < shift.mean() < 0.5


def test_a_row_and_an_object_that_leaves_the_image():
    row = np.zeros((3, 7), bool)
    row[:, 2:5] = True
    assert signed_distance(row)[1].tolist() == [2, 1, 0, -1, 0, 1, 2]
    assert signed_distance(row, boundary="half_pixel")[1].tolist() == [1.5, 0.5, -0.5, -1.5, -0.5, 0.5, 1.5]
    cut = np.zeros((4, 6), bool)
    cut[:, 3:] = True
    for turned in range(4):  # no boundary at the image border, whichever it is
        assert (np.rot90(signed_distance(np.rot90(cut, turned)), -turned) == [3, 2, 1, 0, -1, -2]).all()


def test_diagonal_neighbours_do_not_make_a_boundary():
    "Connectivity is by sides: a pixel that touches background by a corner only is inside."
    mask = np.ones((5, 5), bool)
    mask[0, 0] = False
    assert signed_distance(mask)[1, 1] == -1 and signed_distance(mask)[0, 1] == 0


def test_edge_is_what_erosion_takes_away():
    "For a mask: the object without its erosion by the four sides, where outside the image counts as object."
    for mask in (blobs(), ~blobs(), np.eye(9, dtype=bool), np.ones((4, 6), bool), np.zeros((3, 3), bool)):
        np.testing.assert_array_equal(edge(mask), mask & ~ndimage.binary_erosion(mask, border_value=1))
    labels = np.array([[1, 1, 2, 2], [1, 1, 2, 2]])
    assert edge(labels).tolist() == [[False, True, True, False]] * 2


# Nothing, everything, one --------------------------------------------------------------------------------------------


@each_boundary
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 1), (6, 7)])
def test_nothing_is_far_and_everything_is_deep(boundary, shape):
    for mask in (np.zeros(shape, bool), np.zeros(shape, np.uint8)):
        assert (signed_distance(mask, boundary=boundary) == math.inf).all()
        assert (signed_distance(mask, 9.5, boundary) == 9.5).all()
    for mask in (np.ones(shape, bool), np.full(shape, 4)):
        assert (signed_distance(mask, boundary=boundary) == -math.inf).all()
        assert (signed_distance(mask, 9.5, boundary) == -9.5).all()
    batch = torch.from_numpy(np.stack([np.zeros(shape, bool), np.ones(shape, bool)]))
    assert (signed_distance_batch(batch, 9.5, boundary) == torch.tensor([9.5, -9.5])[:, None, None]).all()


def test_one_pixel_is_all_boundary():
    for place in ((2, 3), (0, 0), (4, 6)):
        one = np.zeros((5, 7), bool)
        one[place] = True
        away = np.hypot(*(index - start for index, start in zip(np.indices(one.shape), place)))
        np.testing.assert_allclose(signed_distance(one), away, rtol=1e-6)
        np.testing.assert_allclose(signed_distance(one, boundary="half_pixel"), away - 0.5, rtol=1e-6)


# Properties ----------------------------------------------------------------------------------------------------------


@each_boundary
@settings(max_examples=40)
@given(labels=instances, truncation=st.none() | st.floats(0.01, 20))
def test_the_mask_comes_back(boundary, labels, truncation):
    distance = signed_distance(labels, truncation, boundary)
    assert distance.dtype == np.float32 and distance.shape == labels.shape
    assert (to_mask(distance) == (labels > 0)).all()
    for rule in ("zero", "half_pixel"):
        if truncation is None or truncation > 0.6:
            assert (to_mask(distance, threshold(rule, boundary)) == (labels > 0)).all()


@each_boundary
@settings(max_examples=40)
@given(labels=instances, truncation=st.floats(0.01, 20))
def test_truncation_is_a_clip_and_nothing_else(boundary, labels, truncation):
    whole, cut = signed_distance(labels, boundary=boundary), signed_distance(labels, truncation, boundary)
    np.testing.assert_array_equal(cut, whole.clip(-np.float32(truncation), np.float32(truncation)))


@each_boundary
@settings(max_examples=40)
@given(labels=instances)
def test_instances_are_the_union_of_their_objects(boundary, labels):
    "Each object has its own boundary; what is nearest decides."
    alone = [signed_distance(labels == k, boundary=boundary) for k in np.unique(labels[labels > 0])]
    together = signed_distance(labels, boundary=boundary)
    if len(alone):
        np.testing.assert_array_equal(together, shapes.union(*alone))
    np.testing.assert_array_equal(together, signed_distance(labels * 5, boundary=boundary))  # names do not matter


def test_touching_objects_keep_a_line_between_them():
    labels = np.zeros((7, 10), int)
    labels[:, 1:5], labels[:, 5:9] = 3, 9
    assert signed_distance(labels)[3].tolist() == [1, 0, -1, -1, 0, 0, -1, -1, 0, 1]
    halves = signed_distance(labels, boundary="half_pixel")[3].tolist()
    assert halves == [0.5, -0.5, -1.5, -1.5, -0.5, -0.5, -1.5, -1.5, -0.5, 0.5]
    assert signed_distance(labels > 0)[3].tolist() == [1, 0, -1, -2, -3, -3, -2, -1, 0, 1]


@each_boundary
def test_turning_the_mask_turns_the_distance(boundary):
    mask = blobs()
    straight = signed_distance(mask, boundary=boundary)
    for turns in range(4):
        turned = signed_distance(np.rot90(mask, turns), boundary=boundary)
        np.testing.assert_array_equal(turned, np.rot90(straight, turns))
    np.testing.assert_array_equal(signed_distance(mask[:, ::-1], boundary=boundary), straight[:, ::-1])
    np.testing.assert_array_equal(signed_distance(mask.T, boundary=boundary), straight.T)


@settings(max_examples=40)
@given(mask=masks)
def test_half_pixel_treats_inside_and_outside_alike(mask):
    inside, outside = (signed_distance(one, boundary="half_pixel") for one in (mask, ~mask))
    np.testing.assert_array_equal(inside, -outside)


@each_boundary
@settings(max_examples=40)
@given(mask=masks)
def test_a_step_changes_the_distance_by_one_pixel_at_most(boundary, mask):
    distance = signed_distance(mask, 50.0, boundary)
    assert all(np.abs(np.diff(distance, axis=axis)).max(initial=0) < 1 + 1e-5 for axis in (0, 1))


@each_boundary
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int16, np.int64, np.uint32])
def test_kinds_of_numbers_and_strides_do_not_matter_and_the_input_stays(boundary, dtype):
    mask = blobs().astype(dtype)
    before, expected = mask.copy(), signed_distance(blobs(), 8, boundary)
    np.testing.assert_array_equal(signed_distance(mask, 8, boundary), expected)
    np.testing.assert_array_equal(signed_distance(np.asfortranarray(mask), 8, boundary), expected)
    np.testing.assert_array_equal(signed_distance(np.repeat(mask, 2, axis=1)[:, ::2], 8, boundary), expected)
    np.testing.assert_array_equal(mask, before)


def test_instance_numbers_may_have_gaps_and_be_large():
    labels = np.zeros((9, 9), np.int32)
    labels[1:4, 1:4], labels[5:8, 4:9] = 65_000, 12
    small = np.where(labels == 65_000, 1, np.where(labels == 12, 2, 0))
    for boundary in BOUNDARIES:
        large, plain = (signed_distance(one, boundary=boundary) for one in (labels, small))
        np.testing.assert_array_equal(large, plain)


@each_boundary
def test_instance_numbers_up_to_a_hundred_million_cost_nothing(boundary):
    "Memory follows the number of objects, not their names; without background, too."
    for labels in (np.kron([[0, 1], [2, 3]], np.ones((8, 9), int)), np.kron([[1, 2]], np.ones((8, 9), int))):
        named = np.where(labels > 0, 10**8 - labels, 0)
        tracemalloc.start()
        found = signed_distance(named, boundary=boundary)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 2e6
        np.testing.assert_array_equal(found, signed_distance(labels, boundary=boundary))


# Units and thresholds ------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(truncation=st.floats(0.5, 50), data_scale=st.floats(0.01, 5))
def test_model_units_are_bounded_linear_and_go_back(truncation, data_scale):
    pixels = np.linspace(-2 * truncation, 2 * truncation, 41)
    field = normalise(pixels, truncation, data_scale)
    assert np.abs(field).max() == pytest.approx(data_scale)
    back = denormalise(field, truncation, data_scale)
    np.testing.assert_allclose(back, pixels.clip(-truncation, truncation), rtol=1e-9)
    within = np.abs(pixels) <= truncation
    np.testing.assert_allclose(field[within] / data_scale, pixels[within] / truncation, rtol=1e-9)
    kept = normalise(torch.from_numpy(pixels).float(), truncation, data_scale)
    assert kept.dtype == torch.float32 and torch.allclose(kept.double(), torch.from_numpy(field), rtol=1e-5)


def test_the_constant_is_the_truncation_not_the_image_s_maximum():
    assert normalise(np.array([1.0, -2.0]), 10.0, 0.2).tolist() == pytest.approx([0.02, -0.04])


def test_threshold_rules():
    assert threshold("zero") == threshold("zero", "half_pixel") == 0
    assert threshold("paper") == pytest.approx(0.15)  # 3 * 0.001 of 0.2 at 10 px
    assert threshold("paper", truncation=5.0, data_scale=1.0, sigma_min=0.01) == pytest.approx(0.15)
    assert threshold("half_pixel") == 0.5 and threshold("half_pixel", "half_pixel") == 0


def test_half_a_pixel_gives_the_mean_of_masks_its_area_back():
    "The field of many jittered half planes: at threshold 0 the inner convention loses half a pixel, at 0.5 nothing."
    borders = np.arange(10, 20) + 0.5  # between pixels, their mean at 15
    planes = [shapes.mask(shapes.half_plane((5, 31), (0, border), (0, 1))) for border in borders]
    mean = np.mean([signed_distance(plane) for plane in planes], axis=0)
    assert mean[0] == pytest.approx(np.arange(31) - 14.5)  # its zero lies at 14.5, the mean border at 15
    assert to_mask(mean, threshold("half_pixel"))[0].sum() == 16 and to_mask(mean, threshold("zero"))[0].sum() == 15
    assert to_mask(np.array([0.0, 1e-6]), 0.0).tolist() == [True, False]


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda: signed_distance(np.zeros((3, 3, 3), bool)), r"shape \(3, 3, 3\)"),
        (lambda: signed_distance(np.zeros(5, bool), boundary="half_pixel"), r"shape \(5,\)"),
        (lambda: signed_distance(np.zeros((3, 3))), "float64"),
        (lambda: signed_distance(np.full((3, 3), 0.9), boundary="half_pixel"), "float64"),
        (lambda: signed_distance(np.array([[0, -1, 2]])), "-1"),
        (lambda: signed_distance(np.array([[0, -1, 2]]), boundary="half_pixel"), "-1"),
        (lambda: signed_distance(np.eye(3, dtype=bool), boundary="outer"), '"outer"'),
        (lambda: signed_distance(np.eye(3, dtype=bool), 0.0), "0.0"),
        (lambda: signed_distance(np.eye(3, dtype=bool), -2), "-2"),
        (lambda: signed_distance(np.eye(3, dtype=bool), math.nan), "nan"),
        (lambda: signed_distance(np.full((3, 3), 2**31, np.uint32)), "2147483648: instance numbers"),
        (lambda: threshold("best"), '"best"'),
        (lambda: threshold("half_pixel", "outer"), '"outer"'),
    ],
)
def test_bad_input_is_named_in_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        wrong()
    assert "\n" not in str(caught.value)
