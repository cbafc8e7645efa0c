"Layouts of data sets as users have them: which files belong together, to which split and to which patient."

import os
from pathlib import Path

import numpy as np
import pytest
from small_folders import MASK, PICTURE, SQUARE, aperio, put

from sdfdiff.files import read_labels
from sdfdiff.images.cases import CasePaths, find_cases, read_case
from sdfdiff.images.layouts import find_files
from sdfdiff.images.preparation import GLANDS, GLANDS_PAPER, NUCLEI, prepare_image

TWO = ["TCGA-AR-A1AS-01Z-00-DX1", "TCGA-AR-A1AS-02Z-00-DX1"]


def found(dataset, root, split="all"):
    "The rows of a data set, by name."
    return [CasePaths(*row) for row in find_files(dataset, root, split)]


def names(cases):
    return [case.name for case in cases]


def test_monuseg_training_layout(tmp_path):
    root = tmp_path / "data" / "MoNuSeg 2018 Training Data"
    for name in TWO:
        put(root / "Tissue Images" / f"{name}.tif", PICTURE)
        put(root / "Binary Masks" / f"{name}.png", MASK * np.uint8(127))
    put(root / "Annotations" / f"{TWO[0]}.xml", aperio(SQUARE))
    for place in (root, root.parent):
        cases = found("monuseg", str(place), "train")
        assert names(cases) == TWO
        assert [case.annotations[0].suffix for case in cases] == [".xml", ".png"]  # polygons win
        assert {case.group for case in cases} == {"TCGA-AR-A1AS"}
        with pytest.raises(FileNotFoundError, match="no test images"):
            found("monuseg", place, "test")
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
    cases = found("monuseg", tmp_path / folder, "test")
    assert names(cases) == TWO and np.unique(read_case(cases[1]).labels).tolist() == [0, 1, 2]


def test_monuseg_both_halves_below_one_root(tmp_path):
    put(tmp_path / "a" / "MoNuSegTrainData" / "Tissue Images" / "TCGA-1-1-1.png", PICTURE)
    put(tmp_path / "a" / "MoNuSegTrainData" / "Masks" / "TCGA-1-1-1_bin_mask.png", MASK)
    put(tmp_path / "a" / "MoNuSegTestData" / "TCGA-2-2-2.tif", PICTURE)
    put(tmp_path / "a" / "MoNuSegTestData" / "TCGA-2-2-2.xml", aperio(SQUARE))
    for split, expected in (("train", ["TCGA-1-1-1"]), ("test", ["TCGA-2-2-2"]), ("all", ["TCGA-2-2-2", "TCGA-1-1-1"])):
        assert names(found("monuseg", tmp_path / "a", split)) == expected


def glas(root, suffix, below=""):
    for name in ("train_1", "train_2", "train_10", "testA_1", "testB_1"):
        put(root / below / f"{name}{suffix}", PICTURE)
        put(root / below / f"{name}_anno{suffix}", MASK)


@pytest.mark.parametrize("suffix", [".bmp", ".png"])
@pytest.mark.parametrize("below", ["", "Warwick QU Dataset (Released 2016_07_08)"])
def test_glas_layout(tmp_path, suffix, below):
    root = tmp_path / "glas"
    glas(root, suffix, below)
    assert names(found("glas", root, "train")) == ["train_1", "train_2", "train_10"]
    assert names(found("glas", root, "test")) == ["testA_1", "testB_1"]
    assert len(found("glas", root)) == 5
    assert [case.group for case in found("glas", root, "test")] == ["testA_1", "testB_1"]  # no table
    assert (read_case(found("glas", root, "train")[0]).labels == MASK).all()


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
    groups = [case.group for case in found("glas", tmp_path / "glas", "all")]
    assert groups == ["patient-3", "testB_1", "patient-1", "patient-3", "patient-1"]  # testB_1 is not in the table


def test_glas_table_of_another_kind_is_refused(tmp_path):
    glas(tmp_path / "glas", ".png")
    put(tmp_path / "glas" / "Grade.csv", "image;patient\ntrain_1;2\n")
    with pytest.raises(ValueError, match="Grade.csv has no columns"):
        found("glas", tmp_path / "glas", "train")


def test_glas_copies_outside_the_training_folder_are_left_out(tmp_path):
    glas(tmp_path / "glas", ".png", "train")
    glas(tmp_path / "glas", ".bmp", "original_format")
    assert len(found("glas", tmp_path / "glas", "train")) == 3


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
        ("{}.png", "{}_cp_masks.png"),
        ("{}.PNG", "{}_MASK.TIFF"),
        ("{}.png", "mask_{}.png"),
        ("images/{}.png", "masks/mask_{}.png"),
        ("segmentation data/images/{}.png", "segmentation data/masks/{}.png"),
    ],
)
def test_plain_folders(tmp_path, images, masks):
    root = tmp_path / "mine"
    for name in ("one", "two 2", "x.3"):
        put(root / images.format(name), PICTURE)
        put(root / masks.format(name), aperio(SQUARE) if masks.endswith("xml") else MASK)
    for split in ("train", "test", "all"):  # no folder names a split: the user's word is taken
        cases = found("folder", root, split)
        assert names(cases) == ["one", "two 2", "x.3"] == [case.group for case in cases]
    assert read_case(cases[0]).image.shape == (40, 50, 3)


def pairs(root):
    "File names of image and annotation."
    return [(case.image.name, case.annotations[0].name) for case in found("folder", root)]


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("{}_img.png", "{}_masks.png"),  # Cellpose's training data
        ("{}_img.png", "{}_img_cp_masks.png"),
        ("img_{}.png", "mask_{}.png"),
        ("image{}.png", "mask{}.png"),
        ("images/img_{}.png", "masks/mask_{}.png"),
        ("images/slide{}_seg.png", "masks/slide{}_seg.png"),  # what looks like a mask is an image
        ("images/slide{}_seg.png", "masks/slide{}_seg_mask.png"),
        ("mask_{}.tif", "mask_{}.xml"),
        ("gt_{}.png", "gt_{}_mask.png"),
        ("images/a{}_label.png", "labels/a{}_label.png"),
        ("patient{}/image.png", "patient{}/mask.png"),
    ],
)
def test_marks_of_images_and_masks(tmp_path, images, masks):
    for number in ("000", "001", "012"):
        put(tmp_path / images.format(number), PICTURE)
        put(tmp_path / masks.format(number), aperio(SQUARE) if masks.endswith("xml") else MASK)
    expected = [(Path(images.format(number)).name, Path(masks.format(number)).name) for number in ("000", "001", "012")]
    assert pairs(tmp_path) == expected and len(set(names(found("folder", tmp_path)))) == 3


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (("a.png", "a_mask.png", "a_labels.png"), "a_labels.png and .*a_mask.png both annotate a; keep one"),
        (("images/a.png", "masks/a.png", "masks/a_mask.png"), "a.png and .*a_mask.png both annotate a; keep one"),
        (("a.png", "mask_a.png", "a_cp_masks.png"), "a_cp_masks.png and .*mask_a.png both annotate a; keep one"),
        (("a_img.png", "img_a.png", "a_mask.png"), "a_mask.png fits .*a_img.png and .*img_a.png; keep one of them"),
        (("a.png", "a_img.png", "a_mask.png"), "no annotation for a_img;"),
        (("images/a_seg.png", "images/b_seg.png", "masks/a_seg.png"), "no annotation for b_seg;"),
        (("a.png", "mask.png"), "no annotation for a;"),
        (("mask.png",), "no image for mask;"),
    ],
)
def test_what_fits_twice_or_not_at_all_is_said(tmp_path, files, words):
    for name in files:
        put(tmp_path / name, MASK if "mask" in name or "label" in name else PICTURE)
    with pytest.raises(ValueError, match=words):
        found("folder", tmp_path)


def test_composed_and_decomposed_names_meet(tmp_path):
    "macOS stores the accent behind its letter, Linux and Windows the letter with its accent."
    composed, decomposed = "M\u00fcller \u00e9", "Mu\u0308ller e\u0301"
    put(tmp_path / "mine" / "images" / f"{decomposed}.png", PICTURE)
    put(tmp_path / "mine" / "masks" / f"{composed}.png", MASK)
    assert names(found("folder", tmp_path / "mine")) == [composed]
    for name in (composed, decomposed):
        assert find_cases("folder", tmp_path / "mine", only=[name])[0].image.name == f"{decomposed}.png"
    put(tmp_path / "rated" / f"{composed}.png", PICTURE)
    for number in (1, 2):
        put(tmp_path / "rated" / f"{decomposed}_rater{number}.png", MASK)
    assert names(found("raters", tmp_path / "rated")) == [composed]
    put(tmp_path / "places" / f"{composed} images" / "a.png", PICTURE)
    put(tmp_path / "places" / f"{decomposed} masks" / "a.png", MASK)
    assert names(found("folder", tmp_path / "places")) == ["a"]


def test_what_systems_leave_behind_is_no_image(tmp_path):
    for place in ("mine", "rated"):
        put(tmp_path / place / "a.png", PICTURE)
        for name in ("._a.png", "._a_mask.png", ".hidden.png", "__MACOSX/._b.png", "__MACOSX/b.png", "Thumbs.db"):
            put(tmp_path / place / name, b"Mac OS X        ")
        put(tmp_path / place / "desktop.ini", "[.ShellClassInfo]")
    put(tmp_path / "mine" / "a_seg.npy", b"of Cellpose")
    put(tmp_path / "mine" / "a_mask.png", MASK)
    for number in (1, 2):
        put(tmp_path / "rated" / f"a_rater{number}.png", MASK)
    assert pairs(tmp_path / "mine") == [("a.png", "a_mask.png")]
    assert names(found("raters", tmp_path / "rated")) == ["a"]
    np.savez(tmp_path / "rated" / "a.npz", image=PICTURE[None], masks=np.stack([MASK > 0] * 2)[None])
    put(tmp_path / "rated" / "._a.npz", b"resource fork")
    assert names(find_cases("raters", tmp_path / "rated")) == ["0"]


def test_splits_below_a_plain_folder(tmp_path):
    for split in ("train", "test", "val"):
        put(tmp_path / "mine" / f"{split}_images" / "1.png", PICTURE)
        put(tmp_path / "mine" / f"{split}_masks" / "1.png", MASK)
    for split in ("train", "test"):
        (case,) = found("folder", tmp_path / "mine", split)
        assert case.image.parent.name == f"{split}_images" and case.annotations[0].parent.name == f"{split}_masks"
    everything = found("folder", tmp_path / "mine", "all")
    assert sorted(names(everything)) == ["test-1", "train-1", "val-1"] and len({case.group for case in everything}) == 3


def test_the_same_name_in_two_numbered_folders_is_two_cases(tmp_path):
    for number in (1, 2):
        put(tmp_path / "mine" / f"patient{number}" / "images" / "a.png", PICTURE)
        put(tmp_path / "mine" / f"patient{number}" / "masks" / "a.png", MASK)
    assert names(found("folder", tmp_path / "mine")) == ["patient1-a", "patient2-a"]


def test_names_that_only_contain_a_split(tmp_path):
    for root in ("latest", "strains", "contest"):
        put(tmp_path / root / "a.png", PICTURE)
        put(tmp_path / root / "a_mask.png", MASK)
        assert all(len(found("folder", tmp_path / root, split)) == 1 for split in ("train", "test"))


def test_links_are_followed(tmp_path):
    put(tmp_path / "disk" / "images" / "a.png", PICTURE)
    put(tmp_path / "disk" / "masks" / "a.png", MASK)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "linked").symlink_to(tmp_path / "disk", target_is_directory=True)
    assert names(found("folder", tmp_path / "mine")) == ["a"]


@pytest.mark.parametrize("dataset", ["monuseg", "glas", "folder"])
@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_empty_and_missing_folders_say_what_is_expected(tmp_path, dataset, split):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match="nothing holds no .*; expected .*NAME|nothing holds no .*train_N"):
        found(dataset, tmp_path / "nothing", split)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        found(dataset, tmp_path / "nowhere", split)


def test_missing_partners_are_named(tmp_path):
    root = tmp_path / "mine"
    for number in range(8):
        put(root / "images" / f"slide_{number}.png", PICTURE)
    put(root / "masks" / "slide_3.png", MASK)
    with pytest.raises(ValueError, match="no annotation for slide_0, slide_1, slide_2, slide_4, slide_5 and 2 more;"):
        found("folder", root)
    put(tmp_path / "other" / "masks" / "lost.png", MASK)
    with pytest.raises(ValueError, match="no image for lost"):
        found("folder", tmp_path / "other")


def test_two_images_of_one_name_are_refused(tmp_path):
    put(tmp_path / "mine" / "a.png", PICTURE)
    put(tmp_path / "mine" / "a.tif", PICTURE)
    put(tmp_path / "mine" / "a_mask.png", MASK)
    with pytest.raises(ValueError, match="a.png and .*a.tif have the same name"):
        found("folder", tmp_path / "mine")


def test_unknown_words_are_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown data set 'x'; choose one of monuseg, glas, raters, folder"):
        found("x", tmp_path)
    with pytest.raises(ValueError, match="unknown split 'x'; choose one of train, test, all"):
        found("folder", tmp_path, "x")


@pytest.mark.skipif("SDFDIFF_DATA" not in os.environ, reason="SDFDIFF_DATA does not name the folder of real data")
def test_real_data_sets():
    root = Path(os.environ["SDFDIFF_DATA"])
    cases = found("monuseg", root / "monuseg", "train")
    assert len(cases) == 30 and len({case.group for case in cases}) == 30
    polygons = [case for case in cases if case.annotations[0].suffix == ".xml"]
    assert len(polygons) == 4
    for case in polygons:  # exact with Pillow up to 10; since 11 it fills single pixels at sharp corners otherwise
        mask = read_labels(case.annotations[0].parent.parent / "Binary Masks" / f"{case.name}.png")
        assert ((read_case(case).labels > 0) != (mask > 0)).sum() <= 5
    assert prepare_image(read_case(polygons[0]).image, NUCLEI).shape == (1, 500, 500)
    cases = found("glas", root / "glas", "train")
    assert len(cases) == 85 and len({case.group for case in cases}) == 15
    image = read_case(cases[0]).image
    assert prepare_image(image, GLANDS_PAPER).shape == (3, 128, 128)
    assert prepare_image(image, GLANDS.at_microns(1.24)).shape == (3, 130, 194)
    assert len(found("folder", root / "dsb2018")) == 96
