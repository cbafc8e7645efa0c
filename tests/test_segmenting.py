"Image files in, four files out: formats, sizes, resolutions, and nothing half-written."

import errno
import gzip
import json
import warnings
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import shapely
import small_slides
import tifffile
import xarray as xr
from PIL import Image
from scipy import ndimage
from small_networks import random_network

from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.ensembles import segmentation as segmenting
from sdfdiff.ensembles.collection import source_pixels
from sdfdiff.ensembles.method import untuned
from sdfdiff.ensembles.segmentation import (
    at_source,
    overlay,
    read_result,
    segment,
    segment_file,
    source_mask,
)
from sdfdiff.files import read_dataset, write_dataset
from sdfdiff.provenance import OUTPUTS, output_paths
from sdfdiff.files import read_image
from sdfdiff.images.preparation import NUCLEI, Preparation
from sdfdiff.images.synthetic import tissue
from sdfdiff.shapes import disc

QUICK = {"members": 2, "method": untuned("dpm_sde", 2), "progress": False}
PICTURE = tissue(3, (48, 64)).image  # float32 RGB
PICTURE_8 = np.round(PICTURE * 255).astype(np.float32) / 255
PLAIN = Preparation("none", "rgb", 1.0)


@cache
def tiny(preparation=NUCLEI):
    "A small network with random weights, in float32: what it finds does not matter here."
    channels = 3 if preparation.colour == "rgb" else 1
    return Model(random_network(channels), preparation=preparation, about={"name": "tiny"})


def eight(image):
    return np.round(image * 255).astype(np.uint8)


def sixteen(image):
    return np.round(image * 65535).astype(np.uint16)


@pytest.fixture
def photo(tmp_path):
    Image.fromarray(eight(PICTURE)).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def segmented(path, model=None, **options):
    return segment_file(path, path.parent / f"out-{path.name}", model or tiny(), **QUICK | options)


def files(folder):
    return sorted(path.name for path in Path(folder).rglob("*") if path.is_file())


# ---- formats


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.tif", {}),
        ("b.tiff", {"compression": "tiff_lzw"}),
        ("c.bmp", {}),
        ("D.PNG", {}),
    ],
)
def test_a_lossless_format_changes_nothing(photo, name, options):
    Image.fromarray(eight(PICTURE)).save(photo.with_name(name), **options)
    expected, found = segmented(photo), segmented(photo.with_name(name))
    xr.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())
    assert (found.attrs["source"], expected.attrs["source"]) == (name, "photo.png")


def test_jpeg_is_what_its_decoder_says(tmp_path):
    Image.fromarray(eight(PICTURE)).save(tmp_path / "a.jpg", quality=90)
    Image.open(tmp_path / "a.jpg").save(tmp_path / "b.png")
    xr.testing.assert_identical(segmented(tmp_path / "a.jpg").drop_attrs(), segmented(tmp_path / "b.png").drop_attrs())


def test_opaque_alpha_changes_nothing(photo):
    alpha = np.full(PICTURE.shape[:2], 255, np.uint8)
    Image.fromarray(np.dstack([eight(PICTURE), alpha])).save(photo.with_name("a.png"))
    xr.testing.assert_identical(segmented(photo.with_name("a.png")).drop_attrs(), segmented(photo).drop_attrs())


@pytest.mark.parametrize("colour", [True, False])
def test_eight_and_sixteen_bits_show_the_same_picture(tmp_path, colour):
    image, kind = (PICTURE, "rgb") if colour else (PICTURE[..., 0], "minisblack")
    tifffile.imwrite(tmp_path / "exact.tif", eight(image).astype(np.uint16) * 257, photometric=kind)
    tifffile.imwrite(tmp_path / "finer.tif", sixteen(image), photometric=kind)
    Image.fromarray(eight(image)).save(tmp_path / "eight.png")
    names = ("eight.png", "exact.tif", "finer.tif")
    expected, exact, finer = (segmented(tmp_path / name, tiny(PLAIN)) for name in names)
    np.testing.assert_allclose(exact["image"], expected["image"], atol=1e-6)
    np.testing.assert_allclose(exact["distance"], expected["distance"], atol=0.01)
    assert 0 < np.abs(finer["image"] - expected["image"]).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("preparation", [NUCLEI, Preparation("vahadane", "rgb", 1.0)])
def test_a_grey_picture_stored_as_colour_is_grey(tmp_path, preparation):
    grey = eight(PICTURE[..., 1])
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([grey] * 3)).save(tmp_path / "colour.png")
    one, other = (segmented(tmp_path / name, tiny(preparation)) for name in ("grey.png", "colour.png"))
    np.testing.assert_allclose(one["image"], other["image"], atol=1e-5)
    np.testing.assert_allclose(one["mean"], other["mean"], atol=0.05)


# ---- what is written


@pytest.mark.parametrize("shape", [(48, 64), (32, 32), (33, 47), (101, 70)])
@pytest.mark.parametrize("colour", [True, False])
def test_pictures_have_the_size_of_the_source(tmp_path, shape, colour):
    image = tissue(1, shape).image
    Image.fromarray(eight(image if colour else image[..., 0])).save(tmp_path / "photo.png")
    dataset = segment_file(tmp_path / "photo.png", tmp_path / "new" / "out", tiny(), **QUICK)
    assert files(tmp_path / "new" / "out") == sorted("photo" + ending for ending in OUTPUTS)
    modes = {}
    for path in output_paths("photo.png", tmp_path / "new" / "out")[:3]:
        with Image.open(path) as picture:
            beside = 0 if "uncertainty" not in path.name else picture.size[0] - shape[1]  # a colour bar
            assert picture.size[0] == shape[1] + beside and (picture.size[1] == shape[0] or beside >= 80)
            modes[path.name] = picture.mode
    assert list(modes.values()) == ["L", "RGB", "RGB"]
    mask = np.asarray(Image.open(tmp_path / "new" / "out" / "photo_mask.png"))
    assert set(np.unique(mask)) <= {0, 255} and ((mask > 0) == source_mask(dataset)).all()
    half = tuple(max(1, round(n / 2)) for n in shape)
    assert dataset["mean"].shape == half and (dataset.attrs["source_rows"], dataset.attrs["source_columns"]) == shape


def test_dataset_on_disk_is_the_dataset(photo):
    dataset = segmented(photo)
    stored = xr.load_dataset(photo.parent / "out-photo.png" / "photo.nc", engine="h5netcdf")
    xr.testing.assert_identical(stored, dataset)
    wanted = {"source": "photo.png", "scale": 0.5, "stain": "vahadane", "weights": "tiny", "members": 2}
    assert {key: dataset.attrs[key] for key in wanted} == wanted


def test_names_with_dots_and_spaces(photo):
    path = photo.rename(photo.with_name("my photo v1.2.png"))
    assert [output.name for output in output_paths(path, "out")] == ["my photo v1.2" + ending for ending in OUTPUTS]
    segmented(path)
    assert files(path.parent / f"out-{path.name}") == sorted("my photo v1.2" + ending for ending in OUTPUTS)


def test_uncertainty_picture_is_dark_where_members_agree(photo):
    dataset = segmented(photo, members=5)
    uncertainty = at_source(dataset, dataset["mask_std"].values)
    light = np.asarray(Image.open(photo.parent / "out-photo.png" / "photo_uncertainty.png").convert("L")).astype(float)
    light = light[: uncertainty.shape[0], : uncertainty.shape[1]]  # a colour bar stands beside it
    assert light[uncertainty < 0.01].max() < light[uncertainty > 0.45].min()


def test_overlay_marks_the_outline_only():
    mask = disc((48, 64), (24, 30), 12.0) <= 0
    for image in (PICTURE, PICTURE[..., 0]):
        before = image.copy()
        picture = overlay(image, mask)
        assert picture.shape == (48, 64, 3) and (image == before).all()
        colour = before if before.ndim == 3 else np.repeat(before[..., None], 3, axis=2)
        near = ndimage.binary_dilation(mask) & ~ndimage.binary_erosion(mask)
        changed = (picture != colour).any(axis=2)
        assert (changed == near).mean() > 0.999 and not changed[~near].any()
    for blank in (np.zeros_like(mask), np.ones_like(mask)):
        assert (overlay(PICTURE, blank) == PICTURE).all()


# ---- resolution


def field_dataset(source_shape):
    return xr.Dataset(attrs={"source_rows": source_shape[0], "source_columns": source_shape[1], "threshold_px": 0.0})


@pytest.mark.parametrize(("shape", "source"), [((24, 32), (48, 64)), ((30, 30), (75, 90)), ((80, 60), (40, 30))])
def test_fields_go_back_to_where_they_were(shape, source):
    "A field that counts the source's rows counts them still, apart from the half pixel at the border."
    dataset = field_dataset(source)
    for axis in (0, 1):
        place = source_pixels(shape[axis], source[axis])
        field = np.broadcast_to(place[:, None] if axis == 0 else place, shape)
        found = np.moveaxis(at_source(dataset, field), axis, 0)
        margin = 1 + source[axis] // shape[axis]
        inner = slice(margin, source[axis] - margin)
        assert found.shape == (source[axis], source[1 - axis])
        np.testing.assert_allclose(found[inner, 5], np.arange(source[axis])[inner], atol=0.01)
    assert at_source(field_dataset(shape), field) is field


@pytest.mark.parametrize("factor", [2, 3])
def test_a_mask_is_enlarged_as_a_distance(factor):
    "Its outline is smooth: closer to the exact disc than a mask whose pixels are repeated."
    shape = (40 * factor, 50 * factor)
    exact = disc(shape, (19.3 * factor, 24.1 * factor), 11.2 * factor) <= 0
    middle = [(c + 0.5) / factor - 0.5 for c in (19.3 * factor, 24.1 * factor)]
    small = disc((40, 50), middle, 11.2)
    fields = {"mean": small.astype(np.float32), "probability": (small <= 0).astype(float)}
    dataset = field_dataset(shape).assign({name: (("row", "column"), one) for name, one in fields.items()})
    found, blocks = source_mask(dataset), np.kron(small <= 0, np.ones((factor, factor), bool))
    assert found.dtype == bool and (found != exact).mean() < 0.4 * (blocks != exact).mean()


def test_the_mask_is_the_majority(photo):
    "At the network's pixels, whatever the mean distance says there."
    generator = np.random.default_rng(0)
    members = ndimage.gaussian_filter(generator.normal(size=(5, 24, 32)), (0, 3, 3)) * 30
    members[:, :4] = np.array([-1, -1, -1, 9, 9])[:, None, None]  # 3 of 5 say object, the mean does not
    fields = {"mean": members.mean(0), "probability": (members <= 0).mean(0)}
    for factor in (1, 3):
        shape = (24 * factor, 32 * factor)
        dataset = field_dataset(shape).assign({name: (("row", "column"), one) for name, one in fields.items()})
        found = source_mask(dataset)[factor // 2 :: factor, factor // 2 :: factor]
        np.testing.assert_array_equal(found, (members <= 0).sum(0) >= 3)
    assert ((members.mean(0) <= 0) != found).mean() > 0.1


def test_coordinates_are_centres_in_the_source(photo):
    dataset = segmented(photo)
    assert dataset["row"].values.tolist() == (2 * np.arange(24) + 0.5).tolist()
    assert dataset["column"].values.tolist() == (2 * np.arange(32) + 0.5).tolist()
    other = segment(PICTURE, tiny(), scale=1.5, stain="none", **QUICK)
    assert other["row"].size == 72 and other["row"].values[0] == pytest.approx(-1 / 6)
    assert (other.attrs["scale"], other.attrs["stain"]) == (1.5, "none")


def test_models_with_a_fixed_size_see_a_photograph_at_its_own():
    "Glands were trained at 128 x 128; a photograph of any size must not be squeezed into that."
    model = tiny(Preparation("none", "rgb", size=(16, 16)))
    with pytest.warns(UserWarning, match="whole images stretched to 16x16 px; here an image keeps its shape"):
        assert segment(PICTURE, model, **QUICK)["mean"].shape == (48, 64)


def test_options_reach_the_ensemble():
    dataset = segment(PICTURE, tiny(), seed=5, rule="paper", keep=1, **QUICK)
    assert (dataset.attrs["seed"], dataset.attrs["threshold_rule"], dataset.sizes["member"]) == (5, "paper", 1)
    brown = segment(PICTURE, tiny(), stain="haematoxylin", **QUICK)
    assert np.abs(brown["image"] - dataset["image"]).max() > 0.01


# ---- what is refused


@pytest.mark.parametrize("shape", [(31, 40), (40, 31), (4097, 33), (1, 1)])
def test_size_limits_are_named(tmp_path, shape):
    Image.fromarray(np.zeros(shape, np.uint8)).save(tmp_path / "odd.png")
    with pytest.raises(ValueError) as problem:
        segment_file(tmp_path / "odd.png", tmp_path / "out", tiny(), **QUICK)
    sentence = str(problem.value)
    assert "odd.png" in sentence and f"{shape[0]} x {shape[1]}" in sentence and "32 to 4096" in sentence
    assert "\n" not in sentence and not files(tmp_path / "out")


def test_a_scale_without_sense_is_refused_before_any_work(monkeypatch):
    "At 16 times 4096 pixels no memory suffices; below a few pixels nothing can be seen."

    def no_work(*arguments, **options):
        raise AssertionError("work began")

    monkeypatch.setattr(segmenting, "see_image", no_work)
    large = np.zeros((4096, 4096), np.uint8)
    for image, scale in ((large, 16.0), (PICTURE, 1e-4), (PICTURE, 0.0), (PICTURE, float("nan"))):
        with pytest.raises(ValueError, match="scale"):
            segment(image, tiny(), scale=scale, **QUICK)


@pytest.mark.parametrize("ending", OUTPUTS)
def test_results_that_are_there_are_refused_before_any_work(photo, monkeypatch, ending):
    def no_work(*arguments, **options):
        raise AssertionError("work began")

    monkeypatch.setattr(segmenting, "segment", no_work)
    folder = photo.parent / "out-photo.png"
    folder.mkdir()
    (folder / f"photo{ending}").write_text("mine")
    with pytest.raises(FileExistsError, match=f"photo{ending} exists: pass force=True"):
        segmented(photo)
    assert files(folder) == [f"photo{ending}"] and (folder / f"photo{ending}").read_text() == "mine"


@pytest.mark.parametrize("block", ["file", "folder"])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(photo, monkeypatch, block):
    "The results' folder is a file; or a folder stands where a result belongs, which --force must not remove."

    def no_work(*arguments, **options):
        raise AssertionError("work began")

    monkeypatch.setattr(segmenting, "segment", no_work)
    folder = photo.parent / "out-photo.png"
    if block == "file":
        folder.write_text("mine")
    else:
        (folder / "photo.nc").mkdir(parents=True)
    with pytest.raises(OSError) as problem:
        segmented(photo, force=True)
    assert ("out-photo.png" if block == "file" else "photo.nc") in str(problem.value)
    assert ".writing" not in str(problem.value)


def test_force_replaces(photo):
    folder = photo.parent / "out-photo.png"
    first = segmented(photo)
    second = segmented(photo, seed=1, force=True)
    stored = xr.load_dataset(folder / "photo.nc", engine="h5netcdf")
    xr.testing.assert_identical(stored, second)
    assert not stored["distance"].equals(first["distance"]) and len(files(folder)) == len(OUTPUTS)


class Disk:
    "Breaks the `fail`-th writing of a file, half-way, whichever library writes."

    def __init__(self, monkeypatch, fail, problem):
        self.left, self.problem = fail, problem
        self.guard(monkeypatch, Image.Image, "save")
        self.guard(monkeypatch, xr.Dataset, "to_netcdf")

    def guard(self, monkeypatch, owner, name):
        write = getattr(owner, name)

        def half(source, target, *arguments, **options):
            self.left -= 1
            if self.left == 0:
                if isinstance(target, (str, Path)):
                    Path(target).write_bytes(b"half")
                raise self.problem
            return write(source, target, *arguments, **options)

        monkeypatch.setattr(owner, name, half)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("fail", [1, 2, 3, 4])
@pytest.mark.parametrize("problem", [FULL, KeyboardInterrupt()])
def test_all_four_files_or_none(photo, monkeypatch, fail, problem):
    Disk(monkeypatch, fail, problem)
    with pytest.raises(type(problem)):
        segmented(photo)
    assert files(photo.parent) == ["photo.png"]


def test_a_full_disk_is_named_with_the_file(photo, monkeypatch):
    Disk(monkeypatch, 4, FULL)
    with pytest.raises(OSError, match="No space left on device.*photo.nc") as problem:
        segmented(photo)
    assert problem.value.errno == errno.ENOSPC and ".writing" not in str(problem.value)


@pytest.mark.parametrize("fail", [1, 4])
def test_old_results_survive_a_failure(photo, monkeypatch, fail):
    segmented(photo)
    folder = photo.parent / "out-photo.png"
    before = {name: (folder / name).read_bytes() for name in files(folder)}
    Disk(monkeypatch, fail, FULL)
    with pytest.raises(OSError):
        segmented(photo, seed=1, force=True)
    assert {name: (folder / name).read_bytes() for name in files(folder)} == before


def test_reading_errors_keep_their_sentence(tmp_path):
    tifffile.imwrite(tmp_path / "nan.tif", np.full((40, 40), np.nan, np.float32))
    for name, words in (("nan.tif", "NaN"), ("nothing.png", "does not exist")):
        with pytest.raises((ValueError, OSError), match=words) as problem:
            segmented(tmp_path / name)
        assert str(problem.value).count(name) == 1
    assert files(tmp_path) == ["nan.tif"]


def test_source_is_untouched(photo):
    before = photo.read_bytes()
    segmented(photo)
    assert photo.read_bytes() == before and read_image(photo).shape == (48, 64, 3)


# ---- more members


def test_members_are_added_to_what_is_there(photo):
    "The result on disk, read and enlarged, is the one of a single run; with nothing to add it is returned as it is."
    folder = photo.parent / "out-photo.png"
    segmented(photo)
    previous = read_result(folder / "photo.nc")
    found = segmented(photo, members=5, previous=previous)
    xr.testing.assert_identical(read_result(folder / "photo.nc"), found)
    for path in folder.iterdir():
        path.rename(photo.with_name(f"added-{path.name}"))
    xr.testing.assert_identical(segmented(photo, members=5), found)
    for path in folder.iterdir():
        assert path.read_bytes() == photo.with_name(f"added-{path.name}").read_bytes()
    assert segmented(photo, members=3, previous=found) is found
    with pytest.raises(ValueError, match=r"photo.png and .*photo.nc: .*seed") as problem:
        segmented(photo, members=6, previous=found, seed=1)
    assert "\n" not in str(problem.value)


def test_reading_what_is_no_result(photo):
    path = photo.with_name("a.nc")
    with pytest.raises(FileNotFoundError, match="a.nc does not exist"):
        read_result(path)
    path.write_text("no dataset")
    with pytest.raises(ValueError, match="a.nc is no netCDF file"):
        read_dataset(path)
    write_dataset(xr.Dataset({"mean": ("row", [1.0])}), path, force=True)
    assert read_dataset(path)["mean"].values.tolist() == [1.0]
    with pytest.raises(ValueError, match="a.nc is not what is needed here"):
        read_result(path)


# ---- what the network sees


@cache
def shipped(weights):
    "A model that comes with the package, a slide for it, how to segment it, and its mask."
    how = {"members": 2, "method": "draft", "progress": False} | ({} if weights == "nuclei" else {"scale": 1.0})
    model, image = load_model(weights), getattr(small_slides, weights)()
    dataset = segment(image, model, **how)
    assert dataset.attrs["unseen_share"] == 0 and 0.1 < source_mask(dataset).mean() < 0.6
    return model, image, how, source_mask(dataset)


def agreement(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


@pytest.mark.parametrize("spoil", small_slides.SPOILS)
@pytest.mark.parametrize("weights", ["nuclei", "glands"])
def test_the_rest_is_segmented_as_without_the_intruder(weights, spoil):
    model, image, how, clean = shipped(weights)
    marked, where = small_slides.spoilt(image, *spoil)
    with warnings.catch_warnings(record=True) as said:
        dataset = segment(marked, model, **how)
    assert agreement(source_mask(dataset) & ~where, clean & ~where) >= 0.95
    if spoil[0] != "specks":  # soft ones of a few pixels may be too little to be left out
        assert "% is black, ink or dirt: no object is marked there" in str(said[-1].message)
        assert dataset.attrs["unseen_share"] > 0.8 * spoil[1]
        assert not source_mask(dataset)[ndimage.binary_erosion(where, iterations=4, border_value=1)].any()


@pytest.mark.parametrize("share", [0.1, 0.25])
@pytest.mark.parametrize("weights", ["nuclei", "glands"])
def test_glass_beside_tissue_does_not_change_the_tissue(weights, share):
    model, image, how, clean = shipped(weights)
    width = round(len(image) * share) if weights == "nuclei" else 48 + round(100 * share)
    beside = np.full((len(image), round(width / share), 3), 0.95, np.float32)
    beside[:, :width] = image[:, :width]
    with pytest.warns(UserWarning, match="% is glass"):
        found = source_mask(segment(beside, model, **how))
    assert not found[:, width + 4 :].any() and agreement(found[:, :width], clean[:, :width]) > 0.8


def test_what_the_network_sees_is_kept():
    seen = "64x48 px at 0.25 um/px -> 32x24 px at 0.5 um/px"
    with pytest.warns(UserWarning, match=f"sees little .{seen}.; is the scale right"):
        assert segment(PICTURE, tiny(), microns=0.25, **QUICK).attrs["sees"] == seen
    with pytest.warns(UserWarning, match=r"no pixel size: assumed 0.25 um/px \(40x\); give the true one"):
        found = segment(PICTURE, tiny(), **QUICK).attrs
    assert found["sees"] == seen.replace("um/px ->", "um/px (assumed) ->") and "microns" not in found
    for model, scale in ((tiny(), 0.5), (tiny(replace(NUCLEI, microns=None)), None)):  # of one's own; unknown
        sees = segment(PICTURE, model, scale=scale, **QUICK).attrs["sees"]
        assert sees == "64x48 px at scale 0.5 -> 32x24 px"


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_blank_image_has_no_object(value):
    with pytest.warns(UserWarning, match="blank"):
        dataset = segment(np.full((64, 64, 3), value, np.float32), tiny(), **QUICK)
    assert not source_mask(dataset).any() and dataset["mask_std"].max() == 0 and dataset["area"].max() == 0


def test_a_file_is_taken_by_its_name_and_so_are_weights(photo):
    expected = segment(PICTURE_8, "nuclei", **QUICK)
    for given in (photo, str(photo)):
        found = segment(given, "nuclei", **QUICK)
        xr.testing.assert_identical(found.drop_attrs(), expected.drop_attrs())
        place = {"level": 0, "region": "whole", "region_row": 0, "region_column": 0, "downsample": 1.0}
        assert found.attrs == expected.attrs | place | {"microns_from": "no pixel size in the file"}
    with pytest.raises(FileNotFoundError, match="nucleus.*nuclei, glands, tissue"):
        segment(PICTURE, "nucleus", **QUICK)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: segment(PICTURE, tiny(), member=1), "'member'.*members"),
        (lambda: segment(PICTURE, tiny(), metod="draft"), "'metod'"),
        (lambda: segment(tiny(), PICTURE), "array or an image file, then a model.*nuclei, glands, tissue"),
        (lambda: segment(PICTURE, None), "NoneType"),
        (lambda: segment(None, "nuclei"), "NoneType"),
    ],
)
def test_a_call_that_is_not_understood_names_the_choices(call, words):
    with pytest.raises(TypeError, match=words) as problem:
        call()
    assert "\n" not in str(problem.value)


def test_labels_table_and_outlines_are_written_and_agree(photo):
    "All outputs of one image: numbers, areas and identities belong together; a second run gives the same bytes."
    dataset = segmented(photo, members=3)
    folder = photo.parent / "out-photo.png"
    labels, table = (
        tifffile.imread(folder / "photo_labels.tif"),
        np.genfromtxt(folder / "photo_objects.csv", delimiter=",", names=True, ndmin=1),
    )
    features = json.loads(gzip.decompress((folder / "photo.geojson.gz").read_bytes()))["features"]
    count = dataset.attrs["objects"]
    assert labels.max() == len(table) == len(features) == count and labels.shape == PICTURE.shape[:2]
    areas = np.bincount(labels.ravel())[1:]
    assert (table["area_px2"] == areas).all() and dataset.attrs["doubtful"] == (table["exists"] < 0.8).sum()
    traced = [shapely.geometry.shape(one["geometry"]).area for one in features]
    assert [int(one["properties"]["name"]) for one in features] == table["id"].astype(
        int
    ).tolist() and traced == areas.tolist()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    segmented(photo, members=3, force=True)
    again = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert [name for name in before if before[name] != again[name] and not name.endswith(".nc")] == []
