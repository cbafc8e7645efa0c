"Exact shapes against brute force, random parameters, and the properties that every distance has."

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdfdiff import shapes

SIZE = (40, 44)
place = st.tuples(st.floats(5, 35), st.floats(5, 39))
length = st.floats(1.5, 12)
few = settings(max_examples=15, deadline=None)


def on_polygon(corners, spacing=0.05):
    corners = np.asarray(corners, float)
    points = []
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        part = np.linspace(0, 1, int(np.hypot(*(end - start)) / spacing) + 2)[:, None]
        points.append(start * (1 - part) + end * part)
    return np.concatenate(points)


def on_circle(centre, radius, spacing=0.05):
    angle = np.linspace(0, 2 * np.pi, int(2 * np.pi * radius / spacing) + 2)
    return np.stack([centre[0] + radius * np.cos(angle), centre[1] + radius * np.sin(angle)], 1)


def agrees(distance, points, tolerance=0.03):
    assert distance.dtype == np.float32 and distance.shape == SIZE
    return np.abs(np.abs(distance) - shapes.distance_to_points(SIZE, points)).max() < tolerance


def lipschitz(distance):
    assert np.abs(np.diff(distance, axis=0)).max() <= 1 + 1e-4
    assert np.abs(np.diff(distance, axis=1)).max() <= 1 + 1e-4
    assert np.abs(distance[1:, 1:] - distance[:-1, :-1]).max() <= np.sqrt(2) + 1e-4


@few
@given(place, length)
def test_disc(centre, radius):
    distance = shapes.disc(SIZE, centre, radius)
    row, column = shapes._grid(SIZE)
    assert agrees(distance, on_circle(centre, radius))
    inside = (row - centre[0]) ** 2 + (column - centre[1]) ** 2 < radius**2
    clear = np.abs(distance) > 1e-4
    assert (shapes.mask(distance) == inside)[clear].all()
    lipschitz(distance)


@few
@given(place, length, length, st.floats(-4, 4))
def test_box(centre, half_height, half_width, turn):
    distance = shapes.box(SIZE, centre, (half_height, half_width), turn)
    down, across = np.array([np.cos(turn), np.sin(turn)]), np.array([-np.sin(turn), np.cos(turn)])
    signs = np.array([(1, 1), (1, -1), (-1, -1), (-1, 1)])
    corners = [np.array(centre) + a * half_height * down + b * half_width * across for a, b in signs]
    assert agrees(distance, on_polygon(corners))
    assert np.allclose(distance, shapes.polygon(SIZE, corners), atol=1e-4)  # two independent formulas, sign included
    lipschitz(distance)


@few
@given(place, length, st.floats(0.5, 6))
def test_ring(centre, inner, thickness):
    distance = shapes.ring(SIZE, centre, inner, inner + thickness)
    assert agrees(distance, np.concatenate([on_circle(centre, inner), on_circle(centre, inner + thickness)]))
    hole = shapes.disc(SIZE, centre, inner)
    exact = shapes.intersection(shapes.disc(SIZE, centre, inner + thickness), shapes.complement(hole))
    assert np.allclose(distance, exact, atol=1e-4)
    lipschitz(distance)


@few
@given(place, place, length)
def test_capsule(start, end, radius):
    distance = shapes.capsule(SIZE, start, end, radius)
    part = np.linspace(0, 1, 3000)[:, None]
    axis = np.array(start) * (1 - part) + np.array(end) * part
    brute = shapes.distance_to_points(SIZE, axis) - radius  # a capsule is a thick segment
    assert np.abs(distance - brute).max() < 0.03
    lipschitz(distance)


def test_capsule_without_length_is_a_disc():
    assert np.allclose(shapes.capsule(SIZE, (20, 21), (20, 21), 6), shapes.disc(SIZE, (20, 21), 6), atol=1e-5)


def test_half_plane():
    distance = shapes.half_plane(SIZE, (10.5, 0), (2, 0))
    row, _ = shapes._grid(SIZE)
    assert np.allclose(distance, row - 10.5)
    assert np.abs(shapes.slope(shapes.half_plane(SIZE, (3, 4), (1, -2))) - 1).max() < 1e-4


def test_polygon_matches_a_scan_converter():
    from skimage.draw import polygon2mask

    corners = [(3.3, 4.2), (35.1, 9.7), (20.4, 18.3), (33.6, 40.2), (6.2, 35.9)]
    ours, theirs = shapes.mask(shapes.polygon(SIZE, corners)), polygon2mask(SIZE, corners)
    clear = np.abs(shapes.polygon(SIZE, corners)) > 0.01
    assert (ours == theirs)[clear].all() and ours.sum() > 100
    assert np.array_equal(ours, shapes.mask(shapes.polygon(SIZE, corners[::-1])))  # either way around


@few
@given(place, length, place, length)
def test_union_is_exact_outside_and_a_bound_inside(one_centre, one_radius, two_centre, two_radius):
    union = shapes.union(shapes.disc(SIZE, one_centre, one_radius), shapes.disc(SIZE, two_centre, two_radius))
    one, two = on_circle(one_centre, one_radius), on_circle(two_centre, two_radius)
    one_free = np.hypot(*(one - two_centre).T) >= two_radius - 1e-9
    two_free = np.hypot(*(two - one_centre).T) >= one_radius - 1e-9
    outline = np.concatenate([one[one_free], two[two_free]])
    if not len(outline):
        return
    brute = shapes.distance_to_points(SIZE, outline)
    outside = ~shapes.mask(union)
    assert np.abs(union - brute)[outside].max(initial=0) < 0.03
    assert (np.abs(union) <= brute + 0.03).all()
    lipschitz(union)


def test_union_of_shapes_that_do_not_meet_is_exact():
    union = shapes.union(shapes.disc(SIZE, (12, 12), 8), shapes.disc(SIZE, (28, 32), 9))
    assert agrees(union, np.concatenate([on_circle((12, 12), 8), on_circle((28, 32), 9)]))


def test_overlapping_union_is_wrong_inside_by_a_known_amount():
    both = shapes.union(shapes.disc((64, 64), (32, 25), 12), shapes.disc((64, 64), (32, 39), 12))
    assert both[32, 32] == -5  # truth: -sqrt(12^2 - 7^2)


def test_area_converges():
    for radius in (5, 15, 60):
        area = shapes.mask(shapes.disc((140, 140), (69.7, 70.2), radius)).sum()
        assert abs(area - np.pi * radius**2) < 2.5 * np.sqrt(radius) + 2


def test_slope_is_one_off_the_medial_axis():
    distance = shapes.box((60, 60), (30, 30), (22, 12))
    row, column = shapes._grid((60, 60))
    down, across = np.abs(row - 30) - 22, np.abs(column - 30) - 12
    off_axis = (np.abs(down - across) > 2) & (np.abs(row - 30) > 2) & (np.abs(column - 30) > 2) & (distance < 0)
    assert off_axis.sum() > 300 and np.abs(shapes.slope(distance) - 1)[off_axis].max() < 1e-4


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: shapes.disc(SIZE, (0, 0), 0),
        lambda: shapes.disc(SIZE, (0, 0), float("nan")),
        lambda: shapes.disc((0, 5), (0, 0), 1),
        lambda: shapes.box(SIZE, (0, 0), (1, -1)),
        lambda: shapes.ring(SIZE, (0, 0), 5, 5),
        lambda: shapes.capsule(SIZE, (0, 0), (1, 1), -2),
        lambda: shapes.half_plane(SIZE, (0, 0), (0, 0)),
        lambda: shapes.polygon(SIZE, [(0, 0), (1, 1)]),
        lambda: shapes.distance_to_points(SIZE, np.zeros((0, 2))),
    ],
)
def test_bad_input_is_refused_in_one_sentence(wrong):
    with pytest.raises(ValueError) as error:
        wrong()
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
