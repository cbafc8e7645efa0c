"Folders and files with several raters per image, and everything that may be wrong with them."

import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdfdiff.diffusion.fitting import SETTINGS, load_pairs, training_split
from sdfdiff.images import cases as raters
from sdfdiff.images import layouts as histology
from sdfdiff.images.cases import RatedCase, RatedPaths, find_cases, read_case
from sdfdiff.images.layouts import CasePaths
from sdfdiff.study.evaluation import find_split

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
        assert isinstance(case, RatedCase) and isinstance(paths, RatedPaths) and case.name == case.group == f"p{k}"
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
    monkeypatch.setattr(raters, "LARGEST", 20000)
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
    refused(tmp_path / "nowhere", "does not exist", kind=FileNotFoundError)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no images", kind=FileNotFoundError)
    refused(pictures(tmp_path / "one", raters=1), "at least two raters for p0")
    place = pictures(tmp_path / "lonely")
    (place / "p3.png").unlink()
    refused(place, "at least two raters for p3")
    place = pictures(tmp_path / "size", cases=1)
    Image.fromarray(MASKS[0, 0, :9]).save(place / "p0_rater2.png")
    with pytest.raises(ValueError, match="p0_rater2.png has 9 x 36 pixels, p0.png 40 x 36; expected one size."):
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


@pytest.mark.parametrize("split", ["test", "validation", "other"])
def test_there_is_no_official_split(tmp_path, split):
    with pytest.raises(ValueError, match=f"no official {split} split; choose train, validation or all"):
        find_cases("raters", packed(tmp_path / "a.npz"), split)


# ---- what others do with it


def test_other_data_sets_pass_through(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
        Image.fromarray(IMAGES[0] if part == "images" else MASKS[0, 0]).save(tmp_path / part / "a.png")
    ours, theirs = find_cases("folder", tmp_path), histology.find_cases("folder", tmp_path)
    assert ours == theirs and type(ours[0]) is CasePaths
    one, other = read_case(ours[0]), histology.read_case(theirs[0])
    assert type(one) is type(other) is histology.Case
    np.testing.assert_array_equal(one.image, other.image)
    np.testing.assert_array_equal(one.labels, other.labels)
    with pytest.raises(ValueError, match="unknown data set 'cells'"):
        find_cases("cells", tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        find_cases("folder", tmp_path / "nowhere")


def test_one_pair_per_rater(tmp_path):
    "Training sees each rater of the fitted images, and nothing of those held out."
    path, setting = packed(tmp_path / "a.npz"), SETTINGS["raters"]
    pairs, held_out = load_pairs("raters", path, setting, progress=False)
    fitted, kept = training_split(find_cases("raters", path, "train"), setting.validation)
    assert (
        held_out == [case.name for case in kept]
        and len(held_out) == round(0.4 * 5)
        and len(pairs.images) == 3 * len(fitted)
    )
    inside = [(distance < 0.25).numpy() for distance in pairs.distances]
    for k, paths in enumerate(fitted):
        for rater in range(3):
            np.testing.assert_array_equal(inside[3 * k + rater], MASKS[int(paths.name[1:]), rater])
            np.testing.assert_allclose(pairs.images[3 * k + rater][0], IMAGES[int(paths.name[1:])] / 255, atol=1e-6)
    assert [case.name for case in find_split("raters", path, "validation")] == held_out


def test_other_fractions_are_held_out():
    cases = [CasePaths(str(k), Path(), Path(), str(k)) for k in range(20)]
    for fraction in (0.1, 0.2, 0.4):
        fitted, held_out = training_split(cases, fraction)
        assert (
            len(held_out) == round(20 * fraction)
            and {*fitted} | {*held_out} == {*cases}
            and not {*fitted} & {*held_out}
        )
    assert training_split(cases) == training_split(cases, 0.2)


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
