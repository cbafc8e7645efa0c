"What lies in a folder: every mistake is found, with its file, and a good folder has none."

import numpy as np
import pytest
from small_folders import MASK, PICTURE, SQUARE, aperio, put

from sdfdiff.images.annotations import polygon_labels
from sdfdiff.images.inventory import guessed_dataset, take_inventory

OTHER = PICTURE[::-1].copy()


def inventory(root, dataset="folder"):
    return take_inventory(root, dataset, progress=False)


def folder(root, count=4):
    for k in range(count):
        put(root / "images" / f"{k}.png", np.roll(PICTURE, k, axis=0))
        put(root / "masks" / f"{k}.png", (MASK > 0).astype(np.uint8) * 255)
    return root


def test_a_good_folder_has_no_problem(tmp_path):
    found = inventory(folder(tmp_path))
    assert found.problems == () and [case.name for case in found.cases] == ["0", "1", "2", "3"]
    assert "rows x columns: 40 x 50 (4)" in found.remarks and str(found).endswith("no problem was found")


SPOIL = {
    "no annotation": (lambda root: (root / "masks/1.png").unlink(), "images/1.png has no annotation."),
    "no image": (lambda root: (root / "images/1.png").unlink(), "masks/1.png has no image that it belongs to."),
    "cut off": (lambda root: put(root / "images/1.png", (root / "images/1.png").read_bytes()[:900]), "images/1.png"),
    "no image file": (lambda root: put(root / "images/1.png", "text"), "images/1.png"),
    "sizes": (lambda root: put(root / "masks/1.png", MASK[:30]), "masks/1.png has 30 x 50 pixels, but 1.png 40 x 50"),
    "twice": (lambda root: put(root / "images/1.tif", np.roll(PICTURE, 1, axis=0)), "have the same name"),
    "all object": (lambda root: put(root / "masks/1.png", MASK * 0 + 1), "masks/1.png calls every pixel object"),
}


@pytest.mark.parametrize("kind", SPOIL)
def test_each_mistake_is_one_sentence_that_names_the_file(tmp_path, kind):
    spoil, said = SPOIL[kind]
    spoil(folder(tmp_path))
    (sentence,) = inventory(tmp_path).problems
    assert said in sentence and "\n" not in sentence


def test_all_mistakes_are_named_at_once(tmp_path):
    folder(tmp_path, 8)
    (tmp_path / "masks/2.png").unlink()
    put(tmp_path / "images/3.png", "text")
    put(tmp_path / "masks/4.png", MASK[:30])
    put(tmp_path / "images/9.png", np.roll(PICTURE, 1, axis=0))
    put(tmp_path / "masks/9.png", MASK)
    found = inventory(tmp_path)
    assert [
        word for word in ("2.png", "3.png", "4.png", "9.png") if not any(word in one for one in found.problems)
    ] == []
    assert len(found.problems) == 4 and len(found.cases) == 6


def test_a_picture_in_two_formats_is_the_same_picture(tmp_path):
    folder(tmp_path)
    put(tmp_path / "images/again.tif", PICTURE)
    put(tmp_path / "masks/again.png", MASK)
    (sentence,) = inventory(tmp_path).problems
    assert "0.png" in sentence and "again.tif" in sentence and "the same picture" in sentence


@pytest.mark.parametrize(("share", "doubtful"), [(0.5, 0), (0.7, 1)])
def test_most_of_the_pixels_object_is_doubtful(tmp_path, share, doubtful):
    for k in range(4):
        put(tmp_path / f"{k}.png", np.roll(PICTURE, k, axis=0))
        put(tmp_path / f"{k}_mask.png", (np.arange(50) < 50 * share)[None].repeat(40, 0).astype(np.uint8))
    assert len(inventory(tmp_path).problems) == doubtful


def test_masks_without_any_object(tmp_path):
    for k in range(2):
        put(tmp_path / f"{k}.png", np.roll(PICTURE, k, axis=0))
        put(tmp_path / f"{k}_mask.png", MASK * 0)
    (sentence,) = inventory(tmp_path).problems
    assert "No mask has an object" in sentence


@pytest.mark.parametrize("half", ["images", "masks"])
def test_one_level_too_low(tmp_path, half):
    (sentence,) = inventory(folder(tmp_path / "data") / half).problems
    assert sentence == f"{tmp_path / 'data' / half} holds one half only: give the folder above, {tmp_path / 'data'}."


def test_the_folder_above_is_not_named_for_images_of_another_project(tmp_path):
    folder(tmp_path / "lab" / "project")
    put(tmp_path / "lab" / "new" / "a.png", PICTURE)
    (sentence,) = inventory(tmp_path / "lab" / "new").problems
    assert sentence.endswith("a.png has no annotation.")


def test_what_is_no_folder(tmp_path):
    assert inventory(tmp_path / "nowhere").problems == (f"{tmp_path / 'nowhere'} does not exist.",)
    put(tmp_path / "a.png", PICTURE)
    assert "is a file; the folder of the data set is needed" in inventory(tmp_path / "a.png").problems[0]
    (sentence,) = inventory(tmp_path / "b" if (tmp_path / "b").mkdir() else tmp_path / "b").problems
    assert "holds no images" in sentence
    with pytest.raises(ValueError, match="unknown data set 'cifar'; choose one of"):
        inventory(tmp_path, "cifar")


def test_images_of_one_patient_or_one_image_cannot_be_trained_on(tmp_path):
    (sentence,) = inventory(folder(tmp_path / "one", 1)).problems
    assert "All training images (1) are of 0: none can be held out" in sentence
    folder(tmp_path / "two" / "train", 1)
    folder(tmp_path / "two" / "test", 3)
    assert "none can be held out" in inventory(tmp_path / "two").problems[-1]


def test_files_that_nobody_uses_are_named(tmp_path):
    folder(tmp_path)
    put(tmp_path / "notes.svs", "slide")
    put(tmp_path / ".hidden" / "x.png", PICTURE)
    assert "not used: 1 file (notes.svs)" in inventory(tmp_path).remarks


def test_links_that_lead_back_count_once(tmp_path):
    folder(tmp_path)
    (tmp_path / "a").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path)
    found = inventory(tmp_path)
    assert len(found.cases) == 4 and found.problems == ()


@pytest.mark.parametrize(
    ("extra", "kind"),
    [
        ("features.npz", "folder"),
        (".cache.npz", "folder"),
        ("interrater_agreement.xlsx", "folder"),
        ("images/TCGA-A-0.png", "monuseg"),
        ("TCGA-A-0_rater1.png", "raters"),
        ("train_3_anno.bmp", "glas"),
    ],
)
def test_the_kind_is_guessed_from_pictures(tmp_path, extra, kind):
    put(folder(tmp_path) / extra, "text")
    assert guessed_dataset(tmp_path) == kind
    assert f"as {kind} (guessed)" in inventory(tmp_path, None).remarks[0]


def test_blank_tiles_are_no_doubles_and_colours_do_not_hide_them(tmp_path):
    folder(tmp_path, 2)
    for k, shape in enumerate(((40, 50), (50, 40), (40, 50))):
        put(tmp_path / f"images/blank{k}.png", np.zeros(shape, np.uint8))
        put(tmp_path / f"masks/blank{k}.png", np.eye(*shape, dtype=np.uint8))
    found = inventory(tmp_path)
    assert found.problems == () and "blank images: 3" in found.remarks
    grey = PICTURE[..., :1]
    for k, content in enumerate((grey[..., 0], grey.repeat(3, 2))):
        put(tmp_path / f"images/grey{k}.png", content)
        put(tmp_path / f"masks/grey{k}.png", MASK)
    (sentence,) = inventory(tmp_path).problems
    assert "grey0.png" in sentence and "grey1.png are the same picture" in sentence


def test_glas_and_its_patients(tmp_path):
    for k in range(3):
        put(tmp_path / f"train_{k}.bmp", np.roll(PICTURE, k, axis=0))
        put(tmp_path / f"train_{k}_anno.bmp", MASK)
    put(tmp_path / "testA_1.bmp", OTHER)
    put(tmp_path / "testA_1_anno.bmp", MASK)
    assert guessed_dataset(tmp_path) == "glas"
    found = inventory(tmp_path, None)
    assert found.problems == () and "training images: 3, others: 1" in found.remarks
    assert "Grade.csv, which names the patients, does not name 4 images" in found.remarks
    assert not any(one.startswith("size") for one in found.remarks), "40 x 50 is no size of GlaS"
    put(tmp_path / "Grade.csv", "name,patient ID\n" + "".join(f"train_{k},7\n" for k in range(3)))
    (sentence,) = inventory(tmp_path, "glas").problems
    assert "All training images (3) are of patient-7" in sentence
    assert "does not name 1 image" in str(inventory(tmp_path, "glas"))


@pytest.mark.parametrize("outline", [True, False])
def test_masks_beside_polygons_tell_their_convention(tmp_path, outline):
    names = ["TCGA-AR-A1AS-01Z-00-DX1", "TCGA-B0-5698-01Z-00-DX1"]
    for k, name in enumerate(names):
        put(tmp_path / "Tissue Images" / f"{name}.tif", np.roll(PICTURE, k, axis=0))
        put(tmp_path / "Annotations" / f"{name}.xml", aperio(SQUARE))
        mask = polygon_labels(tmp_path / "Annotations" / f"{name}.xml", (40, 50)) > 0
        put(
            tmp_path / "Binary Masks" / f"{name}.png",
            (mask if outline else np.pad(mask[1:-1], 1)[:, :50] & np.roll(mask, 1, 1)).astype(np.uint8),
        )
    assert guessed_dataset(tmp_path) == "monuseg"
    (said,) = [one for one in inventory(tmp_path, None).remarks if one.startswith("masks beside polygons")]
    assert ("as here" if outline else "another rule") in said and "2;" in said


def test_raters_in_one_archive(tmp_path):
    image, masks = np.stack([PICTURE[..., 0], OTHER[..., 0]]), np.zeros((2, 3, 40, 50), np.uint8)
    masks[:, :, 5:20, 5:20] = 1
    np.savez(tmp_path / "train.npz", image=image, masks=masks)
    assert guessed_dataset(tmp_path) == "raters"
    found = inventory(tmp_path, None)
    assert found.problems == () and "raters: 3" in found.remarks
    put(tmp_path / "train.npz", (tmp_path / "train.npz").read_bytes()[:300])
    (sentence,) = inventory(tmp_path, "raters").problems
    assert "train.npz" in sentence
    np.savez(tmp_path / "train.npz", image=image[[0, 0]], masks=masks)
    (sentence,) = inventory(tmp_path, "raters").problems
    assert "train.npz, 0, and" in sentence and "train.npz, 1, are the same picture" in sentence


def test_one_rater_is_too_few(tmp_path):
    for k in range(2):
        put(tmp_path / f"c{k}.png", np.roll(PICTURE, k, axis=0))
        for rater in range(1 + k):
            put(tmp_path / f"c{k}_rater{rater}.png", MASK)
    assert f"{tmp_path / 'c0.png'} has fewer than two raters." in inventory(tmp_path, None).problems


@pytest.mark.parametrize("kind", ["damaged", "colour", "empty", "other size"])
def test_masks_beside_polygons_that_are_of_no_use(tmp_path, kind):
    for k, name in enumerate(("TCGA-AR-A1AS-01", "TCGA-B0-5698-01")):
        put(tmp_path / "Tissue Images" / f"{name}.tif", np.roll(PICTURE, k, axis=0))
        put(tmp_path / "Annotations" / f"{name}.xml", aperio(SQUARE))
        put(tmp_path / ".cache" / "masks" / f"{name}.png", PICTURE)
    bad = {"damaged": "text", "colour": PICTURE, "empty": MASK * 0, "other size": MASK[:20]}[kind]
    put(tmp_path / "Binary Masks" / "TCGA-AR-A1AS-01.png", bad)
    found = inventory(tmp_path, "monuseg")
    (sentence,) = found.problems
    assert len(found.cases) == 2 and "TCGA-AR-A1AS-01.png" in sentence
