"Layouts of data sets as users have them, annotation files from strangers, and splits by patient."

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from PIL import Image

from sdfdiff.files import read_labels
from sdfdiff.images.layouts import (
    DATASETS,
    GLANDS,
    NUCLEI,
    find_cases,
    polygon_labels,
    prepare_image,
    read_case,
    split_cases,
)

PICTURE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
MASK = np.zeros((40, 50), np.uint8)
MASK[5:15, 5:20], MASK[20:36, 10:40] = 1, 2
SQUARE = [(5, 5), (5, 15), (15, 15), (15, 5)]
TWO = ["TCGA-AR-A1AS-01Z-00-DX1", "TCGA-AR-A1AS-02Z-00-DX1"]


def put(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(content).save(path)


def aperio(*regions, root="Annotations"):
    "An annotation file from corners (row, column)."
    inner = "".join(
        "<Region><Vertices>"
        + "".join(f'<Vertex X="{column}" Y="{row}"/>' for row, column in corners)
        + "</Vertices></Region>"
        for corners in regions
    )
    return f"<{root}><Annotation><Regions>{inner}</Regions></Annotation></{root}>"


def names(cases):
    return [case.name for case in cases]


def test_monuseg_training_layout(tmp_path):
    root = tmp_path / "data" / "MoNuSeg 2018 Training Data"
    for name in TWO:
        put(root / "Tissue Images" / f"{name}.tif", PICTURE)
        put(root / "Binary Masks" / f"{name}.png", MASK * np.uint8(127))
    put(root / "Annotations" / f"{TWO[0]}.xml", aperio(SQUARE))
    for place in (root, root.parent):
        cases = find_cases("monuseg", str(place), "train")
        assert names(cases) == TWO
        assert [case.annotation.suffix for case in cases] == [".xml", ".png"]  # polygons win
        assert {case.group for case in cases} == {"TCGA-AR-A1AS"}
        with pytest.raises(FileNotFoundError, match="no test images"):
            find_cases("monuseg", place, "test")
    assert read_case(cases[0]).labels.max() == 1


@pytest.mark.parametrize("folder", ["MoNuSegTestData", "test", "anything"])
@pytest.mark.parametrize("suffix", [".tif", ".png", ".TIF"])
def test_monuseg_flat_test_layout(tmp_path, folder, suffix):
    for name in TWO:
        if suffix == ".TIF":
            put(tmp_path / folder / "name.tif", PICTURE)
            (tmp_path / folder / "name.tif").rename(tmp_path / folder / f"{name}{suffix}")
        else:
            put(tmp_path / folder / f"{name}{suffix}", PICTURE)
        put(tmp_path / folder / f"{name}.xml", aperio(SQUARE, [(20, 20), (20, 30), (30, 25)]))
    put(tmp_path / folder / "._TCGA-hidden.tif", b"resource fork")
    put(tmp_path / folder / "Readme.txt", "read me")
    cases = find_cases("monuseg", tmp_path / folder, "test")
    assert names(cases) == TWO and np.unique(read_case(cases[1]).labels).tolist() == [0, 1, 2]


def test_monuseg_both_halves_below_one_root(tmp_path):
    put(tmp_path / "a" / "MoNuSegTrainData" / "Tissue Images" / "TCGA-1-1-1.png", PICTURE)
    put(tmp_path / "a" / "MoNuSegTrainData" / "Masks" / "TCGA-1-1-1_bin_mask.png", MASK)
    put(tmp_path / "a" / "MoNuSegTestData" / "TCGA-2-2-2.tif", PICTURE)
    put(tmp_path / "a" / "MoNuSegTestData" / "TCGA-2-2-2.xml", aperio(SQUARE))
    for split, expected in (("train", ["TCGA-1-1-1"]), ("test", ["TCGA-2-2-2"]), ("all", ["TCGA-2-2-2", "TCGA-1-1-1"])):
        assert names(find_cases("monuseg", tmp_path / "a", split)) == expected


def glas(root, suffix, below=""):
    for name in ("train_1", "train_2", "train_10", "testA_1", "testB_1"):
        put(root / below / f"{name}{suffix}", PICTURE)
        put(root / below / f"{name}_anno{suffix}", MASK)


@pytest.mark.parametrize("suffix", [".bmp", ".png"])
@pytest.mark.parametrize("below", ["", "Warwick QU Dataset (Released 2016_07_08)"])
def test_glas_layout(tmp_path, suffix, below):
    root = tmp_path / "glas"
    glas(root, suffix, below)
    assert names(find_cases("glas", root, "train")) == ["train_1", "train_2", "train_10"]
    assert names(find_cases("glas", root, "test")) == ["testA_1", "testB_1"]
    assert len(find_cases("glas", root)) == 5
    assert [case.group for case in find_cases("glas", root, "test")] == ["testA_1", "testB_1"]  # no table
    assert (read_case(find_cases("glas", root, "train")[0]).labels == MASK).all()


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
@pytest.mark.parametrize("place", ["glas/Grade.csv", "glas/data/Grade.csv", "Grade.csv"])
def test_glas_patients_from_a_table_with_odd_line_ends(tmp_path, end, place):
    glas(tmp_path / "glas", ".bmp", "data")
    lines = [
        "name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)",
        "train_1, 1, benign, adenomatous",
        "train_2,3, malignant, moderately differentiated",
        "train_10,1, benign, healthy",
        "testA_1, 3, benign, healthy",
        "",
    ]
    put(tmp_path / place, end.join(lines).encode())
    groups = [case.group for case in find_cases("glas", tmp_path / "glas", "all")]
    assert groups == ["patient-3", "testB_1", "patient-1", "patient-3", "patient-1"]  # testB_1 is not in the table


def test_glas_table_of_another_kind_is_refused(tmp_path):
    glas(tmp_path / "glas", ".png")
    put(tmp_path / "glas" / "Grade.csv", "image;patient\ntrain_1;2\n")
    with pytest.raises(ValueError, match="Grade.csv has no columns"):
        find_cases("glas", tmp_path / "glas", "train")


def test_glas_copies_outside_the_training_folder_are_left_out(tmp_path):
    glas(tmp_path / "glas", ".png", "train")
    glas(tmp_path / "glas", ".bmp", "original_format")
    assert len(find_cases("glas", tmp_path / "glas", "train")) == 3


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images/{}.png", "masks/{}.png"),
        ("image/{}.png", "mask/{}.png"),
        ("img/{}.jpg", "labels/{}.png"),
        ("imgs/{}.tif", "GT/{}.bmp"),
        ("Images/{}.png", "Masks/{}_mask.png"),
        ("{}.png", "{}_mask.png"),
        ("{}.jpg", "{}_label.png"),
        ("{}.png", "{}_anno.bmp"),
        ("{}.png", "{}-labels.tif"),
        ("slides/{}.png", "slides/masks/{}.png"),
        ("p1/images/{}.png", "p1/GroundTruth/{}.png"),
        ("images1/{}.png", "masks1/{}.png"),
        ("{}.png", "{}.xml"),
    ],
)
def test_plain_folders(tmp_path, images, masks):
    root = tmp_path / "mine"
    for name in ("one", "two 2", "x.3"):
        put(root / images.format(name), PICTURE)
        put(root / masks.format(name), aperio(SQUARE) if masks.endswith("xml") else MASK)
    for split in ("train", "test", "all"):  # no folder names a split: the user's word is taken
        cases = find_cases("folder", root, split)
        assert names(cases) == ["one", "two 2", "x.3"] == [case.group for case in cases]
    assert read_case(cases[0]).image.shape == (40, 50, 3)


def test_splits_below_a_plain_folder(tmp_path):
    for split in ("train", "test", "val"):
        put(tmp_path / "mine" / f"{split}_images" / "1.png", PICTURE)
        put(tmp_path / "mine" / f"{split}_masks" / "1.png", MASK)
    for split in ("train", "test"):
        (case,) = find_cases("folder", tmp_path / "mine", split)
        assert case.image.parent.name == f"{split}_images" and case.annotation.parent.name == f"{split}_masks"
    everything = find_cases("folder", tmp_path / "mine", "all")
    assert sorted(names(everything)) == ["test-1", "train-1", "val-1"] and len({case.group for case in everything}) == 3


def test_the_same_name_in_two_numbered_folders_is_two_cases(tmp_path):
    for number in (1, 2):
        put(tmp_path / "mine" / f"patient{number}" / "images" / "a.png", PICTURE)
        put(tmp_path / "mine" / f"patient{number}" / "masks" / "a.png", MASK)
    assert names(find_cases("folder", tmp_path / "mine")) == ["patient1-a", "patient2-a"]


def test_names_that_only_contain_a_split(tmp_path):
    for root in ("latest", "strains", "contest"):
        put(tmp_path / root / "a.png", PICTURE)
        put(tmp_path / root / "a_mask.png", MASK)
        assert all(len(find_cases("folder", tmp_path / root, split)) == 1 for split in ("train", "test"))


def test_links_are_followed(tmp_path):
    put(tmp_path / "disk" / "images" / "a.png", PICTURE)
    put(tmp_path / "disk" / "masks" / "a.png", MASK)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert names(find_cases("folder", tmp_path / "mine")) == ["a"]


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_empty_and_missing_folders_say_what_is_expected(tmp_path, dataset, split):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match="nothing holds no .*; expected .*NAME|nothing holds no .*train_N"):
        find_cases(dataset, tmp_path / "nothing", split)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        find_cases(dataset, tmp_path / "nowhere", split)


def test_missing_partners_are_named(tmp_path):
    root = tmp_path / "mine"
    for number in range(8):
        put(root / "images" / f"slide_{number}.png", PICTURE)
    put(root / "masks" / "slide_3.png", MASK)
    with pytest.raises(ValueError, match="no annotation for slide_0, slide_1, slide_2, slide_4, slide_5 and 2 more;"):
        find_cases("folder", root)
    put(tmp_path / "other" / "masks" / "lost.png", MASK)
    with pytest.raises(ValueError, match="no image for lost"):
        find_cases("folder", tmp_path / "other")


def test_two_images_of_one_name_are_refused(tmp_path):
    put(tmp_path / "mine" / "a.png", PICTURE)
    put(tmp_path / "mine" / "a.tif", PICTURE)
    put(tmp_path / "mine" / "a_mask.png", MASK)
    with pytest.raises(ValueError, match="a.png and .*a.tif have the same name"):
        find_cases("folder", tmp_path / "mine")


def test_unknown_words_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'x'; choose one of monuseg, glas, folder"):
        find_cases("x", tmp_path)
    with pytest.raises(ValueError, match="unknown split 'x'; choose one of train, test, all"):
        find_cases("folder", tmp_path, "x")


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


@pytest.mark.skipif("SDFDIFF_DATA" not in os.environ, reason="SDFDIFF_DATA does not name the folder of real data")
def test_real_data_sets():
    root = Path(os.environ["SDFDIFF_DATA"])
    cases = find_cases("monuseg", root / "monuseg", "train")
    assert len(cases) == 30 and len({case.group for case in cases}) == 30
    polygons = [case for case in cases if case.annotation.suffix == ".xml"]
    assert len(polygons) == 4
    for case in polygons:  # exact with Pillow up to 10; since 11 it fills single pixels at sharp corners otherwise
        mask = read_labels(case.annotation.parent.parent / "Binary Masks" / f"{case.name}.png")
        assert ((read_case(case).labels > 0) != (mask > 0)).sum() <= 5
    assert prepare_image(read_case(polygons[0]).image, NUCLEI).shape == (1, 500, 500)
    cases = find_cases("glas", root / "glas", "train")
    assert len(cases) == 85 and len({case.group for case in cases}) == 15
    assert prepare_image(read_case(cases[0]).image, GLANDS).shape == (3, 128, 128)
    assert len(find_cases("folder", root / "dsb2018")) == 96
