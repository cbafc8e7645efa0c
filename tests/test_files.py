"Reading images and labels in the forms users have; writing all or nothing; datasets, today's and older ones."

import io
import json
import os
import pickle
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageFilter

from sdfdiff.files import (
    DiskFull,
    Exists,
    Refused,
    check_writable,
    read_dataset,
    read_image,
    read_labels,
    with_current_names,
    write_dataset,
    write_png,
    writing,
)

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


def discs(count, radius, shape=(96, 112), seed=0):
    "An instance map of discs, one over the other."
    generator, (row, column) = np.random.default_rng(seed), np.indices(shape)
    labels = np.zeros(shape, np.int32)
    for number in range(1, count + 1):
        away = np.hypot(row - generator.uniform(0, shape[0]), column - generator.uniform(0, shape[1]))
        labels[away < radius * generator.uniform(0.7, 1.3)] = number
    return labels


def through_jpeg(picture, quality):
    picture.save(buffer := io.BytesIO(), "JPEG", quality=quality)
    return Image.open(buffer)


HARD = discs(8, 11) > 0
BRIGHT = Image.fromarray(HARD * np.uint8(255))
LARGE = Image.fromarray(OBJECT * np.uint8(255)).resize((80, 96), Image.Resampling.BICUBIC)
SOFT = {  # name: a mask with grey edges
    "bicubic.png": LARGE,
    "bilinear.png": BRIGHT.resize((224, 192), Image.Resampling.BILINEAR),
    "smaller.png": BRIGHT.resize((80, 70), Image.Resampling.LANCZOS),
    "blurred.png": BRIGHT.filter(ImageFilter.GaussianBlur(1)),
    "once jpeg 50.png": through_jpeg(BRIGHT, 50),
    "once jpeg 95.png": through_jpeg(BRIGHT, 95),
    "once jpeg, resized.png": through_jpeg(BRIGHT, 75).resize((168, 144), Image.Resampling.BICUBIC),
    "lossy.jpg": LARGE,
    "lossy.tif": BRIGHT,
}


@pytest.mark.parametrize("name", SOFT)
def test_soft_and_lossy_masks_are_cut_at_half(tmp_path, name):
    "With a warning; 16 bits and floating point alike."
    options = {"compression": "jpeg"} if name == "lossy.tif" else {}
    SOFT[name].save(tmp_path / name, **options)
    hard = np.asarray(SOFT[name]) >= 128
    with pytest.warns(UserWarning, match=rf"{name} is read as a mask with softened edges \(\d+ values\): object from"):
        labels = read_labels(tmp_path / name)
    assert labels.dtype == np.int32 and set(np.unique(labels)) == {0, 1} and (labels != hard).mean() < 0.01
    if name.endswith("png"):
        assert (labels == hard).all()
        for values in (np.asarray(SOFT[name]) * np.uint16(257), np.asarray(SOFT[name]) / np.float32(255)):
            tifffile.imwrite(tmp_path / "a.tif", values)
            with pytest.warns(UserWarning, match="softened"):
                assert (read_labels(tmp_path / "a.tif") == hard).all()


@pytest.mark.parametrize(("count", "radius"), [(255, 5), (300, 2.5), (700, 1.2), (255, 12)])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.filterwarnings("error")
def test_crowds_of_small_instances_are_no_soft_mask(tmp_path, count, radius, shuffled):
    labels = discs(count, radius, (160, 160)) % 256
    if shuffled:
        labels = np.r_[0, 1 + np.random.default_rng(1).permutation(255)][labels]
    labels[:3, :3], labels[5:8, :3] = 255, 0
    for kind in (np.uint8, np.uint16):
        Image.fromarray(labels.astype(kind)).save(tmp_path / "map.png")
        assert (read_labels(tmp_path / "map.png") == labels).all()


@pytest.mark.filterwarnings("error")
def test_thin_instances_stay(tmp_path):
    labels = np.zeros((40, 60), np.uint8)
    for k, number in enumerate((1, 90, 130, 200, 255)):
        labels[4 + 7 * k, 3:-3] = number
    Image.fromarray(labels).save(tmp_path / "map.png")
    assert (read_labels(tmp_path / "map.png") == labels).all()


def raters(values, shift=9):
    "The mean of several raters, each of whom saw the object somewhere else."
    return sum(np.roll(HARD, (k * shift, k * shift), (0, 1)) for k in range(values)) / values


def levels(*values):
    return np.array(values)[np.minimum(discs(5, 12) % 6, len(values) - 1)]


UNCLEAR = {
    "four raters": np.floor(raters(4) * 255).astype(np.uint8),
    "two raters": np.round(raters(2) * 255).astype(np.uint8),
    "16 bits": np.round(raters(4) * 65535).astype(np.uint16),
    "63 127 191": levels(0, 63, 127, 191).astype(np.uint8),
    "85 255": levels(0, 85, 255).astype(np.uint8),
    "85 170 255": levels(0, 85, 170, 255).astype(np.uint8),
    "ignore": levels(0, 1, 2, 255).astype(np.uint8),
    "ignore in 16 bits": levels(0, 1, 2, 65535).astype(np.uint16),
    "without 0": levels(1, 2).astype(np.uint8),
    "without 0 in 16 bits": levels(3, 400, 5).astype(np.uint16),
    "mean in floating point": raters(4).astype(np.float32),
}


@pytest.mark.parametrize("what", UNCLEAR)
@pytest.mark.filterwarnings("error")
def test_unclear_levels_are_refused(tmp_path, what):
    "Classes, raters, what to ignore: one sentence with the values and what would be right."
    tifffile.imwrite(tmp_path / "map.tif", UNCLEAR[what])
    with pytest.raises(ValueError, match="map.tif has ") as problem:
        read_labels(tmp_path / "map.tif")
    words = "no 0, which means background" if "without" in what else "labels are whole" if "float" in what else "save 0"
    assert words in str(problem.value) and str(problem.value).endswith(".")


def test_a_jpeg_holds_no_numbers(tmp_path):
    for name, array in (("labels", INSTANCES), ("mask", OBJECT), ("photograph", eight(COLOUR))):
        Image.fromarray(array).save(tmp_path / f"{name}.jpg", quality=95)
        with pytest.raises(ValueError, match=f"{name}.jpg is a (JPEG, which changes numbers|colour image)"):
            read_labels(tmp_path / f"{name}.jpg")
    for value in (0, 255):
        Image.new("L", (16, 16), value).save(tmp_path / "blank.jpg")
        assert (read_labels(tmp_path / "blank.jpg") == value // 255).all()


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 30, 40)])
@pytest.mark.parametrize("below", [True, False])
def test_masks_in_the_alpha_channel(tmp_path, colour, below):
    "One colour on a transparent ground, with the colour or with black below it; softened edges too."
    picture = np.zeros((*HARD.shape, 4), np.uint8)
    picture[..., :3] = colour if below else HARD[..., None] * np.uint8(colour)
    picture[..., 3] = HARD * np.uint8(255)
    for path in (tmp_path / "a.png", tmp_path / "a.tif"):
        Image.fromarray(picture).save(path)
        assert (read_labels(path) == HARD).all()
    picture[..., 3] = np.asarray(BRIGHT.filter(ImageFilter.GaussianBlur(1)))
    picture[..., :3] = colour
    Image.fromarray(picture).save(tmp_path / "soft.png")
    with pytest.warns(UserWarning, match="softened"):
        assert (read_labels(tmp_path / "soft.png") == (picture[..., 3] > 127)).all()


def test_labels_and_opacity(tmp_path):
    "Labels on a transparent ground stay; labels below transparency, or another mask in it, are refused."
    values = np.dstack([INSTANCES, (INSTANCES > 0) * np.uint8(255)])
    Image.fromarray(values).save(tmp_path / "a.png")
    assert (read_labels(tmp_path / "a.png") == INSTANCES).all()
    for alpha in (255 - values[..., 1], 0 * values[..., 1], np.where(INSTANCES == 5, 100, 255).astype(np.uint8)):
        Image.fromarray(np.dstack([INSTANCES, alpha])).save(tmp_path / "b.png")
        with pytest.raises(ValueError, match="b.png has a mask and a transparency that differ; save the mask alone"):
            read_labels(tmp_path / "b.png")


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_labels_of_sixteen_bits_with_channels(tmp_path, channels):
    "Pillow cuts these to 8 bits, and labels below 256 vanish."
    grey = INSTANCES.astype(np.uint16)
    layers = [grey] * (1 if channels == 2 else 3) + [np.full_like(grey, 65535)] * (channels != 3)
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(np.dstack(layers)))
    assert (read_labels(tmp_path / "a.png") == INSTANCES).all()


def test_palettes_whose_greys_say_less_than_their_entries(tmp_path):
    "Greys are read if each entry has its own; otherwise the entries."
    for greys, expected in (([0, 40, 70, 90, 110, 200], {0, 40, 200}), ([0] * 6, {0, 1, 5})):
        indexed = Image.fromarray(INSTANCES, "L").convert("P")
        indexed = Image.frombytes("P", indexed.size, INSTANCES.tobytes())
        indexed.putpalette([grey for grey in greys for _ in range(3)])
        indexed.save(tmp_path / "map.png")
        assert set(np.unique(read_labels(tmp_path / "map.png"))) == expected


def test_masks_are_numbers_and_not_light(tmp_path):
    "White is zero: a photograph is inverted, a mask is not."
    for stored, labels in (
        (OBJECT > 0, OBJECT),
        (OBJECT * np.uint8(255), OBJECT),
        (INSTANCES, INSTANCES),
        (INSTANCES * np.uint16(999), INSTANCES * np.int32(999)),
    ):
        tifffile.imwrite(tmp_path / "m.tif", stored, photometric="miniswhite")
        assert (read_labels(tmp_path / "m.tif") == labels).all()


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


def fill(path, word, folder):
    "Something with a content, as a file or in a folder."
    if folder:
        path.mkdir()
        path = path / "part"
    path.write_text(word)


def held(path):
    return (path / "part" if path.is_dir() else path).read_text()


@pytest.mark.parametrize("links", [True, False], ids=["links", "a disk without links"])
@pytest.mark.parametrize("folder", [True, False], ids=["folder", "file"])
def test_what_appears_while_something_is_written_stays(tmp_path, monkeypatch, folder, links):
    "Two programs write one name: the second is refused in one sentence, and neither loses anything of the first."
    if not links:
        monkeypatch.setattr(os, "link", lambda *paths: (_ for _ in ()).throw(OSError(95, "Operation not supported")))
    path = tmp_path / "a.zarr"
    said = (
        "a.zarr was made by another program in the meantime: pass force=True to replace it, or resume=True to go on.$"
    )
    with pytest.raises(Exists, match=said), writing(path, force=False, resume="to go on") as temporary:
        fill(temporary, "second", folder)
        fill(path, "first", folder)
    assert held(path) == "first" and [one.name for one in tmp_path.iterdir()] == ["a.zarr"]
    with writing(tmp_path / "b.zarr", force=False) as temporary:
        fill(temporary, "alone", folder)
    assert held(tmp_path / "b.zarr") == "alone" and len(list(tmp_path.iterdir())) == 2


def test_an_empty_folder_that_appears_stays_too(tmp_path):
    with pytest.raises(Exists), writing(tmp_path / "a.zarr", force=False) as temporary:
        fill(temporary, "second", True)
        (tmp_path / "a.zarr").mkdir()
    assert not list((tmp_path / "a.zarr").iterdir())


@pytest.mark.parametrize("there", [True, False])
def test_force_replaces_the_folder_that_was_there_and_no_other(tmp_path, there):
    "A store that another program has put in its place is not the one that was to be replaced."
    path = tmp_path / "a.zarr"
    if there:
        fill(path, "old", True)
    with pytest.raises(Exists, match="by another program in the meantime"), writing(path, force=True) as temporary:
        fill(temporary, "second", True)
        if there:
            path.rename(tmp_path / "away")
        fill(path, "first", True)
    assert held(path) == "first" and not list(tmp_path.glob(".writing*"))


def test_a_folder_does_not_replace_a_file(tmp_path):
    (tmp_path / "a.zarr").write_text("mine")
    with pytest.raises(NotADirectoryError, match="a.zarr"), writing(tmp_path / "a.zarr") as temporary:
        fill(temporary, "second", True)
    assert (tmp_path / "a.zarr").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


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


# ---- errors that know a way out


@pytest.mark.parametrize(("kind", "caught"), [(Exists, FileExistsError), (Refused, ValueError), (DiskFull, OSError)])
def test_errors_say_what_helps_in_two_spellings(kind, caught):
    "In Python's words and in the command line's; one way, several, and none."
    one = kind("a.nc exists", force="to replace it")
    assert isinstance(one, caught) and str(one) == "a.nc exists: pass force=True to replace it."
    assert one.said("--{}") == "a.nc exists: pass --force to replace it."
    more = kind("a.nc exists", resume="to continue it", keep="to add to it", force="to replace it")
    said = "a.nc exists: pass resume=True to continue it, keep=True to add to it, or force=True to replace it."
    assert str(more) == said and more.said("--{}") == said.replace("=True", "").replace("pass ", "pass --").replace(
        ", keep", ", --keep"
    ).replace("or force", "or --force")
    assert str(kind("Nothing helps here.")) == kind("Nothing helps here.").said("--{}") == "Nothing helps here."


@pytest.mark.parametrize("kind", [Exists, Refused, DiskFull])
def test_errors_keep_their_sentence_on_the_way_from_another_process(kind):
    error = kind("a.nc exists", resume="to continue it", force="to replace it")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind and str(again) == str(error) and again.said("--{}") == error.said("--{}")
    assert again.ways == error.ways


def test_what_can_be_written(tmp_path):
    "Nothing is made or changed by asking; each thing in the way is named, with the ways out that were given."
    there, new = tmp_path / "a.nc", tmp_path / "deeper" / "still" / "b.nc"
    there.write_text("mine")
    check_writable([new, tmp_path / "c.nc"])
    check_writable([there], force=True)
    with pytest.raises(Exists, match=r"a.nc exists: pass force=True to replace it, or resume=True to continue it\.$"):
        check_writable([new, there], resume="to continue it")
    with pytest.raises(IsADirectoryError, match="is a folder; name a file"):
        check_writable([tmp_path], force=True)
    with pytest.raises(NotADirectoryError, match="a.nc is a file; name a folder for b.nc"):
        check_writable([there / "b.nc"], force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"] and there.read_text() == "mine"


# ---- datasets


def table(**attrs):
    "A small dataset with a title."
    fields = {"area": ("case", [310.0, 295.5], {"units": "px"}), "count": ("case", [3, 4])}
    return xr.Dataset(fields, {"case": ["a", "b"]}, {"title": "areas"} | attrs)


def test_a_dataset_comes_back_as_it_was(tmp_path):
    "Numbers, names, units and settings of Python's own kinds; one that is read lazily, too."
    dataset = table(members=2, reach=1.5, said="two")
    write_dataset(dataset, tmp_path / "a.nc")
    for lazy in (False, True):
        found = read_dataset(tmp_path / "a.nc", "areas", ("area", "count"), lazy=lazy)
        xr.testing.assert_identical(found, dataset)
        assert [type(value) for value in found.attrs.values()] == [str, int, float, str]
        assert bool(found["area"].chunks) is lazy
        found.close()


def test_write_dataset_is_whole_compressed_and_careful(tmp_path):
    blank = np.zeros((500, 500), np.float32)
    dataset = xr.Dataset({"blank": (("row", "column"), blank), "name": ("row", np.arange(500))})
    path = tmp_path / "new" / "one.nc"
    write_dataset(dataset, path)
    assert path.stat().st_size < 100_000 and [one.name for one in path.parent.iterdir()] == ["one.nc"]
    xr.testing.assert_identical(xr.load_dataset(path, engine="h5netcdf"), dataset)
    with pytest.raises(FileExistsError, match="force=True"):
        write_dataset(dataset, path)
    write_dataset(dataset + 1, path, force=True)
    assert xr.load_dataset(path, engine="h5netcdf")["blank"].max() == 1


def test_names_are_not_cut(tmp_path):
    "A dataset that was read remembers how long its names were; what is added to it may be longer."
    first, second = (xr.Dataset({"value": ("case", [1.0])}, {"case": [name]}) for name in ("a_9", "a_10"))
    path = tmp_path / "a.nc"
    write_dataset(first, path)
    write_dataset(xr.concat([read_dataset(path), second], "case"), path, force=True)
    assert read_dataset(path)["case"].values.tolist() == ["a_9", "a_10"]


def test_an_older_kind_of_netcdf_is_read(tmp_path):
    table().drop_vars("case").to_netcdf(tmp_path / "three.nc", engine="scipy", format="NETCDF3_CLASSIC")
    assert (tmp_path / "three.nc").read_bytes()[:3] == b"CDF"
    found = read_dataset(tmp_path / "three.nc", "areas", ("area",))
    assert found["area"].values.tolist() == [310.0, 295.5] and found["count"].values.tolist() == [3, 4]


def test_what_is_not_the_dataset_asked_for(tmp_path):
    "One sentence that names the file: not there, damaged anywhere, of another title, without what is needed."
    path = tmp_path / "a.nc"
    with pytest.raises(FileNotFoundError, match=r"a.nc does not exist; check the spelling and the folder\.$"):
        read_dataset(path)
    write_dataset(table(), path)
    whole = path.read_bytes()
    for content in (b"", b"no dataset", whole[:8], whole[: len(whole) // 3], whole[:-200], b"CDF" + whole[3:]):
        path.write_bytes(content)
        for lazy in (False, True):
            with pytest.raises(ValueError, match="a.nc is no netCDF file that can be read") as problem:
                read_dataset(path, lazy=lazy)
            assert "\n" not in str(problem.value)
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"\(its title is 'areas', not 'lengths'\); expected what `measure` writes\.$"):
        read_dataset(path, "lengths", maker="`measure`")
    with pytest.raises(ValueError, match=r"a.nc is not what is needed here \(it has no length\)\.$"):
        read_dataset(path, "areas", ("area", "length"))


# ---- names of today

OLD = Path(__file__).parent / "data"
SAMPLING = "Sampling(sampler='dpm', steps=9, start='prior', final=True)"


def test_an_old_evaluation_has_today_s_names():
    maps, estimators = ["ratio", "prior", "spread"], ["one_sample", "mmse", "majority", "prior"]
    old = xr.Dataset(
        {
            "doubt": ("case", [0.1, 0.2], {"units": "1"}),
            "prior": (("row", "column"), np.eye(2)),
            "f1": (("case", "estimator"), np.zeros((2, 4))),
            "auroc": ("map", [0.5, 0.6, 0.7]),
            "missed": ("field", [0.0, 0.1, 0.2]),
        },
        {"estimator": estimators, "map": maps, "field": ["edge", "mean", "doubt"], "case": ["a", "b"]},
        {"start": "prior", "seed": 3},
    )
    found = with_current_names(old)
    assert set(found) == {"uncertainty", "initial_estimate", "f1", "auroc", "missed"}
    assert found["estimator"].values.tolist() == ["one_sample", "mmse", "majority", "initial_estimate"]
    assert found["map"].values.tolist() == ["ratio", "initial_estimate", "spread"]
    assert found["field"].values.tolist() == ["edge", "mean", "uncertainty"]
    assert found.attrs == {"start": "initial_estimate", "seed": 3}
    np.testing.assert_array_equal(found["uncertainty"], old["doubt"])
    assert found["uncertainty"].attrs == {"units": "1"} and float(found["auroc"].sel(map="initial_estimate")) == 0.6
    assert old.attrs["start"] == "prior" and "doubt" in old  # what was given stays
    xr.testing.assert_identical(with_current_names(found), found)


def test_an_old_frontier_and_an_old_plan_have_today_s_settings():
    plan = json.dumps({"methods": [{"name": "prior", "quality": {"sampler": "dpm", "start": "prior"}}]}, indent=1)
    old = xr.Dataset(
        {"f1_mean": ("way", [0.5, 0.6])},
        {
            "way": ["default", "zero"],
            "start": ("way", ["prior", "zero"]),
            "f1_prior": ("case", [0.7]),
            "sampling": ("way", [SAMPLING, SAMPLING.replace("prior", "zero")]),
        },
        {"reference_start": "prior", "default_start": "zero", "plan": plan, "title": "prior"},
    )
    found = with_current_names(old)
    assert found["start"].values.tolist() == ["initial_estimate", "zero"] and "f1_initial_estimate" in found.coords
    assert "start='initial_estimate'" in str(found["sampling"].values[0]) and "start='zero'" in str(
        found["sampling"][1]
    )
    assert found.attrs["reference_start"] == "initial_estimate" and found.attrs["default_start"] == "zero"
    assert json.loads(found.attrs["plan"]) == {
        "methods": [{"name": "prior", "quality": {"sampler": "dpm", "start": "initial_estimate"}}]
    }
    assert found.attrs["title"] == "prior"


def test_names_that_users_gave_stay():
    "An image called doubt, a method called prior."
    old = xr.Dataset({"f1": (("case", "method"), [[0.5]])}, {"case": ["doubt"], "method": ["prior"]})
    xr.testing.assert_identical(with_current_names(old), old)


def test_an_old_study_opens_with_today_s_names():
    "Written before the names changed; no number of it does."
    old = xr.load_dataset(OLD / "study_old.nc", engine="h5netcdf")
    assert "doubt" in old and "prior" in old["estimator"].values
    found = read_dataset(OLD / "study_old.nc", "sdfdiff verification", ("uncertainty", "auroc", "f1"))
    assert not {"prior", "doubt"} & {*found.variables, *found["estimator"].values, *found["map"].values}
    assert "initial_estimate" in found["map"].values and "uncertainty" in found["field"].values
    assert "start='initial_estimate'" in str(found["sampling"].values[0])
    np.testing.assert_array_equal(found["uncertainty"], old["doubt"])
    for name, label in (("auroc", "map"), ("f1", "estimator")):
        new = found[name].sel({label: "initial_estimate"})
        np.testing.assert_array_equal(new, old[name].sel({label: "prior"}))


def test_an_old_frontier_opens_with_today_s_names():
    old = xr.load_dataset(OLD / "frontier_old.nc", engine="h5netcdf")
    found = read_dataset(OLD / "frontier_old.nc", "sdfdiff frontier", ("f1_mean", "f1_initial_estimate"))
    assert old["start"].values.tolist() == ["prior", "zero"] and old.attrs["reference_start"] == "prior"
    assert found["start"].values.tolist() == ["initial_estimate", "zero"]
    assert found.attrs["reference_start"] == "initial_estimate"
    np.testing.assert_array_equal(found["f1_initial_estimate"], old["f1_prior"])
    np.testing.assert_array_equal(found["f1_mean"], old["f1_mean"])


@pytest.mark.parametrize("path", sorted((OLD.parents[1] / "data").glob("*_*.nc")), ids=lambda path: path.stem)
def test_shipped_tables_hold_today_s_names(path):
    "They were written anew: nothing in them is renamed when they are read."
    stored = xr.load_dataset(path, engine="h5netcdf")
    xr.testing.assert_identical(with_current_names(stored), stored)


def test_a_dataset_is_written_while_a_cluster_works(tmp_path):
    "Results that come from a cluster are whole in memory before they are on the disk."
    distributed = pytest.importorskip("distributed")
    cluster = distributed.LocalCluster(n_workers=1, processes=False, dashboard_address=None, silence_logs=50)
    with cluster, distributed.Client(cluster):
        write_dataset(xr.Dataset({"a": ("x", np.arange(3.0))}), tmp_path / "a.nc")
    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as found:
        assert found["a"].values.tolist() == [0, 1, 2]
