"Stains: amounts against independent solvers, colours against known dyes; preparation: geometry and degenerate images."

import json
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.ndimage import center_of_mass
from scipy.optimize import nnls
from skimage.color import rgb2gray
from skimage.data import immunohistochemistry
from skimage.transform import resize
from small_slides import SPOILS, glands, nuclei, spoilt

from sdfdiff.images import preparation as module
from sdfdiff.images.preparation import (
    GLANDS,
    GLANDS_PAPER,
    NUCLEI,
    REFERENCE_STAIN,
    TISSUE,
    Preparation,
    Stain,
    check_image,
    geometry,
    fit_stain,
    haematoxylin,
    normalise_stain,
    prepare_image,
    prepare_labels,
    prepared_shape,
    see_image,
    usual_microns,
)

RUIFROK = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
OTHER = np.array([[0.50, 0.76, 0.42], [0.25, 0.82, 0.51]])


def unit(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def slide(matrix, strength=1.0, seed=0, shape=(150, 150)):
    "Blobs of one dye between streaks of the other, and their known amounts."
    generator = np.random.default_rng(seed)
    rows, columns = np.indices(shape)
    blue = np.zeros(shape)
    for row, column, radius in generator.uniform([0, 0, 4], [*shape, 9], (40, 3)):
        blue = np.maximum(blue, (np.hypot(rows - row, columns - column) < radius) * generator.uniform(0.7, 1.4))
    pink = (0.5 + 0.3 * np.sin(rows / 4 + columns / 9)) * (1 - 0.8 * np.clip(blue, 0, 1))
    dyes = strength * np.stack([blue, pink], axis=2)
    noisy = np.exp(-dyes @ unit(matrix)) + 0.01 * generator.normal(size=(*shape, 3))
    return (np.clip(np.round(255 * noisy), 0, 255) / 255).astype(np.float32), dyes


def angle(first, second):
    return np.degrees(np.arccos(np.clip((np.array(first) * np.array(second)).sum(axis=1), -1, 1)))


colour_rows = st.lists(st.floats(0.02, 1), min_size=6, max_size=6).map(lambda row: unit(np.reshape(row, (2, 3))))
densities = st.lists(st.lists(st.floats(0, 5), min_size=3, max_size=3), min_size=1, max_size=8).map(np.array)


@settings(max_examples=150, deadline=None)
@given(colour_rows, densities, st.floats(0, 0.5))
def test_amounts_equal_an_active_set_solver(matrix, density, sparsity):
    "The lasso with h >= 0 is least squares with one more row: |D - hW|^2/2 + s sum(h), by scipy's nnls."
    if matrix[0] @ matrix[1] > 0.99:
        return  # nearly one colour: the amounts are not unique
    overlap = np.linalg.cholesky(matrix @ matrix.T)  # L L' = W W'
    for pixel, found in zip(density, module._amounts(density, matrix, sparsity), strict=True):
        known, _ = nnls(overlap.T, np.linalg.solve(overlap, matrix @ pixel - sparsity))
        assert np.allclose(found, known, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(colour_rows, densities, st.floats(0, 0.5), st.integers(0, 2**32 - 1))
def test_nothing_is_cheaper_than_the_amounts(matrix, density, sparsity, seed):
    def cost(dyes):
        return 0.5 * ((density - dyes @ matrix) ** 2).sum(axis=-1) + sparsity * dyes.sum(axis=-1)

    ours = module._amounts(density, matrix, sparsity)
    assert (ours >= 0).all()
    generator = np.random.default_rng(seed)
    for width in (1, 0.1, 0.01):
        assert (cost(ours) <= cost(np.abs(ours + width * generator.normal(size=(50, *ours.shape)))) + 1e-6).all()


def test_density_adds_and_ends():
    assert module._optical_density(np.ones(3)).max() == 0 and np.isclose(
        module._optical_density(np.zeros(1))[0], np.log(255)
    )
    assert np.allclose(
        module._optical_density(np.array([0.5 * 0.4])),
        module._optical_density(np.array([0.5, 0.4])).sum(),
        atol=1e-6,
    )


@pytest.mark.parametrize(("matrix", "strength"), [(RUIFROK, 1.0), (OTHER, 1.6), (RUIFROK, 0.7)])
def test_known_dyes_are_found(matrix, strength):
    image, dyes = slide(matrix, strength)
    stain = fit_stain(image)
    assert (angle(stain.matrix, unit(matrix)) < 4).all()
    assert np.allclose(stain.strength, np.percentile(dyes.reshape(-1, 2), 99, axis=0), rtol=0.15)


def test_fit_is_deterministic_and_blind_to_glass():
    image, _ = slide(OTHER, 1.5)
    assert fit_stain(image) == fit_stain(image.copy())
    with_glass = np.concatenate([image, np.full((600, 150, 3), 0.96, np.float32)])
    first, second = fit_stain(image), fit_stain(with_glass)
    assert (angle(first.matrix, second.matrix) < 0.5).all() and np.allclose(first.strength, second.strength, rtol=0.02)


def test_turned_and_mirrored_slides_have_the_same_dyes():
    image, _ = slide(OTHER, 1.5, shape=(120, 120))  # fewer pixels than the sample: all are used
    for turned in (image[::-1], image.transpose(1, 0, 2)):
        assert np.allclose(fit_stain(image).matrix, fit_stain(turned).matrix, atol=1e-4)


def test_two_stainings_become_alike():
    first, second = slide(RUIFROK)[0], slide(OTHER, 1.6)[0]
    before, after = np.abs(first - second).mean(), np.abs(normalise_stain(first) - normalise_stain(second)).mean()
    assert after < before / 8


def test_a_slide_in_the_reference_stain_hardly_changes():
    reference = Stain(tuple(map(tuple, unit(OTHER))), (1.4, 0.75))
    image, dyes = slide(OTHER)
    own = Stain(reference.matrix, tuple(np.percentile(dyes.reshape(-1, 2), 99, axis=0)))
    assert np.abs(normalise_stain(image, own, own) - image).mean() < 0.015  # noise off the plane of the two dyes


@pytest.mark.parametrize("value", [1.0, 0.97, 0.9])
def test_blank_images_come_back_unchanged(value):
    blank = np.full((40, 40, 3), value, np.float32)
    assert fit_stain(blank) is None and (normalise_stain(blank) == blank).all()


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((30, 30, 3)),
        np.full((30, 30, 3), 0.4),
        np.full((30, 30, 3), [0.5, 0.3, 0.6]),
        np.random.default_rng(0).random((30, 30, 3)),
        np.full((1, 1, 3), 0.3),
        np.eye(30)[..., None] * np.ones(3),
    ],
)
@pytest.mark.parametrize("stain", ["vahadane", "haematoxylin", "none"])
def test_odd_images_stay_images(image, stain):
    prepared = prepare_image(image, Preparation(stain, "rgb"))
    assert prepared.shape == (3, *image.shape[:2]) and prepared.dtype == np.float32
    assert np.isfinite(prepared).all() and prepared.min() >= 0 and prepared.max() <= 1


def test_an_absent_dye_is_not_blown_up():
    dyes = slide(RUIFROK)[1] * [0, 1]
    density = module._optical_density(normalise_stain(np.exp(-dyes @ unit(RUIFROK)).astype(np.float32)))
    known = REFERENCE_STAIN.strength[1] * np.array(REFERENCE_STAIN.matrix[1])
    assert np.allclose(np.percentile(density.reshape(-1, 3), 99, axis=0), known, rtol=0.1)


def test_brown_disappears_and_nuclei_stay():
    blue, brown = np.array([0.65, 0.70, 0.29]), np.array([0.27, 0.57, 0.78])
    dyes = np.zeros((60, 60, 2))
    dyes[10:30, 10:30, 0], dyes[20:50, 20:50, 1] = 1.0, 1.5
    grey = rgb2gray(haematoxylin(np.exp(-dyes @ np.stack([blue, brown])).astype(np.float32)))
    assert grey[12, 12] < 0.3 and grey[22, 22] < 0.3 and grey[40, 40] > 0.9 and grey[55, 55] > 0.9


def test_the_bundled_slide_can_be_prepared():
    image = immunohistochemistry().astype(np.float32) / 255
    prepared = prepare_image(image, Preparation("haematoxylin", "grey", 0.5))
    assert prepared.shape == (1, 256, 256) and prepared.min() < 0.3 and prepared.max() > 0.9


def test_grey_images_have_no_stain():
    grey = np.random.default_rng(1).random((20, 30)).astype(np.float32)
    for stain in ("vahadane", "haematoxylin", "none"):
        assert (prepare_image(grey, Preparation(stain, "grey"))[0] == grey).all()
        assert (prepare_image(grey, Preparation(stain, "rgb")) == grey).all()
        equal = prepare_image(np.repeat(grey[..., None], 3, 2), Preparation(stain, "grey"))
        assert np.allclose(equal[0], grey, atol=1e-6)


def test_presets_are_the_paper_s():
    assert prepared_shape((1000, 1000), NUCLEI) == (500, 500)
    assert prepared_shape((522, 775), GLANDS_PAPER) == (128, 128)
    assert prepared_shape((64, 48), TISSUE) == (64, 48)
    assert (NUCLEI.colour, GLANDS.colour, TISSUE.stain) == ("grey", "rgb", "none")


@pytest.mark.parametrize(
    "preparation", [NUCLEI, GLANDS, GLANDS_PAPER, TISSUE, Preparation("haematoxylin", "grey", 0.25, (7, 9))]
)
def test_preparations_are_plain_json(preparation):
    written = json.loads(json.dumps(preparation.to_dict()))
    assert Preparation.from_dict(written) == preparation
    assert written.pop("microns") == preparation.microns
    old = Preparation.from_dict(written)  # as weights of earlier versions have it
    assert old == replace(preparation, microns=None) and old.at_microns(0.3) == old


@pytest.mark.parametrize("microns", [0.25, 0.62, 1.24, 0.1, 3])
def test_the_scale_follows_from_two_known_pixel_sizes(microns):
    for known in (NUCLEI, GLANDS):
        seen = known.at_microns(microns)
        assert seen.scale == microns / known.microns and seen == replace(known, scale=seen.scale)
        assert known.at_microns(None) is known
    for unknown in (TISSUE, GLANDS_PAPER):
        assert unknown.at_microns(microns) is unknown
    fixed = replace(GLANDS_PAPER, microns=2.48).at_microns(microns)
    assert prepared_shape((522, 775), fixed) == (128, 128), "a size decides before any scale"


def test_the_official_data_have_the_scales_they_had():
    assert NUCLEI.at_microns(0.25) == NUCLEI and NUCLEI.scale == 0.5
    assert GLANDS.at_microns(0.62) == GLANDS and GLANDS.scale == 0.25 and GLANDS.at_microns(1.24).scale == 0.5


@pytest.mark.parametrize("shape", [(522, 775), (430, 567), (433, 574), (453, 589)])
def test_copies_at_half_the_size_are_seen_at_the_same_size(shape):
    half = tuple(side // 2 for side in shape)
    full, copy = prepared_shape(shape, GLANDS.at_microns(0.62)), prepared_shape(half, GLANDS.at_microns(1.24))
    assert max(abs(one - other) for one, other in zip(full, copy)) <= 1


@pytest.mark.parametrize("microns", [0, -0.5, float("nan"), float("inf")])
def test_a_pixel_has_a_size(microns):
    with pytest.raises(ValueError, match=r"^microns is .*; expected a positive number of um per pixel, or None\.$"):
        Preparation(microns=microns)
    with pytest.raises(ValueError, match=r"^scale is .*\.$"):
        GLANDS.at_microns(microns)


@pytest.mark.parametrize("microns", ["0.5", [0.5], {}])
def test_a_pixel_size_is_a_number(microns):
    with pytest.raises(ValueError, match=r"^microns is .*; expected a positive number"):
        Preparation.from_dict({"microns": microns})


@pytest.mark.parametrize(
    "entries",
    [
        {"stain": "x"},
        {"colour": "x"},
        {"scale": 0},
        {"scale": -1},
        {"zoom": 1},
        {"size": (0, 4)},
        {"size": (1, 2, 3)},
        {"size": (1.5, 2)},
        {"scale": float("nan")},
    ],
)
def test_unknown_preparations_are_refused(entries):
    with pytest.raises(ValueError, match="stain|colour|scale|size|microns"):
        Preparation.from_dict(entries)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 4)),
        np.zeros((4, 4, 2)),
        np.zeros(4),
        np.zeros((0, 4)),
        np.full((4, 4), 2.0),
        np.full((4, 4), -0.1),
        np.full((4, 4), np.nan),
        np.zeros((4, 4), np.uint8),
        np.zeros((2, 4, 4, 3)),
    ],
)
def test_what_is_no_image_is_refused(image):
    with pytest.raises(ValueError, match="image has"):
        prepare_image(image, TISSUE)


def test_size_overrides_and_the_order_is_stain_then_size():
    image, _ = slide(RUIFROK, shape=(60, 80))
    sized = replace(GLANDS, size=(33, 21))
    assert prepare_image(image, sized).shape == (3, 33, 21)
    assert prepare_labels(np.zeros((60, 80), int), sized).shape == (33, 21)
    known = resize(rgb2gray(normalise_stain(image)), (30, 40), order=1, mode="reflect", anti_aliasing=True)
    assert np.allclose(prepare_image(image, NUCLEI)[0], known, atol=1e-6)


def test_nothing_happens_to_an_image_that_is_ready():
    image = np.random.default_rng(2).random((20, 30, 3)).astype(np.float32)
    assert (prepare_image(image, TISSUE) == image.transpose(2, 0, 1)).all()
    labels = np.random.default_rng(3).integers(0, 9, (20, 30))
    assert (prepare_labels(labels, TISSUE) == labels).all()


def test_the_geometry_says_both_pixel_sizes():
    known, half = GLANDS.at_microns(0.62), GLANDS.at_microns(1.24)
    assert geometry((522, 775), known, 0.62) == "775x522 px at 0.62 um/px -> 194x130 px at 2.48 um/px"
    assert geometry((261, 388), half, 1.24) == "388x261 px at 1.24 um/px -> 194x130 px at 2.48 um/px"
    assert geometry((522, 775), GLANDS) == "775x522 px at 0.62 um/px (assumed) -> 194x130 px at 2.48 um/px"
    own = replace(GLANDS, scale=0.5, microns=None)  # a scale of one's own
    assert geometry((522, 775), own, 0.62) == "775x522 px at 0.62 um/px -> 388x261 px at 1.24 um/px"
    assert geometry((522, 775), own) == "775x522 px at scale 0.5 -> 388x261 px"
    assert geometry((522, 775), GLANDS_PAPER) == geometry((522, 775), GLANDS_PAPER, 0.62) == "775x522 px -> 128x128 px"
    assert [*map(usual_microns, (GLANDS, NUCLEI, TISSUE, GLANDS_PAPER))] == [0.62, 0.25, None, None]


@pytest.mark.parametrize(
    ("old", "new"),
    [((30, 45), (10, 15)), ((10, 15), (30, 45)), ((50, 70), (10, 14)), ((21, 35), (3, 5)), ((9, 8), (7, 3))],
)
def test_each_new_pixel_takes_the_label_that_covers_most_of_it(old, new):
    "Against areas by brute force: each old pixel cut into as many parts as there are new ones."
    labels = np.random.default_rng(4).integers(0, 3, old)
    ours = prepare_labels(labels, replace(TISSUE, size=new))
    fine = labels.repeat(new[0], axis=0).repeat(new[1], axis=1).reshape(new[0], old[0], new[1], old[1])
    areas = np.stack([(fine == label).sum(axis=(1, 3)) for label in range(3)])
    assert ours.dtype == np.int32 and (np.take_along_axis(areas, ours[None], 0)[0] == areas.max(axis=0)).all()


@pytest.mark.parametrize("scale", [0.5, 0.4, 0.25, 2.0])
@pytest.mark.parametrize("centre", [200.30, 199.5, 201.77])
def test_a_disc_stays_where_it_is(scale, centre):
    rows, columns = np.indices((400, 400))
    labels = 7 * (np.hypot(rows - centre, columns - 190.0) <= 60.2).astype(int)
    small = prepare_labels(labels, Preparation("none", "grey", scale))
    expected = (np.array(center_of_mass(labels)) + 0.5) * scale - 0.5
    assert np.allclose(center_of_mass(small), expected, atol=0.1)  # the label at the centre: 0.25 px away
    assert (small > 0).sum() / scale**2 == pytest.approx((labels > 0).sum(), rel=0.01)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
def test_resized_labels_invent_nothing(rows, columns, new_rows, new_columns):
    labels = np.arange(rows * columns).reshape(rows, columns)
    ours = prepare_labels(labels, replace(TISSUE, size=(new_rows, new_columns)))
    assert set(ours.ravel()) <= set(labels.ravel()) and (np.diff(ours, axis=0) >= 0).all()
    assert len(set(ours.ravel())) == min(rows, new_rows) * min(columns, new_columns)


def test_image_and_labels_stay_in_register():
    rows, columns = np.indices((150, 90))
    labels = (np.hypot(rows - 90.2, columns - 40.7) < 25).astype(int)
    for size in ((50, 30), (61, 47), (300, 180)):
        image = prepare_image(labels.astype(float), Preparation("none", "grey", size=size))[0]
        small = prepare_labels(labels, replace(TISSUE, size=size))
        assert ((image > 0.5) != (small > 0)).mean() < 0.01
        assert np.allclose(center_of_mass(image), center_of_mass(small), atol=0.05)


def test_a_large_image_is_quick():
    image = np.tile(slide(OTHER)[0], (7, 7, 1))[:1000, :1000]
    prepare_image(image[:64, :64], NUCLEI)
    start = time.process_time()
    prepare_image(image, NUCLEI)
    assert time.process_time() - start < 3  # 0.2 s on a quiet core; the rest is patience with a busy one


# ---- what is no tissue


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("image", [nuclei, glands])
def test_black_ink_and_dirt_do_not_decide_on_the_dyes(image, spoil):
    clean, found = fit_stain(image()), fit_stain(spoilt(image(), *spoil)[0])
    assert (angle(found.matrix, clean.matrix) < 3).all() and np.allclose(found.strength, clean.strength, rtol=0.1)


@pytest.mark.parametrize("spoil", SPOILS)
def test_a_brown_slide_keeps_its_strength(spoil):
    image = immunohistochemistry()[:256, :256].astype(np.float32) / 255
    marked, where = spoilt(image, *spoil)
    assert np.abs(haematoxylin(marked) - haematoxylin(image))[~where].mean() < 0.01


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 255, 255), (255, 255, 0), (255, 0, 255)])
def test_saturated_colours_do_not_decide_on_the_dyes(colour):
    image, clean = nuclei().copy(), fit_stain(nuclei())
    image[100:130] = np.array(colour) / 255  # a tenth of all
    found = fit_stain(image)
    assert (angle(found.matrix, clean.matrix) < 3).all() and np.allclose(found.strength, clean.strength, rtol=0.1)


def test_ordinary_images_are_prepared_as_before(monkeypatch):
    "To the bit: nothing is left out, nothing filled in."
    he = [
        (image, how) for image in (nuclei(), glands(), slide(OTHER)[0], slide(RUIFROK)[0]) for how in (NUCLEI, GLANDS)
    ]
    pairs = [*he, (immunohistochemistry().astype(np.float32) / 255, Preparation("haematoxylin", "grey"))]
    new = [see_image(*pair) for pair in pairs]
    monkeypatch.setattr(module, "_foreign", lambda density, brown=False: np.zeros(density.shape[:2], bool))
    for pair, (seen, unseen) in zip(pairs, new, strict=True):
        assert not unseen.any() and (seen == prepare_image(*pair)).all()


@pytest.mark.parametrize(("value", "what"), [(0.0, "black"), (1.0, "glass"), (0.95, "glass")])
@pytest.mark.parametrize("preparation", [NUCLEI, GLANDS, Preparation("haematoxylin", "grey")])
def test_nothing_is_seen_where_nothing_is(value, what, preparation):
    for image in (np.full((80, 90), value), np.full((80, 90, 3), value), np.full((80, 90, 3), value) * [1, 0.96, 1]):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            seen, unseen = see_image(image, preparation)
        assert unseen.all() and unseen.shape == seen.shape[1:] and np.isfinite(seen).all()
        with pytest.warns(UserWarning, match="blank|glass|hardly any tissue"):
            check_image(image, preparation), see_image(image, preparation)


def test_without_tissue_the_reference_is_taken_and_said():
    blank = np.full((40, 40, 3), 0.95, np.float32)
    for image in (blank, np.zeros_like(blank)):
        assert fit_stain(image) is None
        with pytest.warns(UserWarning, match="no dyes can be found"):
            assert (normalise_stain(image) == image).all()


def test_what_is_unseen_mirrors_the_tissue():
    image = np.arange(48.0).reshape(4, 4, 3)
    unseen = np.zeros((4, 4), bool)
    unseen[:, 2:] = True  # columns 0 and 1 stay; 2 mirrors 0, and 3 is reached in the second round
    found = module._mirrored(image, unseen)
    assert (
        (found[:, :2] == image[:, :2]).all()
        and (found[:, 2] == image[:, 0]).all()
        and (found[:, 3] == image[:, 1]).all()
    )
    assert (module._mirrored(image, np.ones((4, 4), bool)) == image).all()


@pytest.mark.parametrize("preparation", [NUCLEI, Preparation("vahadane", "rgb", 1.0)])
def test_much_glass_is_unseen_and_holes_are_seen(preparation):
    image = np.concatenate([glands(), np.full((128, 300, 3), 0.95, np.float32)], axis=1)
    with pytest.warns(UserWarning, match="% is glass: no object"):
        _, unseen = see_image(image, preparation)
    edge = round(128 * preparation.scale)
    assert unseen[:, edge + 3 :].all() and not unseen[:, : edge - 3].any()


@pytest.mark.parametrize("seed", range(6))
def test_unseen_glass_is_that_of_scipy_s_distances(seed):
    "Glass into which a disc of 20 network pixels fits, and as far as the disc reaches, in rooms of any shape."
    generator, scale = np.random.default_rng(seed), (0.5, 1.0, 0.25)[seed % 3]
    image = np.kron(generator.random((6, 7)) < 0.5, np.ones((40, 40), bool))[: 200 + seed, : 250 - seed]
    image |= generator.random(image.shape) < 2e-4
    density, foreign = np.where(image, 1.0, 0.01)[..., None] * np.ones(3, np.float32), image & (image.cumsum(1) < 20)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = module._unseen(density, foreign, scale)
    reach, wall = round(20 / scale), image & ~foreign
    core = ndimage.distance_transform_edt(np.pad(~wall, reach + 1, mode="edge")) > reach
    core = core[reach + 1 : -reach - 1, reach + 1 : -reach - 1]
    wide = ~image & (ndimage.distance_transform_edt(~core) <= reach + 1) if core.any() else core
    expected = foreign | ndimage.binary_dilation(wide, np.ones((5, 5)))
    assert np.array_equal(found, expected) or (np.array_equal(found, foreign) and wide.mean() < 1 / 3)


H_E, BROWN, RGB = NUCLEI, Preparation("haematoxylin", "grey"), Preparation("vahadane", "rgb")


@pytest.mark.parametrize(
    ("make", "preparation", "said"),
    [
        (lambda: nuclei(), H_E, ""),
        (lambda: glands(), RGB, ""),
        (lambda: slide(RUIFROK)[0], H_E, ""),
        (lambda: immunohistochemistry() / 255, BROWN, ""),
        (lambda: immunohistochemistry() / 255, H_E, "brown slide.*haematoxylin"),
        (lambda: nuclei(), BROWN, "H&E.*vahadane"),
        (lambda: rgb2gray(glands()), RGB, "the image is grey"),
        (lambda: rgb2gray(nuclei()), H_E, ""),
        (lambda: nuclei()[:100], H_E, r"288x100 px at 0.25 um/px \(assumed\) -> 144x50 px at 0.5 um/px"),
        (lambda: nuclei(), Preparation("vahadane", "grey", 4.0), "enlarged"),
        (lambda: np.ones((200, 200, 3)), H_E, "blank"),
        (lambda: np.zeros((200, 200)), TISSUE, "blank"),
        (lambda: 0.05 + 0.6 * (rgb2gray(nuclei()) < 0.4), H_E, "!dark"),
        (lambda: np.eye(3)[2] * (rgb2gray(nuclei()) < 0.4)[..., None], H_E, "!dark"),
        (lambda: 1 - nuclei(), H_E, "!negative|dark"),
        (lambda: spoilt(nuclei(), "corners", 0.5)[0], H_E, ""),
        (lambda: np.where(np.indices((288, 288))[0][..., None] < 200, 0, nuclei()), H_E, ""),
        (lambda: 1 - nuclei(), TISSUE, ""),
    ],
)
def test_an_image_of_the_wrong_kind_is_named(make, preparation, said):
    image = make()
    if said.startswith("!"):
        with pytest.raises(ValueError, match=f"^photo.png: .*({said[1:]}).*pass anyway=True to go on"):
            check_image(image, preparation, name="photo.png")
        with pytest.warns(UserWarning, match=said[1:]):
            assert check_image(image, preparation, anyway=True)
    elif said:
        with pytest.warns(UserWarning, match=said):
            check_image(image, preparation)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert check_image(image, preparation) == geometry(image.shape, preparation)
            assert check_image(image, preparation, microns=0.3) == geometry(image.shape, preparation, 0.3)


def test_a_red_mark_does_not_dye_a_grey_image():
    grey = np.repeat(rgb2gray(nuclei())[..., None], 3, axis=2).astype(np.float32)
    marked = grey.copy()
    marked[100:104] = [0.8, 0.1, 0.15]
    seen, unseen = see_image(marked, NUCLEI)
    assert not unseen.any() and np.array_equal(seen[:, :48], see_image(grey, NUCLEI)[0][:, :48])


def test_glass_beside_tissue_is_measured():
    "The table's maker: without glass on the right nothing differs; each F1 is one of the remaining tissue."
    from benchmarks.glass import beside_glass
    from sdfdiff.diffusion.model import load_model
    from sdfdiff.images.cases import Case

    image = np.asarray(immunohistochemistry()[:128, :128], np.float32) / 255
    case = Case("slide", image, np.zeros((128, 128), np.int32), "slide")
    found = beside_glass(load_model("glands"), [case], (1.0, 0.5), steps=2)
    assert found.shape == (1, 2, 2) and (found >= 0).all() and (found <= 1).all()
    assert found[0, 0].tolist() == [1.0, 1.0]


def test_masks_that_lie_right_are_told_from_shifted_ones(tmp_path):
    "The old rule is the label at the centre: at half the size, the lower right one of four."
    from benchmarks.shifted_masks import centre_labels, gains
    from sdfdiff.diffusion.model import load_model
    from sdfdiff.images.cases import find_cases

    labels = np.arange(48).reshape(6, 8)
    np.testing.assert_array_equal(centre_labels(labels, (3, 4)), labels[1::2, 1::2])
    np.testing.assert_array_equal(centre_labels(labels, (6, 8)), labels)
    (paths,) = find_cases("tissue", only=1)
    assert gains(load_model("tissue"), paths, members=2) == {"mmse": 0.0, "majority": 0.0}  # tissue keeps its size
