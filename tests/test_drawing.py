"What the pictures rest on: maps that survive a grey printout, shared scales, outlines in the right place."

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rcParams
from PIL import Image
from skimage.color import rgb2lab

from sdfdiff import drawing


def lightness(colours):
    return rgb2lab(colours(np.linspace(0, 1, 256))[None, :, :3])[0, :, 0]


@pytest.mark.parametrize("quantity", drawing.QUANTITIES, ids=lambda one: one.label)
def test_lightness_is_monotone_and_wide(quantity):
    values = lightness(drawing.colour_map(quantity))
    steps = np.diff(values)
    assert (steps >= -1e-6).all() or (steps <= 1e-6).all()
    assert np.ptp(values) > 70


@pytest.mark.parametrize("quantity", [one for one in drawing.QUANTITIES if one.categories], ids=lambda one: one.label)
def test_categories_differ_in_grey(quantity):
    colours = drawing.colour_map(quantity)
    assert colours.N == len(quantity.categories)
    values = rgb2lab(colours(np.arange(colours.N))[None, :, :3])[0, :, 0]
    assert np.abs(np.diff(values)).min() > 10


def test_the_middle_of_a_symmetric_scale_is_zero():
    low, high = drawing.limits([np.array([[-3.0, 7.0]])], drawing.DISTANCE)
    assert (low, high) == (-7.0, 7.0)


def test_limits_ignore_what_is_not_finite():
    assert drawing.limits([np.array([np.nan, np.inf, 2.0])], drawing.SPREAD) == (0.0, 2.0)
    assert drawing.limits([np.array([np.nan])], drawing.SPREAD) == (0.0, 1.0)
    assert drawing.limits([np.array([])], drawing.DISTANCE) == (-1.0, 1.0)
    assert drawing.limits([np.array([5.0])], drawing.PROBABILITY) == (0.0, 1.0)
    assert drawing.limits([np.array([5.0])], drawing.DISTANCE, 2.0) == (-2.0, 2.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_pixel_edges_count_unlike_neighbours(seed):
    labels = np.random.default_rng(seed).integers(0, 3, (7, 9))
    expected = sum(
        int(labels[row, column] != labels[row + down, column + across])
        for down, across in ((1, 0), (0, 1))
        for row in range(7 - down)
        for column in range(9 - across)
    )
    edges = drawing._pixel_edges(labels)
    assert edges.shape == (expected, 2, 2)
    assert np.allclose(np.abs(np.diff(edges, axis=1)).sum(-1), 1)  # each is one pixel long


def test_pixel_edges_surround_a_pixel():
    mask = np.zeros((5, 6), bool)
    mask[2, 4] = True
    corners = {tuple(point) for edge in drawing._pixel_edges(mask) for point in edge.tolist()}
    assert corners == {(3.5, 1.5), (4.5, 1.5), (3.5, 2.5), (4.5, 2.5)}  # (column, row)


def test_error_codes():
    predicted = np.array([[0, 1, 1, 0]])
    truth = np.array([[0, 5, 0, 2]])
    assert drawing.error_codes(predicted, truth).tolist() == [[0, 1, 2, 3]]
    with pytest.raises(ValueError, match="agree"):
        drawing.error_codes(predicted, truth.T)


@pytest.mark.parametrize("outlined", [np.zeros((8, 8), bool), np.ones((8, 8), bool), np.ones((8, 8)), -np.ones((8, 8))])
def test_nothing_to_outline_is_no_error(outlined, recwarn):
    figure, axes = drawing.panels(1)
    drawing.draw_image(axes[0], np.full((8, 8), 0.5), outline=outlined)
    drawing.png(figure)
    assert not recwarn.list


def test_thin_object_without_negative_pixels_still_has_an_outline():
    distance = np.abs(np.arange(9.0) - 4)[None].repeat(9, 0)
    _, axes = drawing.panels(1)
    drawing.draw_distance(axes[0], distance)
    paths = [path for drawn in axes[0].collections for path in drawn.get_paths() if len(path.vertices)]
    assert paths and all(abs(point[0] - 4) < 0.01 for path in paths for point in path.vertices)


def test_strip_shares_one_scale_and_one_bar():
    fields = [np.array([[-1.0, 1.0]]), np.array([[-9.0, 2.0]]), np.array([[0.0, 3.0]])]
    figure = drawing.strip(fields, [drawing.DISTANCE, drawing.DISTANCE, drawing.SPREAD], ["a", "b", "c"])
    scales = [one.images[0].get_clim() for one in figure.axes[:3]]
    assert scales == [(-9, 9), (-9, 9), (0, 3)]
    labels = [one.get_ylabel() for one in figure.axes[3:]]
    assert labels == ["distance (px)", "spread (px)"]
    with pytest.raises(ValueError, match="as many"):
        drawing.strip(fields, drawing.DISTANCE, ["only one"])
    with pytest.raises(ValueError, match="as many"):
        drawing.strip([])


def test_wrong_shapes_are_named():
    _, axes = drawing.panels(1)
    with pytest.raises(ValueError, match=r"\(4, 5, 3\)"):
        drawing.draw(axes[0], np.zeros((4, 5, 3)), drawing.DISTANCE)
    with pytest.raises(ValueError, match=r"\(4,\)"):
        drawing.draw_outline(axes[0], np.zeros(4, bool))


def test_the_stored_picture_is_close_to_the_true_one_and_smaller():
    field = np.hypot(*np.mgrid[-20:20, -20:20]) - 12
    figure = drawing.strip([field, field + np.random.default_rng(0).normal(0, 3, field.shape)], title="two")
    stored = figure._repr_png_()
    picture = np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")).astype(int)
    true = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)
    assert picture.shape == true.shape
    assert np.abs(picture - true).mean() < 4 and np.percentile(np.abs(picture - true), 99) < 20
    assert (picture[0, 0] == 255).all()
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert len(stored) < 0.6 * len(file.getvalue())


def test_drawing_leaves_no_trace():
    before = dict(rcParams)
    drawing.png(drawing.strip([np.eye(5)], title="x"))
    assert dict(rcParams) == before


def test_importing_is_cheap():
    code = "import sys, sdfdiff.drawing; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
