"Outlines of labels: areas, holes, parts and corners against shapely; tiles, wherever they cut."

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from sdfdiff.outlines import label_numbers, trace_outlines


def shape_of(polygons):
    "As a shapely geometry."
    return shapely.MultiPolygon([(ring[0], ring[1:]) for ring in polygons])


def squares(labels, number):
    "The same object put together from its pixels."
    return shapely.union_all([shapely.box(x, y, x + 1, y + 1) for y, x in np.argwhere(labels == number)])


def check(labels, **options):
    found = list(trace_outlines(labels, **options))
    assert sorted(number for number, _ in found) == sorted(set(np.unique(labels).tolist()) - {0})
    for number, polygons in found:
        shape, inside = shape_of(polygons), labels == number
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == inside.sum() and shape.symmetric_difference(squares(labels, number)).area == 0
        assert len(polygons) == ndimage.label(inside)[1], "pixels that touch at a corner are parts of their own"
        for ring in (ring for polygon in polygons for ring in polygon):
            step = np.diff(ring, axis=0, append=ring[:1])
            assert ring.dtype.kind == "i" and ((step == 0).sum(1) == 1).all(), "along rows and columns"
            assert (step[:, 0] * np.roll(step[:, 0], 1) == 0).all(), "no corner on a straight side"
            assert ring[0].tolist()[::-1] == min(ring[:, ::-1].tolist()), "from the uppermost corner on"
        assert all(shapely.LinearRing(polygon[0]).is_ccw for polygon in polygons), "x to the right, y up: RFC 7946"
    return dict(found)


small = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2))


@given(small)
@settings(max_examples=150, deadline=None)
def test_outlines_are_those_of_the_pixels(labels):
    check(labels.astype(np.uint32))


@given(small, st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_tiles_change_nothing(labels, side):
    "Every part that touches itself, corners included, is an object here: so none comes twice."
    labels = ndimage.label(labels > 0, np.ones((3, 3)))[0]
    whole, tiled = check(labels), check(labels, side=side)
    assert {number: str(polygons) for number, polygons in whole.items()} == {
        number: str(polygons) for number, polygons in tiled.items()
    }


def test_holes_go_to_their_own_part():
    "A ring in the hole of a ring, and another ring beside them, all one object."
    away = np.abs(np.arange(15) - 7)
    onion = np.maximum.outer(away, away) % 2
    labels = np.hstack([onion, np.zeros((15, 2), int), onion])
    polygons = check(labels.astype(np.uint32) * 7)[7]
    assert [len(polygon) for polygon in polygons] == [2] * 8
    assert all(shapely.Polygon(*polygon[:1]).contains(shapely.Polygon(polygon[1])) for polygon in polygons)


def test_an_object_that_touches_itself_at_a_corner_is_one_part():
    "A ring closed by a corner: its hole and the outside meet there."
    labels = np.array([[1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 0, 0]], np.uint32)
    (polygon,) = check(labels)[1]
    assert len(polygon) == 2 and [2, 2] in polygon[0].tolist() and [2, 2] in polygon[1].tolist()


def test_one_pixel_and_none():
    labels = np.zeros((3, 4), np.uint32)
    assert list(trace_outlines(labels)) == [] == list(trace_outlines(labels[:0]))
    labels[1, 2] = 2**32 - 1
    ((number, polygons),) = trace_outlines(labels)
    assert number == 2**32 - 1 and polygons[0][0].tolist() == [[2, 1], [3, 1], [3, 2], [2, 2]]


def test_tiles_that_hold_whole_objects():
    tiles = [(0, 0, np.array([[1, 1]])), (10, 20, np.array([[0, 2], [2, 2]]))]
    found = dict(trace_outlines(tiles))
    assert found[1][0][0].tolist() == [[0, 0], [2, 0], [2, 1], [0, 1]]
    assert found[2][0][0].min(0).tolist() == [20, 10] and shape_of(found[2]).area == 3


class Slide:
    "Labels that are made when they are read: objects of 8 x 8 px, one every 10 px; knows how much was read at once."

    def __init__(self, side):
        self.shape, self.dtype, self.most = (side, side), np.dtype(np.uint32), 0

    def __getitem__(self, key):
        rows, columns = (np.arange(self.shape[0])[one] for one in key)
        self.most = max(self.most, len(rows) * len(columns))
        inside = np.logical_and.outer(rows % 10 < 8, columns % 10 < 8)
        return (1 + np.add.outer(rows // 10 * (self.shape[1] // 10), columns // 10)).astype(np.uint32) * inside


def test_no_more_than_a_tile_is_read():
    slide, count = Slide(300), 0
    for _, polygons in trace_outlines(slide, side=64):
        count += len(polygons[0][0]) == 4 and shape_of(polygons).area == 64
    assert count == 900 and slide.most == 66 * 66


@pytest.mark.parametrize(
    "labels, said",
    [
        (np.zeros((2, 2)), "these are float64 of shape (2, 2)"),
        (np.zeros((2, 2), bool), "these are bool"),
        (np.zeros((2, 2, 3), int), "of shape (2, 2, 3)"),
        (np.array([[0, -1]]), "these are -1 to 0"),
        (np.array([[0, 2**32]]), "these are 0 to 4294967296"),
    ],
)
def test_what_is_no_label_is_refused(labels, said):
    with pytest.raises(ValueError, match="Labels are whole numbers") as caught:
        list(trace_outlines(labels))
    assert said in str(caught.value)
    assert (label_numbers(np.array([[3, 0]], np.int64)) == np.array([[3, 0]], np.uint32)).all()
