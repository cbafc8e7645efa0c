"Reading images and labels in the forms users have; writing all or nothing."

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from sdfdiff.files import read_image, read_labels, write_png, writing

RAMP = np.linspace(0, 1, 40 * 30).reshape(40, 30)
COLOUR = np.stack([RAMP, RAMP**2, 1 - RAMP], axis=2)


def eight(values):
    return np.round(values * 255).astype(np.uint8)


def sixteen(values):
    return np.round(values * 65535).astype(np.uint16)


def pillow(array, mode=None, **options):
    def write(path):
        picture = Image.fromarray(array)
        (picture.convert(mode) if mode else picture).save(path, **options)

    return write


def tiff(array, **options):
    return lambda path: tifffile.imwrite(path, array, **options)


PLANES = {"photometric": "rgb", "planarconfig": "separate"}


@pytest.mark.parametrize(
    ("name", "write", "expected", "tolerance"),
    [
        ("grey8.png", pillow(eight(RAMP)), RAMP, 0.5 / 255),
        ("grey16.png", pillow(sixteen(RAMP)), RAMP, 0.5 / 65535),
        ("greyalpha.png", pillow(eight(RAMP), "LA"), RAMP, 0.5 / 255),
        ("bit.png", pillow(RAMP > 0.5), RAMP > 0.5, 0),
        ("colour8.png", pillow(eight(COLOUR)), COLOUR, 0.5 / 255),
        ("alpha.png", pillow(eight(COLOUR), "RGBA"), COLOUR, 0.5 / 255),
        ("CAPITAL.PNG", pillow(eight(COLOUR)), COLOUR, 0.5 / 255),
        ("palette.png", pillow(eight(COLOUR), "P", colors=256), COLOUR, 0.25),
        ("colour.bmp", pillow(eight(COLOUR)), COLOUR, 0.5 / 255),
        ("colour.jpg", pillow(eight(COLOUR), quality=95, subsampling=0), COLOUR, 0.05),
        ("grey.jpg", pillow(eight(RAMP), quality=95), RAMP, 0.03),
        ("cmyk.jpg", pillow(eight(COLOUR), "CMYK", quality=95), COLOUR, 0.05),
        ("lzw.tif", pillow(eight(COLOUR), compression="tiff_lzw"), COLOUR, 0.5 / 255),
        ("deflate.tif", pillow(eight(COLOUR), compression="tiff_deflate"), COLOUR, 0.5 / 255),
        ("grey16.tif", tiff(sixteen(RAMP)), RAMP, 0.5 / 65535),
        ("bigendian.tif", tiff(sixteen(RAMP), byteorder=">"), RAMP, 0.5 / 65535),
        ("colour16.tif", tiff(sixteen(COLOUR), photometric="rgb"), COLOUR, 0.5 / 65535),
        ("planes8.tif", tiff(eight(COLOUR).transpose(2, 0, 1), **PLANES), COLOUR, 0.5 / 255),
        ("planes16.tif", tiff(sixteen(COLOUR).transpose(2, 0, 1), **PLANES), COLOUR, 0.5 / 65535),
        ("float.tif", tiff(RAMP.astype(np.float32)), RAMP, 1e-7),
        ("double.tif", tiff(RAMP), RAMP, 1e-7),
        ("floatcolour.tif", tiff(COLOUR.astype(np.float32), photometric="rgb"), COLOUR, 1e-7),
    ],
)
def test_every_form_gives_intensities(tmp_path, name, write, expected, tolerance):
    write(tmp_path / name)
    image = read_image(str(tmp_path / name))
    assert image.dtype == np.float32 and image.shape == expected.shape
    assert 0 <= image.min() and image.max() <= 1
    assert np.abs(image - expected).max() <= tolerance + 1e-6


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("text.png", lambda path: path.write_text("no image"), "not an image"),
        ("empty.png", lambda path: path.write_bytes(b""), "not an image"),
        ("stack.tif", tiff(np.zeros((5, 20, 20), np.uint8), photometric="minisblack"), "5 pages"),
        ("hole.tif", tiff(np.full((20, 20), np.nan, np.float32)), "NaN"),
        ("endless.tif", tiff(np.full((20, 20), np.inf, np.float32)), "infinite"),
        ("negative.tif", tiff(np.full((20, 20), -7, np.int16)), "-7"),
        ("folder.png", lambda path: path.mkdir(), "folder"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_what_is_no_image_is_refused_in_one_sentence(tmp_path, name, write, words, read):
    write(tmp_path / name)
    with pytest.raises(ValueError) as problem:
        read(tmp_path / name)
    sentence = str(problem.value)
    assert name in sentence and words in sentence and "\n" not in sentence and sentence[-1] in ".?"


def test_float_images_need_a_known_scale(tmp_path):
    tifffile.imwrite(tmp_path / "counts.tif", np.full((20, 20), 7, np.float32))
    with pytest.raises(ValueError, match="counts.tif has values from 7 to 7; expected 0 to 1"):
        read_image(tmp_path / "counts.tif")


def test_damaged_files_are_refused(tmp_path):
    for name, options in (("a.png", {}), ("a.tif", {}), ("a.jpg", {}), ("a.bmp", {})):
        Image.fromarray(eight(COLOUR)).save(tmp_path / name, **options)
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ValueError, match="damaged|not an image"):
            read_image(tmp_path / name)


def test_missing_file(tmp_path):
    for read in (read_image, read_labels):
        with pytest.raises(FileNotFoundError, match="nothing.png"):
            read(tmp_path / "nothing.png")


OBJECT = np.zeros((24, 20), np.uint8)
OBJECT[3:9, 4:16] = 1
INSTANCES = OBJECT.copy()
INSTANCES[12:20, 4:10] = 5


@pytest.mark.parametrize(
    "write",
    [
        pillow(OBJECT),
        pillow(OBJECT * np.uint8(255)),
        pillow(OBJECT * np.uint8(255), "LA"),
        pillow(OBJECT, "RGB"),
        pillow(OBJECT * np.uint8(255), "RGBA"),
        pillow(OBJECT.astype(bool)),
        pillow(OBJECT.astype(np.uint16) * 65535),
        pillow(OBJECT * np.uint8(255), "P"),
    ],
)
def test_every_form_of_mask_gives_0_and_1(tmp_path, write):
    write(tmp_path / "mask.png")
    labels = read_labels(tmp_path / "mask.png")
    assert labels.dtype == np.int32 and (labels == OBJECT).all()


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [(np.uint8, "png"), (np.uint16, "png"), (np.uint8, "bmp"), (np.int32, "tif"), (np.float32, "tif")],
)
def test_instances_keep_their_numbers(tmp_path, kind, suffix):
    (tifffile.imwrite if suffix == "tif" else lambda path, array: Image.fromarray(array).save(path))(
        tmp_path / f"map.{suffix}", INSTANCES.astype(kind)
    )
    assert (read_labels(tmp_path / f"map.{suffix}") == INSTANCES).all()


def test_colour_palette_labels_are_indices(tmp_path):
    indexed = Image.new("P", INSTANCES.shape[::-1])
    indexed.putpalette([0, 0, 0, 200, 30, 30, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20, 90, 250])
    indexed.putdata(INSTANCES.ravel().tolist())
    indexed.save(tmp_path / "map.png")
    assert (read_labels(tmp_path / "map.png") == INSTANCES).all()


def test_blank_masks(tmp_path):
    for value, expected in ((0, 0), (255, 1)):
        Image.fromarray(np.full((10, 10), value, np.uint8)).save(tmp_path / "mask.png")
        assert (read_labels(tmp_path / "mask.png") == expected).all()


def test_soft_and_lossy_masks_are_cut_at_half(tmp_path):
    large = Image.fromarray(OBJECT * np.uint8(255)).resize((80, 96), Image.Resampling.BICUBIC)
    large.save(tmp_path / "soft.png")
    large.save(tmp_path / "lossy.jpg", quality=80)
    hard = np.asarray(large) >= 128
    assert (read_labels(tmp_path / "soft.png") == hard).all()
    lossy = read_labels(tmp_path / "lossy.jpg")
    assert set(np.unique(lossy)) == {0, 1} and (lossy != hard).mean() < 0.01


def test_a_map_with_255_instances_is_no_soft_mask(tmp_path):
    numbers = np.repeat(np.arange(256, dtype=np.uint8), 4).reshape(32, 32)
    Image.fromarray(numbers).save(tmp_path / "map.png")
    assert (read_labels(tmp_path / "map.png") == numbers).all()


def test_colours_and_fractions_are_no_labels(tmp_path):
    Image.fromarray(eight(COLOUR)).save(tmp_path / "picture.png")
    tifffile.imwrite(tmp_path / "half.tif", INSTANCES.astype(np.float32) / 2)
    for name in ("picture.png", "half.tif"):
        with pytest.raises(ValueError, match=name):
            read_labels(tmp_path / name)


def test_writing_replaces_at_the_end_only(tmp_path):
    path = tmp_path / "new" / "result.csv"
    with writing(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".csv" and not path.exists()
        temporary.write_text("one")
    with writing(path) as temporary:
        temporary.write_text("two")
        assert path.read_text() == "one"
    assert path.read_text() == "two" and [file.name for file in path.parent.iterdir()] == ["result.csv"]


@pytest.mark.parametrize("problem", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError])
def test_interrupted_writing_leaves_nothing_behind(tmp_path, problem):
    path = tmp_path / "result.csv"
    path.write_text("old")
    with pytest.raises((KeyboardInterrupt, OSError, ValueError)), writing(path) as temporary:
        temporary.write_text("half")
        raise problem
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_writing_a_folder(tmp_path):
    for content in ("one", "two"):
        with writing(tmp_path / "store.zarr") as temporary:
            temporary.mkdir()
            (temporary / "part").write_text(content)
        assert (tmp_path / "store.zarr" / "part").read_text() == content
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "store.zarr") as temporary:
        temporary.mkdir()
        (temporary / "part").write_text("three")
        raise KeyboardInterrupt
    assert (tmp_path / "store.zarr" / "part").read_text() == "two" and len(list(tmp_path.iterdir())) == 1


def test_writing_nothing_is_an_error_and_keeps_the_old(tmp_path):
    (tmp_path / "result.csv").write_text("old")
    with pytest.raises(FileNotFoundError), writing(tmp_path / "result.csv"):
        pass
    assert (tmp_path / "result.csv").read_text() == "old"


def test_no_overwriting_without_force(tmp_path):
    path = write_png(tmp_path / "a.png", OBJECT, force=False)
    with pytest.raises(FileExistsError, match="force=True"):
        write_png(path, INSTANCES, force=False)
    assert (np.asarray(Image.open(path)) == OBJECT).all()


@settings(max_examples=25, deadline=None)
@given(arrays(np.uint16, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_sixteen_bits_survive(tmp_path_factory, array):
    path = write_png(tmp_path_factory.mktemp("png") / "a.png", array)
    assert (np.asarray(Image.open(path)) == array).all()
    assert np.allclose(read_image(path), array / 65535, atol=1e-7)


def test_written_kinds(tmp_path):
    assert (np.asarray(Image.open(write_png(tmp_path / "a.png", OBJECT > 0))) == OBJECT * 255).all()
    assert np.abs(read_image(write_png(tmp_path / "b.png", COLOUR)) - COLOUR).max() <= 0.5 / 255 + 1e-6
    assert Image.open(write_png(tmp_path / "c.png", eight(np.dstack([COLOUR, RAMP])))).mode == "RGBA"


@pytest.mark.parametrize(
    "array",
    [
        RAMP + 0.5,
        RAMP - 0.5,
        np.full((4, 4), np.nan),
        INSTANCES.astype(np.int32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4),
        sixteen(COLOUR),
    ],
)
def test_what_is_no_picture_is_not_written(tmp_path, array):
    with pytest.raises(ValueError, match="a.png"):
        write_png(tmp_path / "a.png", array)
    assert not list(tmp_path.iterdir())
