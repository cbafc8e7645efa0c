"Cases: found, split by patient, read and prepared; annotation files from strangers, and everything that may be wrong."

import json
import os
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from PIL import Image
from safetensors import safe_open
from scipy.spatial import cKDTree
from small_folders import MASK, PICTURE, SQUARE, aperio, put
from small_studies import folder

from sdfdiff.diffusion.fitting import SETTINGS, fit, load_training_data
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.images import cases as module
from sdfdiff.images.annotations import polygon_labels
from sdfdiff.images.cases import (
    DATASETS,
    Case,
    CasePaths,
    Prepared,
    find_cases,
    hold_out,
    prepare_case,
    read_case,
    split_cases,
)
from sdfdiff.images.preparation import (
    GLANDS,
    GLANDS_PAPER,
    NUCLEI,
    TISSUE,
    Preparation,
    prepare_image,
    prepare_labels,
    see_image,
)
from sdfdiff.images.synthetic import tissue

QUBIQ = Path(__file__).parents[2] / "shared" / "data" / "qubiq_brain_growth" / "train.npz"
NUMBERS = np.random.default_rng(0)
IMAGES = NUMBERS.integers(0, 256, (5, 40, 36), dtype=np.uint8)
MASKS = NUMBERS.random((5, 3, 40, 36)) < 0.5


def packed(path, **changes):
    "An .npz file like a good one, but for the changes; None leaves an array out."
    arrays = {"image": IMAGES, "masks": MASKS, "case": np.array([f"p{k}" for k in range(5)])} | changes
    np.savez_compressed(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def pictures(root, raters=3, ending="{name}_rater{k}.png", cases=5):
    "The same as files."
    root.mkdir(exist_ok=True)
    for number in range(cases):
        Image.fromarray(IMAGES[number]).save(root / f"p{number}.png")
        for k in range(raters):
            Image.fromarray(MASKS[number, k]).save(root / ending.format(name=f"p{number}", k=k + 1))
    return root


def refused(place, *words, kind=ValueError):
    "One sentence that names the place and says this."
    with pytest.raises(kind) as problem:
        [read_case(paths) for paths in find_cases("raters", place)]
    text = str(problem.value)
    assert "\n" not in text and len(text.replace(str(place), "")) < 500 and text.endswith(".")
    for word in (Path(place).name, *words):
        assert str(word) in text, text


@pytest.mark.parametrize("layout", ["npz", "npz in a folder", "files", "files with other names"])
def test_all_layouts_say_the_same(tmp_path, layout):
    if layout.startswith("npz"):
        packed(tmp_path / "a.npz")
        place = tmp_path / "a.npz" if layout == "npz" else tmp_path
    else:
        place = pictures(
            tmp_path / "a", ending="{name}_rater{k}.png" if layout == "files" else "{name}-Rater_{k:02}.PNG"
        )
    found = find_cases("raters", place)
    assert [paths.name for paths in found] == [paths.group for paths in found] == [f"p{k}" for k in range(5)]
    for k, paths in enumerate(found):
        case = read_case(paths)
        assert isinstance(case, Case) and case.name == case.group == f"p{k}" and case.posterior is None
        np.testing.assert_array_equal(case.image, IMAGES[k] / np.float32(255))
        np.testing.assert_array_equal(case.raters, MASKS[k])
        np.testing.assert_array_equal(case.labels, MASKS[k].sum(0) >= 2)
        assert (case.image.dtype, case.raters.dtype, case.labels.dtype) == (np.float32, np.int32, np.int32)


def test_half_of_the_raters_are_enough(tmp_path):
    masks = np.zeros((1, 2, 1, 4), bool)
    masks[0, 0, 0, :2] = masks[0, 1, 0, ::2] = True
    case = read_case(
        find_cases("raters", packed(tmp_path / "a.npz", image=np.zeros((1, 1, 4), np.uint8), masks=masks, case=None))[0]
    )
    assert case.labels.tolist() == [[1, 1, 1, 0]] and case.name == "0"


def test_colour_and_ten_raters(tmp_path):
    "Rater 10 comes after rater 2."
    image = NUMBERS.integers(0, 256, (2, 8, 9, 3), dtype=np.uint8)
    masks = NUMBERS.random((2, 11, 8, 9)) < 0.5
    case = read_case(
        find_cases(
            "raters", packed(tmp_path / "a.npz", image=image, masks=masks.astype(np.uint8), case=np.array([7, 8]))
        )[1]
    )
    np.testing.assert_array_equal(case.image, image[1] / np.float32(255))
    Image.fromarray(image[1]).save(tmp_path / "8.png")
    for k in range(11):
        Image.fromarray(masks[1, k]).save(tmp_path / f"8_rater{k + 1}.png")
    (tmp_path / "a.npz").unlink()
    (tmp_path / "._8.png").write_text("what a Mac leaves behind")
    other = read_case(find_cases("raters", tmp_path)[0])
    np.testing.assert_array_equal(other.raters, case.raters)
    np.testing.assert_array_equal(other.image, case.image)


def test_instances_become_masks(tmp_path):
    "Raters who number their objects."
    pictures(tmp_path, cases=1)
    Image.fromarray((MASKS[0, 0] * np.arange(1, 37)).astype(np.uint8)).save(tmp_path / "p0_rater1.png")
    np.testing.assert_array_equal(read_case(find_cases("raters", tmp_path)[0]).raters[0], MASKS[0, 0])


# ---- refusals


WRONG = {
    "no image": ({"image": None}, "no array image"),
    "no masks": ({"masks": None}, "no array masks"),
    "one rater": ({"masks": MASKS[:, :1]}, "1 raters"),
    "fewer masks": ({"masks": MASKS[:4]}, "(4, 3, 40, 36)"),
    "other pixels": ({"masks": MASKS.swapaxes(2, 3)}, "(5, 3, 36, 40)"),
    "no raters": ({"masks": MASKS[:, 0]}, "(5, 40, 36)"),
    "one image": ({"image": IMAGES[0]}, "(40, 36)"),
    "a number": ({"image": np.uint8(3)}, "expected one .npz file"),
    "a number for a mask": ({"masks": np.uint8(1)}, "masks ()"),
    "four channels": ({"image": np.repeat(IMAGES[..., None], 4, 3)}, "(5, 40, 36, 4)"),
    "floats": ({"image": IMAGES / 255}, "float64"),
    "16 bit": ({"image": IMAGES.astype(np.uint16)}, "uint16"),
    "soft masks": ({"masks": MASKS * 0.5}, "masks float64"),
    "0/255": ({"masks": MASKS * np.uint8(255)}, "up to 255"),
    "signed masks": ({"masks": MASKS.astype(np.int8)}, "int8"),
    "the same names": ({"case": np.array(list("aabcd"))}, "4 different names for 5 images"),
    "too few names": ({"case": np.array(list("abcd"))}, "4 different names for 5 images"),
    "objects": ({"image": np.array([{}] * 5, object)}, "allow_pickle=False"),
    "object names": ({"case": np.array(list("abcde"), object)}, "allow_pickle=False"),
    "object masks": ({"masks": np.array([[None] * 3] * 5, object)}, "allow_pickle=False"),
}


@pytest.mark.parametrize("what", WRONG)
def test_arrays_that_are_refused(tmp_path, what):
    changes, words = WRONG[what]
    refused(packed(tmp_path / "mine.npz", **changes), words, "expected one .npz file")


def test_nothing_is_unpickled(tmp_path):
    "A file can run no code."

    class Harmful:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    refused(packed(tmp_path / "mine.npz", case=np.array([Harmful()] * 5, object)))
    assert not (tmp_path / "harm").exists()


def test_bombs_are_not_unpacked(tmp_path, monkeypatch):
    "The size is looked at before anything is read."
    path = packed(tmp_path / "mine.npz", masks=np.zeros((5, 3, 40, 36), bool))
    assert path.stat().st_size < 15000
    monkeypatch.setattr(module, "_LARGEST", 20000)
    monkeypatch.setattr(np, "load", lambda *arguments, **options: pytest.fail("it was read"))
    refused(path, "masks.npy would unpack to more than")


def test_damaged_files(tmp_path):
    "Cut, scrambled at many places, empty, text, protected: always the same kind of sentence."
    data, path = packed(tmp_path / "a.npz").read_bytes(), tmp_path / "mine.npz"
    generator = np.random.default_rng(1)
    for content in (b"", b"hello", data[:100], data[: len(data) // 2], data[:-30]):
        path.write_bytes(content)
        refused(path, "is not understood")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(60):  # noise in the middle of the archive
            wrong = bytearray(data)
            start = int(generator.integers(0, len(data) - 40))
            wrong[start : start + 30] = generator.bytes(30)
            path.write_bytes(bytes(wrong))
            try:
                [read_case(paths) for paths in find_cases("raters", path)]
            except ValueError as error:
                assert "mine.npz is not understood" in str(error)
        wrong = bytearray(data)
        for at in (
            index for index in range(len(data) - 4) if data[index : index + 4] in (b"PK\x01\x02", b"PK\x03\x04")
        ):
            wrong[at + (8 if data[at + 2] == 1 else 6)] |= 1  # says that it has a password
        path.write_bytes(bytes(wrong))
        refused(path, "is not understood")


def test_a_header_that_lies(tmp_path):
    "An array of a billion gigabytes in a file of a few bytes."
    header = b"\x93NUMPY\x01\x00" + (
        b"{'descr': '|u1', 'fortran_order': False, 'shape': (1125899906842624,), }".ljust(117) + b"\n"
    )[:118].rjust(0)
    header = header[:8] + (len(header) - 8).to_bytes(2, "little") + header[8:]
    with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
        archive.writestr("image.npy", header)
        archive.writestr("masks.npy", header)
    refused(tmp_path / "mine.npz", "is not understood")


def test_folders_that_are_refused(tmp_path):
    refused(tmp_path / "nowhere", "is not a folder", kind=FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no images", kind=FileNotFoundError)
    refused(pictures(tmp_path / "one", raters=1), "at least two raters for p0")
    place = pictures(tmp_path / "lonely")
    (place / "p3.png").unlink()
    refused(place, "at least two raters for p3")
    place = pictures(tmp_path / "size", cases=1)
    Image.fromarray(MASKS[0, 0, :9]).save(place / "p0_rater2.png")
    with pytest.raises(ValueError, match="p0_rater2.png has 9 x 36 pixels, but p0.png 40 x 36; expected one size."):
        read_case(find_cases("raters", place)[0])
    place = pictures(tmp_path / "double", cases=1)
    Image.fromarray(IMAGES[0]).save(place / "p0.tif")
    with pytest.raises(ValueError, match="p0.png and .*p0.tif have the same name; keep one of them"):
        find_cases("raters", place)
    place = pictures(tmp_path / "twice", cases=1)
    Image.fromarray(MASKS[0, 0]).save(place / "p0_rater02.png")
    refused(place, "several files of rater 2 for p0")
    for name in ("a", "b"):
        packed(tmp_path / f"{name}.npz")
    refused(tmp_path, "2 .npz files; name one of them")
    packed(tmp_path / "none.npz", image=IMAGES[:0], masks=MASKS[:0], case=None)
    refused(tmp_path / "none.npz", "holds no images", kind=FileNotFoundError)


def test_there_is_no_official_test_split(tmp_path):
    for place in (packed(tmp_path / "a.npz"), pictures(tmp_path / "files")):
        with pytest.raises(ValueError, match="no official test split; choose train, validation or all"):
            find_cases("raters", place, "test")
        with pytest.raises(ValueError, match="unknown split 'other'; choose one of train, validation, test, all"):
            find_cases("raters", place, "other")
        assert find_cases("raters", place, "train") == find_cases("raters", place, "all")


# ---- what others do with it


def test_one_example_per_rater(tmp_path):
    "Training sees each rater of the fitted images, and nothing of those held out."
    path, setting = packed(tmp_path / "a.npz"), SETTINGS["raters"]
    data, held_out = load_training_data("raters", path, setting, progress=False)
    fitted, kept = hold_out(find_cases("raters", path, "train"), "raters")
    assert (
        held_out == [case.name for case in kept]
        and len(held_out) == round(0.4 * 5)
        and len(data.images) == 3 * len(fitted)
    )
    inside = [(distance < 0.25).numpy() for distance in data.distances]
    for k, paths in enumerate(fitted):
        for rater in range(3):
            np.testing.assert_array_equal(inside[3 * k + rater], MASKS[int(paths.name[1:]), rater])
            np.testing.assert_allclose(data.images[3 * k + rater][0], IMAGES[int(paths.name[1:])] / 255, atol=1e-6)
    assert [case.name for case in find_cases("raters", path, "validation")] == held_out


def test_weights_of_raters_draw_in_one_call(tmp_path):
    "As all settings: P(object) and a generator are trained, and without a method a member is one call."
    path, setting = packed(tmp_path / "a.npz"), SETTINGS["raters"]
    small = replace(setting.architecture, width=8, multipliers=(1, 1), encoder_blocks=1, one_call=(1,))
    small = replace(setting, architecture=small, crop=16, recipe=replace(setting.recipe, batch=1))
    about = {"setting": small, "steps": 1, "validate": False, "progress": False}
    model = fit("raters", path, tmp_path / "b.safetensors", **about)
    drawn = ensemble(model, IMAGES[:1, :16, :16].astype(np.float32) / 255, members=2, progress=False)
    assert drawn.attrs["calls_per_member"] == 1 and model.network.architecture.probability


# ---- annotation files from strangers


def test_sizes_must_agree(tmp_path):
    put(tmp_path / "mine" / "a.png", PICTURE)
    put(tmp_path / "mine" / "a_mask.png", MASK[:, :30])
    (paths,) = find_cases("folder", tmp_path / "mine")
    with pytest.raises(ValueError, match="a_mask.png has 40 x 30 pixels, but a.png 40 x 50"):
        read_case(paths)


def test_polygons_have_columns_first_and_include_their_outline(tmp_path):
    put(tmp_path / "a.xml", aperio([(2, 4), (2, 14), (7, 14), (7, 4)]))
    labels = polygon_labels(tmp_path / "a.xml", (20, 30))
    known = np.zeros((20, 30), np.int32)
    known[2:8, 4:15] = 1
    assert labels.dtype == np.int32 and (labels == known).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_polygons_hold_what_an_independent_test_finds_inside(tmp_path_factory, seed):
    "Matplotlib's point-in-polygon: what is inside by a pixel is drawn, what is outside by more than one is not."
    generator = np.random.default_rng(seed)
    angle = np.sort(generator.uniform(0, 2 * np.pi, 12))
    radius = generator.uniform(6, 12, 12)
    corners = np.trunc(np.stack([20 + radius * np.sin(angle), 25 + radius * np.cos(angle)], axis=1))
    path = tmp_path_factory.mktemp("xml") / "a.xml"
    put(path, aperio(corners.tolist()))
    drawn = polygon_labels(path, (40, 50)) > 0
    points = np.stack(np.indices((40, 50)), axis=-1).reshape(-1, 2)
    outline = Outline(np.concatenate([corners, corners[:1]]))
    inside = outline.contains_points(points).reshape(40, 50)
    edge = np.stack([np.linspace(one, other, 200) for one, other in zip(corners, np.roll(corners, -1, 0), strict=True)])
    distance = np.sqrt(((points[:, None] - edge.reshape(1, -1, 2)) ** 2).sum(-1).min(1)).reshape(40, 50)
    assert drawn[inside].all() and not drawn[~inside & (distance > 1)].any()
    assert drawn[tuple(corners.astype(int).T)].all()


def test_later_regions_win_and_odd_ones_are_drawn_as_far_as_they_go(tmp_path):
    put(
        tmp_path / "a.xml",
        aperio(
            SQUARE,
            [(10, 10), (10, 20), (20, 20), (20, 10)],
            [(25, 25)],
            [(30, 30), (30, 34)],
            [],
            [(-50, 40), (-50, 400), (3, 400), (3, 40)],
            [(1e30, 0), (0, 0), (0, -1e30)],
        ),
    )
    labels = polygon_labels(tmp_path / "a.xml", (40, 50))
    assert labels[12, 12] == 2 and labels[7, 7] == 1 and labels[25, 25] == 3 and (labels[30, 30:35] == 4).all()
    assert (labels[0:4, 41:] == 6).all() and not (labels == 5).any()


def test_no_region_is_a_slide_without_nuclei(tmp_path):
    put(tmp_path / "a.xml", aperio())
    assert not polygon_labels(tmp_path / "a.xml", (8, 9)).any()


LAUGHS = (
    '<!DOCTYPE x [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True))
    + "]>"
)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LAUGHS + "<Annotations>&i;</Annotations>", "unsafe"),
        ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><Annotations>&a;</Annotations>', "unsafe"),
        (aperio(SQUARE)[:150], "not understood"),
        ("", "not understood"),
        ("no xml", "not understood"),
        (b"\xff\xfe\x00", "not understood"),
        (aperio(root="html"), "begins with <html>"),
        (aperio([("a", 1), (2, 3), (4, 5)]), "not understood"),
        (aperio([("nan", 1), (2, 3), (4, 5)]), "not finite"),
        (aperio(SQUARE).replace('X="5"', ""), "not understood"),
        ('<?xml version="1.0" encoding="klingon"?><Annotations/>', "not understood"),
    ],
)
def test_strangers_files_give_one_sentence(tmp_path, content, words):
    put(tmp_path / "evil.xml", content)
    with pytest.raises(ValueError) as problem:
        polygon_labels(tmp_path / "evil.xml", (8, 9))
    assert "evil.xml" in str(problem.value) and words in str(problem.value) and "\n" not in str(problem.value)


# ---- Aperio XML: types, holes, layers


def drawn(*regions, name=""):
    "A layer of (corners (row, column), more words of the region)."
    inner = "".join(
        f"<Region {words}><Vertices>"
        + "".join(f'<Vertex X="{column}" Y="{row}" Z="0"/>' for row, column in corners)
        + "</Vertices></Region>"
        for corners, words in regions
    )
    return f'<Annotation Name="{name}"><Regions>{inner}</Regions></Annotation>'


def labels_of(path, *layers, shape=(40, 50), chosen=()):
    "Labels, and the sentence that says what was left out."
    put(path, f"<Annotations>{''.join(layers)}</Annotations>")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        labels = polygon_labels(path, shape, chosen)
    return labels, " ".join(str(one.message) for one in caught)


def rectangle(top, left, bottom, right):
    return [(top, left), (top, right), (bottom, right), (bottom, left)]


def filled(*boxes, shape=(40, 50)):
    labels = np.zeros(shape, np.int32)
    for number, (top, left, bottom, right) in boxes:
        labels[top : bottom + 1, left : right + 1] = number
    return labels


@pytest.mark.parametrize("corners", [[(4, 10), (24, 40)], [(24, 10), (4, 40)], rectangle(4, 10, 24, 40)])
def test_an_ellipse_fills_the_box_whose_corners_are_stored(tmp_path, corners):
    labels, said = labels_of(tmp_path / "a.xml", drawn((corners, 'Type="2"')))
    row, column = np.indices((40, 50))
    from_middle = np.hypot((row - 14) / 10, (column - 25) / 15)
    assert (labels[from_middle <= 1] == 1).all() and not labels[from_middle > 1.07].any() and not said
    assert labels[14, 10] == labels[14, 40] == labels[4, 25] == labels[24, 25] == 1


def test_rectangles_by_two_corners_or_by_four(tmp_path):
    two, four = [(12, 3), (4, 20)], rectangle(20, 5, 30, 45)
    labels, said = labels_of(tmp_path / "a.xml", drawn((two, 'Type="1"'), (four, 'Type="1"'), ([(35, 2), (35, 9)], "")))
    assert (labels == filled((1, (4, 3, 12, 20)), (2, (20, 5, 30, 45)), (3, (35, 2, 35, 9)))).all() and not said


def test_arrows_and_rulers_are_no_objects_and_that_is_said(tmp_path):
    line = [(2, 2), (30, 45)]
    other = drawn((line, 'Type="3"'), (SQUARE, 'Type="0"'), (line, 'Type="4"'), (line, 'Type="3"'), (line, 'Type="9"'))
    labels, said = labels_of(tmp_path / "a.xml", other)
    assert (labels == filled((1, (5, 5, 15, 15)))).all()
    assert said.endswith("a.xml: left out what is no area (arrow: 2, ruler: 1, Type 9: 1).")


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_a_hole_is_no_object_and_what_lies_in_it_is(tmp_path, order):
    "In any order; and a hole cuts its own layer only."
    regions = [
        (rectangle(2, 2, 30, 40), ""),
        (rectangle(8, 8, 24, 34), 'NegativeROA="1"'),
        (rectangle(12, 12, 18, 20), 'NegativeROA="0"'),
    ]
    labels, said = labels_of(tmp_path / "a.xml", drawn(*(regions[k] for k in order)))
    expected = filled((1, (2, 2, 30, 40)), (0, (8, 8, 24, 34)), (1, (12, 12, 18, 20))) > 0
    assert ((labels > 0) == expected).all() and labels.max() == 2 and not said
    assert labels[3, 3] != labels[14, 14]
    other = drawn((rectangle(10, 36, 20, 45), ""), (rectangle(26, 36, 28, 45), 'NegativeROA="true"'), name="other")
    both, _ = labels_of(tmp_path / "b.xml", drawn(*(regions[k] for k in order)), other)
    assert ((both > 0) == (expected | (filled((1, (10, 36, 20, 45))) > 0))).all() and both.max() == 3


def test_a_hole_larger_than_its_object_leaves_nothing(tmp_path):
    labels, _ = labels_of(tmp_path / "a.xml", drawn((rectangle(2, 2, 30, 40), 'NegativeROA="1"'), (SQUARE, "")))
    assert not labels.any()


NUCLEI_LAYER = drawn((SQUARE, ""), ([(20, 20), (20, 30), (30, 25)], ""), name="nuclei")


@pytest.mark.parametrize(
    ("corners", "words"),
    [(rectangle(0, 0, 39, 49), words) for words in ('Type="1"', 'Type="0"', "")] + [([(1, 1), (38, 48)], 'Type="1"')],
)
@pytest.mark.parametrize("first", [True, False])
def test_a_frame_is_left_out_and_said(tmp_path, words, corners, first):
    frame, alone = drawn((corners, words), name="looked at"), labels_of(tmp_path / "n.xml", NUCLEI_LAYER)[0]
    layers = [frame, NUCLEI_LAYER] if first else [NUCLEI_LAYER, frame]
    labels, said = labels_of(tmp_path / "a.xml", *layers)
    assert (labels == alone).all() and said.endswith(f"left out the frame in layer {1 if first else 2} looked at.")
    for chosen in (["nuclei"], ["2" if first else "1"]):
        labels, said = labels_of(tmp_path / "a.xml", *layers, chosen=chosen)
        assert (labels == alone).all() and not said
    assert (labels_of(tmp_path / "a.xml", *layers, chosen=["nuclei", "looked at"])[0] > 0).sum() > 1700


def test_a_frame_in_the_layer_of_the_objects_is_left_out(tmp_path):
    frame = (rectangle(0, 0, 39, 49), 'Type="1"')
    labels, said = labels_of(
        tmp_path / "a.xml", drawn((SQUARE, 'Type="0"'), frame, ([(20, 20), (30, 25), (25, 9)], ""))
    )
    assert labels.max() == 2 and labels[0, 0] == 0 and said.endswith("left out the frame in layer 1.")
    labels, said = labels_of(tmp_path / "b.xml", drawn((SQUARE, ""), (rectangle(0, 0, 30, 30), "")))  # of one type
    assert labels.max() == 2 and not said


def test_layers_of_objects_are_all_drawn(tmp_path):
    "As classes of nuclei are stored; rectangles that hold only some of the others are objects."
    other = drawn((rectangle(18, 18, 32, 32), ""), name="others")
    labels, said = labels_of(tmp_path / "a.xml", NUCLEI_LAYER, other)
    assert np.unique(labels).tolist() == [0, 1, 3] and not said
    aside = drawn((rectangle(33, 40, 38, 47), 'Type="1"'))
    assert labels_of(tmp_path / "b.xml", NUCLEI_LAYER, aside)[0].max() == 3


def test_layers_are_chosen_where_cases_are_found(tmp_path):
    put(tmp_path / "a.png", PICTURE)
    words = NUCLEI_LAYER.replace('Name="nuclei"', "").replace(
        "<Regions>",
        '<Attributes><Attribute Name="Description" Value=""/><Attribute Name="Epithelial"/></Attributes><Regions>',
    )
    put(tmp_path / "a.xml", f"<Annotations>{words}{drawn((rectangle(30, 2, 36, 9), ''), name='other')}</Annotations>")
    for chosen, size in (
        (("other",), 56),
        ("other", 56),
        (2, 56),
        (["Epithelial"], 121 + 66),
        (("1", "2"), 56 + 121 + 66),
    ):
        (paths,) = find_cases("folder", tmp_path, layers=chosen)
        assert abs((read_case(paths).labels > 0).sum() - size) <= 6
    (paths,) = find_cases("folder", tmp_path, layers=["lymphocytes"])
    with pytest.raises(ValueError, match=r"a.xml has no layer 'lymphocytes'; there are 1 Epithelial, 2 other\.$"):
        read_case(paths)
    (tmp_path / "a.xml").unlink()
    put(tmp_path / "a_mask.png", MASK)
    said = r" has no layers to choose \(other\): only Aperio XML files have\.$"
    for dataset, name in (("folder", "a_mask.png"), ("tissue", "scene 1000")):
        with pytest.raises(ValueError, match=name + said):
            find_cases(dataset, tmp_path, layers=["other"])


def independent(path, shape):
    "Is a pixel an object by ElementTree and matplotlib? And its distance to the nearest line."
    points = np.stack(np.indices(shape), axis=-1).reshape(-1, 2).astype(float)
    found, nearest = np.zeros(shape, bool), np.full(shape, np.inf)
    for layer in ElementTree.parse(path).getroot():
        areas = {"0": np.zeros(shape, bool), "1": np.zeros(shape, bool)}
        for region in layer.iter("Region"):
            corners = np.array([[float(one.get("Y")), float(one.get("X"))] for one in region.iter("Vertex")])
            if region.get("Type") == "2":
                angle = np.linspace(0, 2 * np.pi, 100, endpoint=False)[:, None]
                middle, half = corners.mean(0), np.ptp(corners, axis=0) / 2
                corners = middle + half * np.concatenate([np.sin(angle), np.cos(angle)], 1)
            areas[region.get("NegativeROA")] |= Outline(corners, closed=False).contains_points(points).reshape(shape)
            ends = zip(corners, np.roll(corners, -1, 0), strict=True)
            edge = np.concatenate([np.linspace(one, other, 60) for one, other in ends])
            nearest = np.minimum(nearest, cKDTree(edge).query(points)[0].reshape(shape))
        found |= areas["0"] & ~areas["1"]
    return found, nearest


@pytest.mark.parametrize("seed", range(6))
def test_two_readers_agree_on_polygons_holes_and_ellipses(tmp_path, seed):
    generator = np.random.default_rng(seed)

    def shape_at(row, column, radius):
        if generator.random() < 0.5:
            tall, wide = generator.integers(radius // 2, radius + 1, 2)
            return [(row - tall, column - wide), (row + tall, column + wide)], 'Type="2"'
        angle = np.sort(generator.uniform(0, 2 * np.pi, 9))
        return np.rint(np.stack([row + radius * np.sin(angle), column + radius * np.cos(angle)], 1)), 'Type="0"'

    objects = [shape_at(*place, 18) for place in ((20, 20), (20, 60), (55, 30), (58, 62))]
    holes = [shape_at(*place, 6) for place in ((20, 20), (55, 30), (40, 45))]
    regions = [(corners, f'{words} NegativeROA="0"') for corners, words in objects]
    regions += [(corners, f'{words} NegativeROA="1"') for corners, words in holes]
    regions = [regions[k] for k in generator.permutation(len(regions))]
    ours = labels_of(tmp_path / "a.xml", drawn(*regions[:4]), drawn(*regions[4:]), shape=(80, 84))[0] > 0
    theirs, distance = independent(tmp_path / "a.xml", (80, 84))
    assert (ours == theirs)[distance > 1.01].all() and 0.1 < ours.mean() < 0.7 and (distance > 1.01).mean() > 0.7


# ---- who is held out


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from("abcdefghijk"), min_size=2, max_size=60), st.floats(0.01, 0.95), st.integers(0, 1000))
def test_splits_keep_groups_whole(groups, fraction, seed):
    if len(set(groups)) < 2:
        return
    training, validation = split_cases(groups, fraction, seed)
    assert sorted(training + validation) == list(range(len(groups))) and training and validation
    assert not {groups[index] for index in training} & {groups[index] for index in validation}
    assert split_cases(groups, fraction, seed) == (training, validation)
    sizes = [groups.count(group) for group in set(groups)]
    if max(sizes) < fraction * len(groups) < len(groups) - max(sizes):
        assert abs(len(validation) - fraction * len(groups)) <= max(sizes) / 2 + 1e-9


def test_splits_of_single_images_are_exact_and_depend_on_the_seed():
    groups = [f"image-{number}" for number in range(30)]
    assert all(len(split_cases(groups, 0.2, seed)[1]) == 6 for seed in range(10))
    assert len({tuple(split_cases(groups, 0.2, seed)[1]) for seed in range(10)}) > 8
    assert split_cases(groups, 0, 0) == (list(range(30)), [])


def test_impossible_splits_are_refused():
    for groups, fraction in ((["a"] * 4, 0.2), ([], 0.5), (["a", "b"], 1.0), (["a", "b"], -0.1)):
        with pytest.raises(ValueError):
            split_cases(groups, fraction)


def test_one_large_group_is_never_held_out():
    assert all(split_cases(["a"] * 90 + ["b"] * 10, 0.2, seed)[1] == list(range(90, 100)) for seed in range(8))
    assert all(split_cases(["a"] * 50 + ["b"] * 50, 0.1, seed)[1] for seed in range(8))


def test_whole_patients_are_held_out_always_the_same():
    cases = [CasePaths(f"image-{k}", group=f"patient-{k % 7}") for k in range(35)]
    fitted, held_out = hold_out(cases, "glas")
    assert not {case.group for case in fitted} & {case.group for case in held_out}
    assert {*fitted, *held_out} == {*cases} and len(fitted) + len(held_out) == 35
    assert 5 <= len(held_out) <= 10  # a fifth is 7, and patients come in fives
    assert hold_out([*cases], "glas") == (fitted, held_out)


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_share_belongs_to_the_data_set(dataset):
    "Two fifths of data with several raters, a fifth of all others."
    cases = [CasePaths(str(k), group=str(k)) for k in range(20)]
    fitted, held_out = hold_out(cases, dataset)
    assert len(held_out) == (8 if dataset == "raters" else 4) and len(fitted) + len(held_out) == 20


SHIPPED = {  # data set: groups of as many images as it has, and the places that are held out of them
    "monuseg": ([f"{k:02}" for k in range(30)], [2, 4, 10, 11, 21, 26]),
    "raters": ([f"{k:02}" for k in range(26)], [2, 4, 6, 10, 11, 16, 19, 23, 24, 25]),
    "glas": ([f"patient-{k * k % 15}" for k in range(85)], [k for k in range(85) if k % 15 in (2, 7, 8, 13)]),
}


@pytest.mark.parametrize("dataset", SHIPPED)
def test_the_split_of_the_shipped_weights_stays(dataset):
    "What it was when they were trained: these places were found with the code of that time."
    groups, expected = SHIPPED[dataset]
    cases = [CasePaths(str(k), group=group) for k, group in enumerate(groups)]
    assert [int(case.name) for case in hold_out(cases, dataset)[1]] == expected


@pytest.mark.skipif("SDFDIFF_DATA" not in os.environ, reason="SDFDIFF_DATA does not name the folder of real data")
@pytest.mark.parametrize(("weights", "dataset"), [("nuclei", "monuseg"), ("glands", "glas"), ("glands_paper", "glas")])
def test_the_shipped_weights_name_what_find_cases_holds_out(weights, dataset):
    with safe_open(Path(__file__).parents[1] / "data" / f"{weights}.safetensors", "pt") as file:
        about = next(json.loads(text) for text in file.metadata().values() if "held_out" in text)
    held_out = about.get("about", about)["held_out"]
    found = find_cases(dataset, Path(os.environ["SDFDIFF_DATA"]) / dataset, "validation")
    assert [case.name for case in found] == held_out


# ---- found


def test_cases_by_number_and_by_name(tmp_path):
    root = folder(tmp_path / "mine")

    def names(split="all", only=None):
        return [case.name for case in find_cases("folder", root, split, only)]

    assert names() == ["0", "1", "2"] and names(only=2) == ["0", "1"] and names(only=["2", "0"]) == ["2", "0"]
    assert names("validation") == [case.name for case in hold_out(find_cases("folder", root), "folder")[1]]
    with pytest.raises(ValueError, match=r"^4 all cases are asked for, but .* has 3\.$"):
        names(only=4)
    with pytest.raises(ValueError, match="has no train case '9' that is asked for; there are 0, 1, 2"):
        names("train", ("0", "9"))


def test_what_is_unknown_or_missing(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'cells'; choose one of tissue, monuseg, glas, raters, fold"):
        find_cases("cells", tmp_path)
    with pytest.raises(ValueError, match="The data set glas needs its folder: give it as root"):
        find_cases("glas")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        find_cases("folder", tmp_path / "nowhere")


def test_scenes():
    assert [case.name for case in find_cases("tissue", only=2)] == ["scene 1000", "scene 1001"]
    assert len(find_cases("tissue")) == 16 and find_cases("tissue", split="test") == find_cases("tissue")
    assert [case.seed for case in find_cases("tissue", only=("scene 7", "scene 3"))] == [7, 3]
    for name in ("7", "scene", "scene x", "scene -1", "scene 1.5"):
        with pytest.raises(ValueError, match="scenes of tissue are named 'scene N'"):
            find_cases("tissue", only=[name])


# ---- read and prepared


@pytest.mark.parametrize("layout", ["npz", "files"])
def test_of_several_raters_there_is_one_answer(tmp_path, layout):
    "The majority's mask, not the first rater's: squares of 100, 196 and 324 pixels."
    masks = np.zeros((1, 3, 40, 36), np.uint8)
    for rater, half in enumerate((5, 7, 9)):
        masks[0, rater, 20 - half : 20 + half, 18 - half : 18 + half] = 1
    place = packed(tmp_path / "a.npz", image=IMAGES[:1], masks=masks, case=None)
    if layout == "files":
        place = pictures(tmp_path / "files", cases=1)
        for rater in range(3):
            Image.fromarray(masks[0, rater] * np.uint8(255)).save(place / f"p0_rater{rater + 1}.png")
    (paths,) = find_cases("raters", place)
    case = read_case(paths)
    assert case.raters.sum((1, 2)).tolist() == [100, 196, 324] and case.labels.sum() == 196
    assert prepare_case(paths, TISSUE).truth.sum() == prepare_case(case, TISSUE).truth.sum() == 196


def test_one_annotation_keeps_its_instances(tmp_path):
    put(tmp_path / "a.png", PICTURE)
    put(tmp_path / "a_mask.png", MASK)
    (paths,) = find_cases("folder", tmp_path)
    case = read_case(paths)
    assert case.raters is None and case.posterior is None and case.path == tmp_path / "a.png"
    np.testing.assert_array_equal(case.labels, MASK)
    np.testing.assert_array_equal(case.image, PICTURE / np.float32(255))


def test_a_scene_knows_its_raters_and_its_posterior():
    "Eight raters, each with a generator of its own; the first one is the truth."
    scene, case = tissue(1003), read_case(find_cases("tissue", only=["scene 1003"])[0])
    for k, labels in enumerate(case.raters):
        np.testing.assert_array_equal(labels, scene.rate(np.random.default_rng((1003, k))))
    assert len(case.raters) == 8 and case.name == case.group == "scene 1003" and case.path is None
    np.testing.assert_array_equal(case.labels, case.raters[0])
    np.testing.assert_array_equal(case.posterior, scene.probability())
    np.testing.assert_array_equal(case.image, scene.image)


@pytest.mark.parametrize("preparation", [TISSUE, NUCLEI, Preparation("none", "grey", size=(40, 24))])
def test_a_prepared_case_is_image_and_masks_on_the_same_pixels(preparation):
    case = read_case(find_cases("tissue", only=1)[0])
    seen = prepare_case(case, preparation)
    assert isinstance(seen, Prepared) and (seen.name, seen.group) == ("scene 1000", "scene 1000")
    np.testing.assert_array_equal(seen.image, prepare_image(case.image, preparation))
    np.testing.assert_array_equal(seen.truth, prepare_labels(case.labels, preparation) > 0)
    assert seen.image.shape[1:] == seen.truth.shape == seen.posterior.shape == seen.raters.shape[1:]
    assert seen.source_shape == (64, 64) and seen.truth.dtype == seen.raters.dtype == bool
    np.testing.assert_array_equal(seen.raters[3], prepare_labels(case.raters[3], preparation) > 0)
    if preparation == NUCLEI:  # half the size: the mean of four
        np.testing.assert_allclose(seen.posterior, case.posterior.reshape(32, 2, 32, 2).mean(axis=(1, 3)), atol=1e-12)


def slides(root, **shapes):
    "Images of these shapes in noise, each with an annotation."
    for name, shape in shapes.items():
        put(root / f"{name}.png", NUMBERS.integers(0, 256, (*shape, 3), dtype=np.uint8))
        put(root / f"{name}_anno.png", np.eye(*shape, dtype=np.uint8))
    return root


@pytest.mark.parametrize(
    ("dataset", "shape", "microns"),
    [
        ("glas", (522, 775), 0.62),
        ("glas", (430, 567), 0.62),
        ("glas", (567, 430), 0.62),
        ("glas", (261, 388), 1.24),
        ("glas", (215, 283), 1.24),
        ("monuseg", (100, 100), 0.25),
        ("folder", (522, 775), None),
    ],
)
def test_what_is_known_of_a_pixel(tmp_path, dataset, shape, microns):
    "MoNuSeg is at 40x; GlaS has 0.62 um, and twice as much where a copy has half the size."
    (paths,) = find_cases(dataset, slides(tmp_path, train_1=shape))
    assert read_case(paths).microns == microns
    assert paths.microns in (microns, 0.62)


def test_pixels_of_other_cases_are_unknown(tmp_path):
    for paths in (*find_cases("tissue", only=1), find_cases("raters", packed(tmp_path / "a.npz"))[0]):
        assert paths.microns is None and read_case(paths).microns is None
    mine = replace(find_cases("folder", slides(tmp_path / "mine", a=(40, 60)))[0], microns=0.4)
    assert read_case(mine).microns == 0.4 and prepare_case(mine, NUCLEI).truth.shape == (32, 48)


def test_a_case_is_prepared_at_the_size_of_its_pixels(tmp_path):
    "GlaS at full and at half size look alike; sizes, and weights without micrometres, stay what they were."
    full, half = find_cases("glas", slides(tmp_path, train_1=(522, 775), train_2=(261, 388)))
    for paths in (full, half):
        seen = prepare_case(paths, GLANDS)
        assert seen.image.shape == (3, *seen.truth.shape) == (3, 130, 194)
        assert prepare_case(paths, GLANDS_PAPER).truth.shape == (128, 128)
    assert prepare_case(half, replace(GLANDS, microns=None)).truth.shape == (65, 97)


def test_nuclei_see_what_they_saw(tmp_path):
    "MoNuSeg with today's preparation, and with that of weights whose header has no micrometres: equal to the bit."
    (paths,) = find_cases("monuseg", slides(tmp_path, train_1=(101, 96)))
    case, old = read_case(paths), replace(NUCLEI, microns=None)
    today, before = (prepare_case(case, preparation) for preparation in (NUCLEI, old))
    np.testing.assert_array_equal(today.image, before.image)
    np.testing.assert_array_equal(today.truth, before.truth)
    np.testing.assert_array_equal(today.image, see_image(case.image, old)[0])


@pytest.mark.skipif(not QUBIQ.exists(), reason="the real data are not here")
def test_seven_real_raters():
    found = find_cases("raters", QUBIQ.parent)
    case = read_case(found[3])
    assert (
        len(found) == 26
        and case.raters.shape == (7, 128, 128)
        and case.image.shape == (128, 128)
        and 0 < case.labels.mean() < 1
    )


def test_label_images_from_a_folder_of_their_own(tmp_path):
    "Cases named there get their instances, others keep their masks; what fits nothing is an error."
    for name in ("a", "b"):
        put(tmp_path / "data" / "images" / f"{name}.png", PICTURE)
        put(tmp_path / "data" / "masks" / f"{name}.png", (MASK > 0).astype(np.uint8) * 255)
    put(tmp_path / "instances" / "b.png", MASK)
    plain = find_cases("folder", tmp_path / "data")
    first, second = find_cases("folder", tmp_path / "data", instances=tmp_path / "instances")
    assert first == plain[0] and read_case(first).labels.max() == 1
    assert second.name == "b" and second.image == plain[1].image and (read_case(second).labels == MASK).all()
    with pytest.raises(ValueError, match="none named as an image: a, b"):
        find_cases("folder", tmp_path / "data", instances=tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        find_cases("folder", tmp_path / "data", instances=tmp_path / "nowhere")
