"Signed distances against brute force over all pairs of pixels, SciPy, shapes known exactly, and the same transform in torch."

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from sdfdiff import distance as module
from sdfdiff import shapes
from sdfdiff.distance import (
    BOUNDARIES,
    _nearest_squared,
    _on_device,
    _steps_in_rows,
    denormalise,
    normalise,
    signed_distance,
    signed_distance_batch,
    threshold,
    to_mask,
)

each_boundary = pytest.mark.parametrize("boundary", BOUNDARIES)
instances = arrays(np.int32, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.integers(0, 3))
masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=11))


def blobs(shape=(40, 50), seed=0, wavelength=14.0):
    "A mask of smooth random blobs: a sum of plane waves above its mean."
    generator = np.random.default_rng(seed)
    row, column = np.indices(shape)
    waves = generator.normal(size=(30, 2)) / wavelength
    return sum(np.cos(2 * np.pi * (a * row + b * column) + generator.uniform(0, 7)) for a, b in waves) > 1


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


def by_scipy(labels, truncation, boundary):
    "Two transforms per object and no window; the edge by shifting the padded map. Written apart from the module."
    labels = np.asarray(labels).astype(np.int64)
    rows, columns = labels.shape
    around = np.pad(labels, 1, mode="edge")
    beside = [around[1 + r : 1 + r + rows, 1 + c : 1 + c + columns] for r, c in ((0, 1), (1, 0), (0, -1), (-1, 0))]
    edge = (labels > 0) & np.any([one != labels for one in beside], axis=0)

    def to(marks):
        return ndimage.distance_transform_edt(~marks) if marks.any() else np.full(marks.shape, np.inf)

    if boundary == "inner":
        answer = np.where(labels > 0, -1, 1) * to(edge)
    else:
        answer = to(labels > 0) - 0.5
        for label in np.unique(labels[labels > 0]):
            answer = np.where(labels == label, 0.5 - to(labels != label), answer)
    return answer.clip(-truncation, truncation)


LIMITS = (0.3, 1, 1.5, 5.5, 10.5, 10.51, 11, 11.5, 12, 64, 126, 127, 180.5, 181, 181.2, 200, 1000.0, math.inf)


def assert_equals_scipy(labels, truncation, boundary):
    expected = by_scipy(labels, truncation, boundary)
    found = signed_distance(labels, None if truncation == math.inf else truncation, boundary)
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=5e-7)
    if labels.size < 10_000:  # small enough that SciPy may have been chosen: not for two
        second = signed_distance_batch(np.stack([labels, labels]), truncation, boundary)[1]
        np.testing.assert_allclose(second, expected, rtol=3e-7, atol=5e-7)


@each_boundary
@pytest.mark.parametrize("truncation", LIMITS)
def test_equals_scipy_for_every_truncation(boundary, truncation):
    "Also where the boundary is far (one pixel, a cut corner), dense (a checkerboard) or nowhere."
    pixel, corner = np.zeros((230, 190), bool), np.ones((150, 260), bool)
    pixel[20, 150], corner[:2, :1] = True, False
    checkerboard, nothing = np.indices((80, 73)).sum(0) % 2 > 0, np.zeros((80, 90), bool)
    for labels in (blobs((70, 81)), pixel, ~pixel, corner, checkerboard, nothing, ~nothing):
        assert_equals_scipy(labels, truncation, boundary)


@each_boundary
@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    kinds=st.integers(1, 4),
    width=st.floats(0.5, 20),
    truncation=st.floats(0.05, 250),
)
def test_equals_scipy_on_random_blobs(boundary, seed, shape, kinds, width, truncation):
    "Larger than what brute force can do, with distances of all sizes, and touching instances."
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), width)
    labels = np.digitize(noise, np.quantile(noise, np.linspace(0.4, 1, kinds + 1))[:-1])
    assert_equals_scipy(labels, truncation, boundary)


@each_boundary
@pytest.mark.parametrize("shape", [(700, 600), (3, 70_000), (70_000, 3), (1, 200_000), (200_000, 1), (2500, 130)])
def test_nothing_happens_where_blocks_meet(boundary, shape):
    "Larger than the blocks that are worked on at once; a few boundaries only, so that the nearest lies in another block."
    noise = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=shape), 15)
    labels = np.digitize(noise, (np.quantile(noise, 0.7), np.quantile(noise, 0.9)))
    for truncation in (7, 40.5, 130):
        assert_equals_scipy(labels, truncation, boundary)


@pytest.mark.parametrize("reach", [1, 2, 11, 12, 181])
def test_small_integers_are_wide_enough(reach):
    "The largest sum that can occur is reach**2 + (reach - 1)**2."
    marks = np.zeros((2 * reach + 3, 3), bool)
    marks[-1, 0] = True
    squared = _nearest_squared(_steps_in_rows(marks, 0, reach), None, reach)
    away = np.subtract.outer(np.arange(len(marks)), [len(marks) - 1]) ** 2 + np.arange(3) ** 2
    np.testing.assert_array_equal(squared, np.where(away < reach**2, away, reach**2))
    assert squared.dtype == (np.uint8 if reach <= 11 else np.uint16)


@each_boundary
def test_an_image_without_pixels_has_no_distances(boundary):
    for shape in ((0, 5), (5, 0), (0, 0)):
        found = signed_distance(np.zeros(shape, bool), 5, boundary)
        assert found.shape == shape and found.dtype == np.float32
    assert signed_distance_batch(np.zeros((0, 4, 5), bool), 5.0, boundary).shape == (0, 4, 5)


@each_boundary
def test_scipy_is_called_only_when_it_must(boundary, monkeypatch):
    calls = []
    slow = module._anywhere
    monkeypatch.setattr(module, "_anywhere", lambda *given: calls.append(1) or slow(*given))
    far = np.zeros((300, 300), bool)
    far[0, 0] = True
    for mask, truncation in ((blobs((90, 90)), None), (blobs((300, 300)), 1000.0), (far, 64), (far, 180)):
        signed_distance(mask, truncation, boundary)
    signed_distance_batch(np.stack([blobs((20, 20))] * 2), 64, boundary)
    assert not calls
    signed_distance(far, 200, boundary)
    signed_distance(blobs((20, 20)), 64, boundary)
    assert len(calls) == 2
    calls.clear()
    both = signed_distance_batch(np.stack([far, blobs((300, 300)), far]), 1000.0, boundary)
    assert len(calls) == 2  # not for the one in between
    np.testing.assert_array_equal(both[1], signed_distance(blobs((300, 300)), None, boundary))


@each_boundary
def test_both_methods_agree_to_the_last_bit(boundary):
    for shape in ((60, 50), (20, 20), (1, 9), (1, 1)):
        labels = blobs(shape, wavelength=30.0) * np.int32(1)
        labels[20:40] *= 2
        near = module._within(labels[None], boundary, math.inf)[0]
        np.testing.assert_array_equal(near, module._anywhere(labels, boundary))
        for truncation in (0.3, 5.5, 64):
            near = module._within(labels[None], boundary, truncation)[0]
            np.testing.assert_array_equal(near, module._anywhere(labels, boundary).clip(-truncation, truncation))


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


# In batches ----------------------------------------------------------------------------------------------------------


def in_batches(labels, truncation, boundary):
    "The three ways: an array, a tensor, and the rounds that an accelerator would run, here on the processor."
    yield signed_distance_batch(labels, truncation, boundary)
    for batch in (
        signed_distance_batch(torch.from_numpy(labels), truncation, boundary),
        _on_device(torch.from_numpy(labels), boundary, truncation),
    ):
        assert batch.dtype == torch.float32
        yield batch.numpy()


@each_boundary
@settings(max_examples=40)
@given(
    labels=arrays(bool, st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 12)))
    | arrays(np.int32, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)),
    truncation=st.floats(0.05, 14),
)
@example(labels=np.eye(12, dtype=bool)[None] & (np.arange(12) == 0), truncation=14.0)  # one corner pixel
@example(labels=~(np.eye(9, dtype=bool) & (np.arange(9) == 4))[None], truncation=5.0)
def test_the_batch_equals_single_masks(boundary, labels, truncation):
    single = np.stack([signed_distance(one, truncation, boundary) for one in labels])
    for batch in in_batches(labels, truncation, boundary):
        assert batch.dtype == np.float32
        np.testing.assert_array_equal(batch, single)


@each_boundary
def test_the_batch_takes_every_kind_of_integer(boundary):
    labels = np.stack([blobs((20, 23), seed) * np.int32(1 + seed) for seed in range(3)])
    single = np.stack([signed_distance(one, 6.0, boundary) for one in labels])
    for kind in (torch.int32, torch.uint8, torch.int64, torch.int16):
        given_as = torch.from_numpy(labels).to(kind)
        np.testing.assert_array_equal(signed_distance_batch(given_as, 6.0, boundary).numpy(), single)
        np.testing.assert_array_equal(_on_device(given_as, boundary, 6.0).numpy(), single)
    across = np.ascontiguousarray(labels.transpose(2, 1, 0)).transpose(2, 1, 0)
    np.testing.assert_array_equal(signed_distance_batch(across, 6.0, boundary), single)
    np.testing.assert_array_equal(signed_distance_batch(torch.from_numpy(across), 6.0, boundary), single)


@each_boundary
def test_the_batch_is_exact_where_boundaries_are_far(boundary):
    masks = np.stack([blobs((40, 50), seed, 40.0) for seed in range(3)] + [blobs((40, 50)) & (np.arange(50) < 4)])
    for truncation in (0.3, 1.0, 7.25, 15.0, 200.0, math.inf):
        single = np.stack([by_scipy(one, truncation, boundary) for one in masks])
        for batch in in_batches(masks, truncation, boundary):
            np.testing.assert_allclose(batch, single, rtol=3e-7, atol=5e-7)


@each_boundary
def test_masks_of_a_batch_do_not_see_each_other(boundary):
    "More masks than a block holds, empty ones between full ones: what lies beside a mask in the block is another image."
    masks = np.stack([blobs((50, 60), seed) if seed % 3 else np.full((50, 60), seed % 2 > 0) for seed in range(100)])
    batch = signed_distance_batch(masks, 40.0, boundary)
    for one, found in zip(masks, batch):
        np.testing.assert_array_equal(found, signed_distance(one, 40.0, boundary))


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
        (lambda: signed_distance_batch(torch.eye(3)[None].bool(), 5.0, "outer"), '"outer"'),
        (lambda: signed_distance_batch(-torch.eye(3)[None].int(), 5.0, "half_pixel"), "-1"),
        (lambda: signed_distance(np.full((3, 3), 2**31, np.uint32)), "2147483648: instance numbers"),
        (lambda: signed_distance_batch(np.zeros((3, 3), bool), 5.0), r"\(batch, row, column\) .* \(3, 3\)"),
        (lambda: signed_distance_batch(np.zeros((1, 3, 3)), 5.0), "float64"),
        (lambda: signed_distance_batch(torch.zeros((1, 3, 3), device="meta").bool(), -1.0), "-1.0"),
        (lambda: signed_distance_batch(torch.eye(3)[None].bool(), 0.0), "0.0"),
        (lambda: signed_distance_batch(torch.eye(3)[None].bool(), -5.0), "-5.0"),
        (lambda: signed_distance_batch(torch.full((1, 3, 3), 0.9), 5.0), "float32"),
        (lambda: signed_distance_batch(torch.eye(3).bool(), 5.0), r"\(3, 3\)"),
        (lambda: threshold("best"), '"best"'),
        (lambda: threshold("half_pixel", "outer"), '"outer"'),
    ],
)
def test_bad_input_is_named_in_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        wrong()
    assert "\n" not in str(caught.value)
