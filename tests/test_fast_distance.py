"The integer transform against SciPy, single masks and batches, and the same rounds in torch."

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage
from small_masks import blobs, each_boundary

from sdfdiff import distance as lecture
from sdfdiff import fast_distance as module
from sdfdiff.distance import signed_distance
from sdfdiff.fast_distance import signed_distance_batch


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


TRUNCATIONS = (0.3, 1, 1.5, 5.5, 10.5, 10.51, 11, 11.5, 12, 64, 126, 127, 180.5, 181, 181.2, 200, 1000.0, math.inf)


def assert_equals_scipy(labels, truncation, boundary):
    expected = by_scipy(labels, truncation, boundary)
    found = signed_distance(labels, None if truncation == math.inf else truncation, boundary)
    np.testing.assert_allclose(found, expected, rtol=3e-7, atol=5e-7)
    if labels.size < 10_000:  # small enough that SciPy may have been chosen: not for two
        second = signed_distance_batch(np.stack([labels, labels]), truncation, boundary)[1]
        np.testing.assert_allclose(second, expected, rtol=3e-7, atol=5e-7)


@each_boundary
@pytest.mark.parametrize("truncation", TRUNCATIONS)
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
    "Larger than the blocks that are worked on at once; few boundaries, so that the nearest lies in another block."
    noise = ndimage.gaussian_filter(np.random.default_rng(4).normal(size=shape), 15)
    labels = np.digitize(noise, (np.quantile(noise, 0.7), np.quantile(noise, 0.9)))
    for truncation in (7, 40.5, 130):
        assert_equals_scipy(labels, truncation, boundary)


@pytest.mark.parametrize("radius", [1, 2, 11, 12, 181, 182, 300])
def test_small_integers_are_wide_enough(radius):
    "The largest sum that can occur is radius**2 + (radius - 1)**2."
    marks = np.zeros((2 * radius + 3, 3), bool)
    marks[-1, 0] = True
    squared = module._nearest_squared(module._steps_in_rows(marks, 0, radius), None, radius)
    away = np.subtract.outer(np.arange(len(marks)), [len(marks) - 1]) ** 2 + np.arange(3) ** 2
    np.testing.assert_array_equal(squared, np.where(away < radius**2, away, radius**2))
    assert squared.dtype == (np.uint8 if radius <= 11 else np.uint16 if radius <= 181 else np.uint32)


@each_boundary
def test_an_image_without_pixels_has_no_distances(boundary):
    for shape in ((0, 5), (5, 0), (0, 0)):
        found = signed_distance(np.zeros(shape, bool), 5, boundary)
        assert found.shape == shape and found.dtype == np.float32
    assert signed_distance_batch(np.zeros((0, 4, 5), bool), 5.0, boundary).shape == (0, 4, 5)


@each_boundary
def test_scipy_is_called_only_when_it_must(boundary, monkeypatch):
    calls = []
    slow = lecture._by_scipy
    monkeypatch.setattr(lecture, "_by_scipy", lambda *given: calls.append(1) or slow(*given))
    far = np.zeros((300, 300), bool)
    far[0, 0] = True
    for mask, truncation in ((blobs((90, 90)), None), (blobs((300, 300)), 1000.0), (far, 64), (far, 180)):
        signed_distance(mask, truncation, boundary)
    signed_distance_batch(np.stack([blobs((20, 20))] * 2), 64, boundary)
    assert not calls
    signed_distance(far, 200, boundary)
    signed_distance(blobs((20, 20)), 64, boundary)
    assert len(calls) == 2


@each_boundary
def test_a_batch_is_right_however_far_the_boundary(boundary):
    "Beyond 181 px in wider integers; for a batch of which one mask only is that sparse, too."
    far = np.zeros((300, 300), bool)
    far[0, 0] = True
    for truncation in (200.0, 1000.0, math.inf):
        both = signed_distance_batch(np.stack([far, blobs((300, 300)), ~far]), truncation, boundary)
        for found, mask in zip(both, (far, blobs((300, 300)), ~far)):
            np.testing.assert_array_equal(found, signed_distance(mask, truncation, boundary))
    line = np.zeros((1, 1, 70_000), bool)
    line[..., 0] = True
    ramp = np.arange(70_000, dtype=np.float32)
    expected = np.where(line[0, 0], -0.5, ramp - np.float32(0.5)) if boundary == "half_pixel" else ramp
    np.testing.assert_array_equal(signed_distance_batch(line, math.inf, boundary)[0, 0], expected)


@each_boundary
def test_both_methods_agree_to_the_last_bit(boundary):
    for shape in ((60, 50), (20, 20), (1, 9), (1, 1)):
        labels = blobs(shape, wavelength=30.0) * np.int32(1)
        labels[20:40] *= 2
        near = module._within(labels[None], boundary, math.inf)[0]
        np.testing.assert_array_equal(near, lecture._by_scipy(labels, boundary))
        for truncation in (0.3, 5.5, 64):
            near = module._within(labels[None], boundary, truncation)[0]
            np.testing.assert_array_equal(near, lecture._by_scipy(labels, boundary).clip(-truncation, truncation))


# In batches ----------------------------------------------------------------------------------------------------------


def in_batches(labels, truncation, boundary):
    "The three ways: an array, a tensor, and the rounds that an accelerator would run, here on the processor."
    yield signed_distance_batch(labels, truncation, boundary)
    for batch in (
        signed_distance_batch(torch.from_numpy(labels), truncation, boundary),
        module._on_device(torch.from_numpy(labels), boundary, truncation),
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
        np.testing.assert_array_equal(module._on_device(given_as, boundary, 6.0).numpy(), single)
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
    "More masks than a block holds, empty ones between full ones: beside a mask in the block lies another image."
    masks = np.stack([blobs((50, 60), seed) if seed % 3 else np.full((50, 60), seed % 2 > 0) for seed in range(100)])
    batch = signed_distance_batch(masks, 40.0, boundary)
    for one, found in zip(masks, batch):
        np.testing.assert_array_equal(found, signed_distance(one, 40.0, boundary))


# Roots ---------------------------------------------------------------------------------------------------------------


def test_roots_of_tensors_are_the_nearest_32_bit_numbers():
    "Against NumPy's, and against exact arithmetic: the whole number lies between the squares of the two midpoints."
    whole = np.arange(33_001)
    for kind in (torch.int32, torch.int64):
        found = module._root(torch.from_numpy(whole).to(kind))
        assert found.dtype == torch.float32
        np.testing.assert_array_equal(found.numpy(), np.sqrt(whole.astype(np.float32)))
    large = [2**24 - 1, 2**24 + 1, 2**31 - 1, *np.random.default_rng(0).integers(2**20, 2**31, 300).tolist()]
    for n, root in zip(large, module._root(torch.tensor(large)).numpy()):
        below, above = (
            (Fraction(float(root)) + Fraction(float(np.nextafter(root, side, dtype=np.float32)))) / 2
            for side in (np.float32(0), np.float32(np.inf))
        )
        assert below**2 < n < above**2


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda: signed_distance_batch(torch.eye(3)[None].bool(), 5.0, "outer"), '"outer"'),
        (lambda: signed_distance_batch(-torch.eye(3)[None].int(), 5.0, "half_pixel"), "-1"),
        (lambda: signed_distance_batch(np.zeros((3, 3), bool), 5.0), r"\(batch, row, column\) .* \(3, 3\)"),
        (lambda: signed_distance_batch(np.zeros((1, 3, 3)), 5.0), "float64"),
        (lambda: signed_distance_batch(torch.zeros((1, 3, 3), device="meta").bool(), -1.0), "-1.0"),
        (lambda: signed_distance_batch(torch.eye(3)[None].bool(), 0.0), "0.0"),
        (lambda: signed_distance_batch(torch.eye(3)[None].bool(), -5.0), "-5.0"),
        (lambda: signed_distance_batch(torch.full((1, 3, 3), 0.9), 5.0), "float32"),
        (lambda: signed_distance_batch(torch.eye(3).bool(), 5.0), r"\(3, 3\)"),
    ],
)
def test_bad_input_is_named_in_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        wrong()
    assert "\n" not in str(caught.value)
