"Slides: how large a pixel is, regions of levels, what was cut off, where tissue is, parts that cover it, the scale."

import multiprocessing
import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
import tiffslide
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from shell import QUICK, refused
from small_networks import random_network
from small_slides import nuclei

from sdfdiff.diffusion.model import Model
from sdfdiff.ensembles.segmentation import segment, segment_file
from sdfdiff.files import read_image
from sdfdiff.images import readers, slides
from sdfdiff.images.cases import find_cases, prepare_case, read_case
from sdfdiff.images.preparation import NUCLEI
from sdfdiff.images.readers import microns_of
from sdfdiff.images.slides import Slide, find_tissue, tiles

GRID = np.random.default_rng(0).integers(0, 256, (70, 95, 3), dtype=np.uint8)
IMAGE = GRID.repeat(8, axis=0).repeat(8, axis=1)  # 560 x 760, no multiple of a tile
APERIO = "Aperio Image Library v12.0.16\n760x560 [0,0 760x560] (128x128) JPEG/RGB Q=90|AppMag = 20|MPP = 0.4990"
CM = {"resolutionunit": "CENTIMETER"}
REGIONS = [
    (0, 0, 560, 760),
    (100, 37, 200, 300),
    (127, 127, 2, 2),
    (559, 759, 1, 1),
    (384, 640, 176, 120),
    (5, 5, 1, 1),
]


def pyramid(path, image=IMAGE, sub=False, factors=(1, 2, 4), first=(), **options):
    "A tiled TIFF in several sizes, as pages of their own or below the first; `first` is of the largest only."
    options = {"photometric": "rgb", "compression": "zlib", "metadata": None, "tile": (128, 128)} | options
    with tifffile.TiffWriter(path, bigtiff=sub) as writer:
        for k in factors:
            more = dict(first) | ({"subifds": len(factors) - 1} if sub else {}) if k == 1 else {"subfiletype": 1}
            writer.write(image[::k, ::k], **options | more)
    return path


def aperio(path, image=IMAGE, description=APERIO, compression="jpeg"):
    "As Aperio lays out its files: the slide, a thumbnail in strips, then the smaller sizes."
    how = {"photometric": "rgb", "compression": compression, "metadata": None, "description": description}
    with tifffile.TiffWriter(path) as writer:
        writer.write(image, tile=(128, 128), **how)
        writer.write(image[::8, ::8], rowsperstrip=16, **how)
        writer.write(image[::4, ::4], tile=(128, 128), **how)
    return path


def ome(path, image=IMAGE, **metadata):
    tifffile.imwrite(path, image, photometric="rgb", metadata={"axes": "YXS"} | metadata, **CM, resolution=(1e4, 1e4))
    return path


def store(path, version=2, unit="micrometer", image=IMAGE, axes="cyx"):
    "An OME-Zarr in three sizes: 0.4 is written in zarr 2, 0.5 in zarr 3."
    group, sets = zarr.open_group(path, mode="w", zarr_format=version), []
    for number, k in enumerate((1, 2, 4)):
        values = np.moveaxis(image[::k, ::k], -1, 0) if "c" in axes else image[::k, ::k, 0]
        sizes = dict(zip("yxc", (*values.shape[-2:], *values.shape[:1])))
        values = values.reshape([sizes.get(name, 1) for name in axes])
        group.create_array(str(number), data=values, chunks=(1,) * (len(axes) - 2) + (128, 128))
        scale = [1.0] * (len(axes) - 2) + [0.25 * k] * 2
        sets.append({"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
    names = [{"name": name} | ({"unit": unit} if unit and name in "yx" else {}) for name in axes]
    about = {"multiscales": [{"axes": names, "datasets": sets}]}
    group.attrs.update({"ome": about} if version == 3 else about)
    return path


# ---- how large is a pixel?


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}, (0.5, "OME")),  # no unit: um
        ({"PhysicalSizeX": 0.5}, (0.5, "OME")),
        ({"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "\u00b5m"}, (0.25, "OME")),
        ({"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "\u03bcm"}, (0.25, "OME")),
        ({"PhysicalSizeX": 250, "PhysicalSizeXUnit": "nm"}, (0.25, "OME")),
        ({"PhysicalSizeX": 2.5e-4, "PhysicalSizeXUnit": "mm"}, (0.25, "OME")),
        ({"PhysicalSizeX": 2500, "PhysicalSizeXUnit": "\u212b"}, (0.25, "OME")),
        ({"PhysicalSizeX": 2500, "PhysicalSizeXUnit": "\u00c5"}, (0.25, "OME")),
        ({"PhysicalSizeX": 1e-5, "PhysicalSizeXUnit": "in"}, (0.254, "OME")),
        ({"PhysicalSizeX": 2.5e-7, "PhysicalSizeXUnit": "m"}, (0.25, "OME")),
        ({"PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "pixel"}, (1.0, "resolution tags")),
        ({"PhysicalSizeX": 353.0}, (1.0, "resolution tags")),
        ({}, (1.0, "resolution tags")),
    ],
)
def test_ome_size_with_its_unit_comes_before_the_tags(tmp_path, metadata, expected):
    for axis in "Y" if "PhysicalSizeXUnit" in metadata else "":
        metadata = metadata | {f"PhysicalSize{axis}{end}": metadata[f"PhysicalSizeX{end}"] for end in ("", "Unit")}
    assert microns_of(ome(tmp_path / "a.ome.tif", **metadata)) == expected


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((40000, 40000), "CENTIMETER", 0.25),
        ((50800, 50800), "INCH", 0.5),
        ((40000, 40400), "CENTIMETER", 0.248762),  # square enough: the mean of both
        ((72, 72), "INCH", None),
        ((96, 96), "INCH", None),
        ((40000, 40000), "NONE", None),
        ((2e6, 2e6), "CENTIMETER", None),  # 0.005 um
        ((800, 800), "CENTIMETER", None),  # 12.5 um
    ],
)
def test_resolution_tags(tmp_path, resolution, unit, expected):
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, photometric="rgb", resolution=resolution, resolutionunit=unit)
    assert microns_of(tmp_path / "a.tif")[0] == expected


@pytest.mark.parametrize("unit", ["um", "micron", "\\u00B5m", "nm"])
def test_imagej_says_its_unit_in_words(tmp_path, unit):
    size = 250 if unit == "nm" else 0.25
    tifffile.imwrite(
        tmp_path / "a.tif", IMAGE[..., 0], imagej=True, resolution=(1 / size,) * 2, metadata={"unit": unit}
    )
    assert microns_of(tmp_path / "a.tif") == (0.25, "ImageJ")
    tifffile.imwrite(tmp_path / "b.tif", IMAGE[..., 0], imagej=True, resolution=(4.0, 4.0))
    assert microns_of(tmp_path / "b.tif") == (None, "no pixel size in the file")


def test_aperio_says_it_in_its_description(tmp_path):
    assert microns_of(aperio(tmp_path / "a.svs")) == (0.499, "Aperio")
    assert microns_of(pyramid(tmp_path / "b.tif", description="AppMag = 20|MPP = 0.4990")) == (0.499, "Aperio")
    assert microns_of(aperio(tmp_path / "c.svs", description=APERIO.split("|MPP")[0]))[0] is None


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp"])
def test_other_images_are_believed_if_a_microscope_can_do_it(tmp_path, ending):
    Image.fromarray(IMAGE).save(tmp_path / f"a.{ending}", dpi=(50800, 50800))
    Image.fromarray(IMAGE).save(tmp_path / f"b.{ending}", dpi=(96, 96))
    Image.fromarray(IMAGE).save(tmp_path / f"c.{ending}")
    found, source = microns_of(tmp_path / f"a.{ending}")
    assert found == pytest.approx(0.5, rel=1e-4) and source == "resolution"
    none, why = microns_of(tmp_path / f"b.{ending}")
    assert none is None and "no plausible pixel size in the file (resolution: 264." in why
    assert microns_of(tmp_path / f"c.{ending}")[0] is None


@pytest.mark.parametrize(("unit", "expected"), [("micrometer", 0.25), ("nanometer", None), (None, None)])
@pytest.mark.parametrize("version", [2, 3])
def test_a_store_says_it_with_a_unit_only(tmp_path, version, unit, expected):
    assert microns_of(store(tmp_path / "a.zarr", version, unit))[0] == expected


def test_pixels_that_are_not_square_are_refused_unless_the_size_is_given(tmp_path):
    path = ome(tmp_path / "a.ome.tif", PhysicalSizeX=0.25, PhysicalSizeY=0.5)
    with pytest.raises(ValueError, match=r"a.ome.tif has pixels of 0.25 x 0.5 um \(OME\), but square ones are needed"):
        Slide(path)
    assert Slide(path, 0.25).microns == 0.25


# ---- regions of levels


@pytest.mark.parametrize(
    "make",
    [
        lambda path: pyramid(path),
        lambda path: pyramid(path, sub=True),
        lambda path: pyramid(path, compression="jpeg", sub=True),
        lambda path: pyramid(path, compression="jpeg2000"),
        lambda path: pyramid(path, predictor=True, compression="lzw"),
        lambda path: aperio(path),
    ],
)
def test_regions_are_those_of_two_other_readers(tmp_path, make):
    path = make(tmp_path / "a.tif")
    with Slide(path) as slide, tiffslide.TiffSlide(path) as other:
        assert [one[:2] for one in slide.levels] == [dimensions[::-1] for dimensions in other.level_dimensions]
        for number, level in enumerate(slide.levels):
            assert level.downsample == pytest.approx(other.level_downsamples[number], rel=0.01) and level.tile == (
                128,
                128,
            )
            whole = other.read_region((0, 0), number, (level.columns, level.rows), as_array=True)
            for row, column, rows, columns in REGIONS[number and 1 :: number + 1]:
                rows, columns = min(rows, level.rows - row), min(columns, level.columns - column)
                if min(rows, columns) > 0:
                    found = slide.read(row, column, rows, columns, number)
                    assert (np.round(255 * found) == whole[row : row + rows, column : column + columns]).all()
        try:
            third = openslide.OpenSlide(path)
        except openslide.OpenSlideError:  # reads less
            return
        seen = np.asarray(third.read_region((37, 100), 0, (300, 200)))[..., :3]
        assert np.abs(np.round(255 * slide.read(100, 37, 200, 300)) - seen).max() <= 2  # another JPEG decoder


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_deep_and_planar_colours(tmp_path, kind, planar):
    values = (IMAGE / 255).astype(kind) if kind == np.float32 else IMAGE.astype(kind) * 257
    path = pyramid(tmp_path / "a.tif", values, factors=(1,), planarconfig=planar) if planar == "contig" else None
    if planar == "separate":
        path = tmp_path / "a.tif"
        how = {"photometric": "rgb", "planarconfig": "separate", "tile": (128, 128), "metadata": None}
        with tifffile.TiffWriter(path) as writer:
            writer.write(np.moveaxis(values, -1, 0), **how)
            writer.write(np.moveaxis(values[::2, ::2], -1, 0), subfiletype=1, **how)
    for region in REGIONS:
        row, column, rows, columns = region
        expected = IMAGE[row : row + rows, column : column + columns] / np.float32(255)
        np.testing.assert_allclose(Slide(path).read(*region), expected, atol=1e-6)


def test_a_tile_that_was_not_scanned_is_glass(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for k in (1, 2):
            tiled = [
                None if k == 1 and n == 1 else np.full((128, 128, 3), 40, np.uint8) for n in range(4 if k == 1 else 1)
            ]
            how = {"shape": (256 // k, 256 // k, 3), "dtype": np.uint8, "subfiletype": k - 1, "metadata": None}
            writer.write(iter(tiled), tile=(128, 128), photometric="rgb", **how)
    light = Slide(tmp_path / "a.tif").read(0, 0, 256, 256)
    assert (light[:128, 128:] == 1).all() and (light[128:] == np.float32(40 / 255)).all()


@pytest.mark.parametrize("axes", ["cyx", "tczyx", "yx"])
@pytest.mark.parametrize("version", [2, 3])
def test_stores_of_both_versions(tmp_path, version, axes):
    slide = Slide(store(tmp_path / "a.zarr", version, axes=axes))
    assert [one[:3] for one in slide.levels] == [(560, 760, 1), (280, 380, 2), (140, 190, 4)] and slide.microns == 0.25
    for level, k in enumerate((1, 2, 4)):
        expected = IMAGE[::k, ::k][50:90, 30:110] if "c" in axes else IMAGE[::k, ::k, 0][50:90, 30:110]
        assert (np.round(255 * slide.read(50, 30, 40, 80, level)) == expected).all()


def test_openslide_reads_other_vendors(tmp_path, monkeypatch):
    path = aperio(tmp_path / "a.svs")
    ours = Slide(path)
    monkeypatch.setattr(readers, "_kind", lambda path: "vendor")
    theirs = Slide(path)
    assert theirs.levels == ours.levels and (theirs.microns, theirs.source) == (0.499, "vendor")
    for level in (0, 1):
        assert np.abs(ours.read(20, 40, 60, 90, level) - theirs.read(20, 40, 60, 90, level)).max() <= 2 / 255 + 1e-6
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(
        ValueError, match=r"a.svs needs openslide, which is not installed: pip install 'sdfdiff\[slides\]'"
    ):
        Slide(path)


def test_an_image_in_one_piece_is_a_slide_of_one_level(tmp_path):
    Image.fromarray(IMAGE).save(tmp_path / "a.png")
    slide = Slide(tmp_path / "a.png", 0.3)
    assert (slide.levels, slide.microns, slide.source) == (((560, 760, 1.0, (560, 760)),), 0.3, "given")
    assert (slide.read(3, 5, 40, 50) == read_image(tmp_path / "a.png")[3:43, 5:55]).all()


def _reads(slide, seed, queue):
    queue.put(_wrong(slide, seed))


def _wrong(slide, seed):
    "How many of 40 regions are not what was written."
    generator, wrong = np.random.default_rng(seed), 0
    for _ in range(40):
        row, column = generator.integers(0, 460), generator.integers(0, 660)
        found = np.round(255 * slide.read(row, column, 100, 100))
        wrong += (found != IMAGE[row : row + 100, column : column + 100]).any()
    return wrong


@pytest.mark.parametrize("make", [pyramid, store], ids=["tiff", "store"])
def test_a_slide_survives_a_fork_and_pickle(tmp_path, make):
    "A handle of a file shares its position with a forked process: each process has its own."
    slide, context = (
        Slide(make(tmp_path / "a.zarr" if make is store else tmp_path / "a.tif")),
        multiprocessing.get_context("fork"),
    )
    assert _wrong(slide, 0) == 0
    queue = context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads
        workers = [context.Process(target=_reads, args=(slide, seed, queue)) for seed in range(3)]
        [one.start() for one in workers]
    assert _wrong(slide, 9) == 0 and [queue.get(timeout=60) for _ in workers] == [0, 0, 0]
    [one.join() for one in workers]
    copy = pickle.loads(pickle.dumps(Slide(slide.path, 0.7)))
    assert copy.microns == 0.7 and _wrong(copy, 5) == 0


def test_a_slide_is_closed(tmp_path):
    path = pyramid(tmp_path / "a.tif")
    opened = Path("/proc/self/fd")
    if not opened.exists():
        pytest.skip("needs /proc")
    before = len(list(opened.iterdir()))
    for _ in range(5):
        with Slide(path) as slide:
            slide.read(0, 0, 10, 10)
        microns_of(path)
    assert len(list(opened.iterdir())) == before


# ---- what is refused


@pytest.mark.parametrize(
    "make", [aperio, pyramid, lambda path: pyramid(path, sub=True)], ids=["aperio", "pages", "sub"]
)
def test_a_slide_that_was_cut_off_is_refused(tmp_path, make):
    "tifffile opens many of these with fewer levels, or with tiles that are not there."
    whole = make(tmp_path / "whole.tif").read_bytes()
    for share in (0.999, 0.97, 0.9, 0.8, 0.7, 0.5, 0.3, 0.1, 0.01):
        (tmp_path / "cut.tif").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(ValueError, match="cut.tif (is cut off: its header names|cannot be read)") as problem:
            Slide(tmp_path / "cut.tif", 0.5)
        assert "\n" not in str(problem.value)


def test_a_store_without_one_of_its_levels_is_refused(tmp_path):
    path = store(tmp_path / "a.zarr")
    for file in sorted((path / "2").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (path / "2").rmdir()
    with pytest.raises(ValueError, match="a.zarr names 3 levels, and '2' is not there; copy or download it again"):
        Slide(path)


def stack(path):
    tifffile.imwrite(
        path, np.zeros((3, 128, 128), np.uint8), tile=(64, 64), photometric="minisblack", metadata={"axes": "ZYX"}
    )


def channels(path):
    store(path, image=np.zeros((64, 64, 5), np.uint8))


def group(path):
    zarr.open_group(path, mode="w")


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("a.tif", stack, "holds 3 (planes|pages)"),
        ("a.zarr", channels, "has 5 along c; expected one image, grey or RGB"),
        ("a.zarr", group, "is a zarr store without the description of an image"),
        ("a.mrxs", lambda path: path.write_text("no slide"), "cannot be read .*; is it damaged"),
        ("a.svs", lambda path: path.write_bytes(b"II*\0" + bytes(50)), "cannot be read .*; is it damaged"),
        ("a.png", lambda path: path.write_text("no image"), "is not an image that can be read"),
        ("a", Path.mkdir, "is a folder"),
    ],
)
def test_what_is_no_slide_is_named_in_one_sentence(tmp_path, name, make, said):
    make(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} {said}") as problem:
        Slide(tmp_path / name)
    assert "\n" not in str(problem.value)


def test_what_does_not_exist_is_named(tmp_path):
    slide = Slide(pyramid(tmp_path / "a.tif"))
    with pytest.raises(ValueError, match=r"a.tif has no level 3; it has 0 \(760x560 px\), 1 \(380x280 px\), 2"):
        slide.read(0, 0, 9, 9, 3)
    for region in ((-1, 0, 9, 9), (0, 0, 0, 9), (552, 0, 9, 9), (0, 752, 9, 9), (0, 0, 561, 1)):
        with pytest.raises(
            ValueError, match="a.tif: the region of .* does not lie in level 0, which has 560 rows and 760"
        ):
            slide.read(*region)
    with pytest.raises(ValueError, match="level 2, which has 140 rows"):
        slide.read(100, 0, 41, 9, 2)
    with pytest.raises(FileNotFoundError, match="b.tif does not exist"):
        Slide(tmp_path / "b.tif")


# ---- tissue, and parts that cover it


def tissue_slide(path, levels=(1, 2, 4), shape=(1500, 2300)):
    "Two pieces of tissue on glass, the second in the last rows and columns; with a black frame and a few specks."
    image = np.full((*shape, 3), 0.95, np.float32)
    piece = nuclei()
    image[200:488, 300:588], image[-200:, -250:] = piece, piece[:200, :250]
    image[:12] = 0
    image[900, 900], image[1000:1002, 40] = 0.2, 0.3
    truth = np.zeros(shape, bool)
    truth[200:488, 300:588] = truth[-200:, -250:] = True
    return pyramid(path, np.round(255 * image).astype(np.uint8), factors=levels), truth


@pytest.mark.parametrize("levels", [(1, 2, 4), (1, 8), (1,)])
@pytest.mark.parametrize("coarse", [1024, 300])
def test_tissue_is_found_to_the_last_row_and_column(tmp_path, levels, coarse, monkeypatch):
    monkeypatch.setattr(slides, "_COARSE", coarse)
    monkeypatch.setattr(readers, "LARGEST", 1000)  # a single level in tiles is read in parts as well
    path, truth = tissue_slide(tmp_path / "a.tif", levels)
    found = find_tissue(Slide(path))
    assert max(found.shape) <= coarse
    rows, columns = (np.arange(n) * f // n for n, f in zip(truth.shape, found.shape))
    large = found[rows][:, columns]
    assert large[truth].mean() > 0.995 and large[-1, -1] and not large[:150].any()
    assert large.mean() < 3 * truth.mean() and not large[880:920, 880:920].any()


def test_blocks_are_means(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "_COARSE", 100)
    monkeypatch.setattr(readers, "LARGEST", 500)
    path = pyramid(tmp_path / "a.tif", factors=(1,))
    found = slides._coarse(Slide(path))
    whole = IMAGE / 255
    expected = [[whole[r : r + 8, c : c + 8].mean(axis=(0, 1)) for c in range(0, 760, 8)] for r in range(0, 560, 8)]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_slide_of_glass_is_refused(tmp_path):
    path = pyramid(tmp_path / "a.tif", np.full((600, 700, 3), 242, np.uint8))
    with pytest.raises(ValueError, match="a.tif shows no tissue: all of it is glass, ink or black"):
        find_tissue(Slide(path))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.integers(48, 300), st.integers(0, 70), st.integers(0, 9))
def test_cores_hold_each_pixel_once(rows, columns, size, overlap, seed):
    "Against a count, pixel by pixel; windows stay on the slide; cores begin on the grid of the file's tiles."
    slide = Slide.__new__(Slide)
    slide.path, slide.levels = Path("a"), (slides.Level(rows, columns, 1.0, (32, 48)),)
    for tissue in (None, np.random.default_rng(seed).random((9, 7)) < 0.1):
        times = np.zeros((rows, columns), int)
        for (up, west, high, wide), (top, left, down, across) in tiles(slide, size, overlap, tissue=tissue):
            times[top : top + down, left : left + across] += 1
            assert top % 32 == left % 48 == 0 and down > 0 and across > 0
            assert up == max(0, top - overlap) and up + high == min(rows, top + down + overlap)
            assert west == max(0, left - overlap) and west + wide == min(columns, left + across + overlap)
        mask = np.ones((1, 1), bool) if tissue is None else tissue
        where = mask[np.arange(rows) * len(mask) // rows][:, np.arange(columns) * mask.shape[1] // columns]
        assert times.max(initial=0) <= 1 and (times[where] == 1).all() and (tissue is not None or times.all())


# ---- microns decide the scale


def tiny(preparation=NUCLEI):
    return Model(random_network(1), preparation=preparation, about={"name": "tiny"})


DRAW = {"members": 2, "method": "draft", "progress": False}
SLIDE_8 = np.round(255 * nuclei()).astype(np.uint8)


@pytest.mark.parametrize(("microns", "shape"), [(0.25, (144, 144)), (0.5, (288, 288)), (0.4, (230, 230))])
def test_the_pixel_size_in_a_file_decides_the_scale(tmp_path, microns, shape):
    path = ome(tmp_path / "a.ome.tif", SLIDE_8, PhysicalSizeX=microns, PhysicalSizeY=microns)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = segment(path, tiny(), **DRAW)
        given = segment(read_image(path), tiny(), microns=microns, **DRAW)
    assert found["mean"].shape == shape and found.attrs["microns"] == microns and found.attrs["microns_from"] == "OME"
    assert found.attrs["sees"] == f"288x288 px at {microns:g} um/px -> {shape[1]}x{shape[0]} px at 0.5 um/px"
    xr.testing.assert_identical(found.drop_attrs(), given.drop_attrs())


def test_what_is_given_comes_before_what_the_file_says(tmp_path):
    path = ome(tmp_path / "a.ome.tif", SLIDE_8, PhysicalSizeX=0.25, PhysicalSizeY=0.25)
    other = segment(path, tiny(), microns=0.5, **DRAW)
    assert (
        other["mean"].shape == (288, 288) and other.attrs["microns"] == 0.5 and other.attrs["microns_from"] == "given"
    )
    scaled = segment(path, tiny(), scale=0.25, **DRAW)
    assert scaled.attrs["sees"] == "288x288 px at 0.25 um/px -> 72x72 px at 1 um/px" and scaled.attrs["microns"] == 0.25


def test_a_region_of_a_level_is_segmented_as_if_it_were_a_file(tmp_path):
    large = np.tile(SLIDE_8, (3, 3, 1))
    path = pyramid(tmp_path / "a.tif", large, first=dict(resolution=(40000, 40000), **CM), factors=(1, 2))
    found = segment_file(path, tmp_path / "out", tiny(), region=(40, 60, 200, 300), level=1, **DRAW)
    alone = segment(large[::2, ::2][40:240, 60:360] / np.float32(255), tiny(), microns=0.5, **DRAW)
    xr.testing.assert_identical(found.drop_attrs(), alone.drop_attrs())
    wanted = {
        "region": "40 60 200 300",
        "region_row": 40,
        "region_column": 60,
        "level": 1,
        "microns": 0.5,
        "scale": 1.0,
    }
    assert {key: found.attrs[key] for key in wanted} == wanted
    with Image.open(tmp_path / "out" / "a_overlay.png") as picture:
        assert picture.size == (300, 200)
    with pytest.raises(ValueError, match="a.tif has no level 2"):
        segment(path, tiny(), level=2, **DRAW)
    with pytest.raises(ValueError, match="region and level belong to an image file"):
        segment(nuclei(), tiny(), level=1, **DRAW)


def test_a_slide_that_is_too_large_says_what_helps(tmp_path):
    image = np.zeros((40, 4200, 3), np.uint8)
    path = pyramid(tmp_path / "a.tif", image, factors=(1, 2))
    said = (
        "a.tif: the image has 40 x 4200 pixels: each side must have 32 to 4096; choose a region of it, or a smaller l"
    )
    with pytest.raises(ValueError, match=said):
        segment(path, tiny(), **DRAW)


def test_evaluate_and_segment_prepare_an_image_in_the_same_way(tmp_path):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    path = ome(tmp_path / "images" / "a.ome.tif", SLIDE_8, PhysicalSizeX=0.4, PhysicalSizeY=0.4)
    Image.fromarray(np.uint8(SLIDE_8[..., 0] < 128) * 255).save(tmp_path / "masks" / "a.ome.png")
    (case,) = find_cases("folder", tmp_path, "all")
    assert read_case(case).microns == 0.4 and prepare_case(case, NUCLEI).microns == 0.4
    np.testing.assert_array_equal(prepare_case(case, NUCLEI).image, segment(path, tiny(), **DRAW)["image"])


# ---- from a shell


@pytest.fixture
def slide(place):
    large = np.tile(SLIDE_8, (2, 2, 1))
    return pyramid(Path("slide.svs"), large, first=dict(resolution=(40000, 40000), **CM), factors=(1, 2))


def words(*more):
    return ("segment", "--out", "out", "--weights", "tiny.safetensors", *QUICK, *more)


def test_regions_of_slides_from_a_shell(run, slide):
    code, out, lines = run(*words("slide.svs", "--region", "30", "40", "100", "140"))
    assert (code, lines) == (0, []) and "140x100 px at 0.25 um/px -> 70x50 px at 0.5 um/px" in out
    assert refused(run(*words("slide.svs", "--resume")), "region", "--force")
    assert run(*words("slide.svs", "--resume", "--region", "30", "40", "100", "140"))[:2] == (
        0,
        "slide.svs: done before, skipped\n",
    )
    code, out, _ = run(*words("slide.svs", "--force", "--level", "1", "--mpp", "0.2"))
    assert code == 0 and "288x288 px at 0.4 um/px -> 230x230 px at 0.5 um/px" in out
    assert run(*words("slide.svs", "--resume", "--level", "1", "--mpp", "0.2"))[0] == 0
    assert refused(run(*words("slide.svs", "--resume", "--level", "1")), "scale 0.8, now 1.0")
    assert refused(run(*words("slide.svs", "--force", "--level", "7")), "slide.svs has no level 7")
    assert refused(run(*words("slide.svs", "--force", "--region", "0", "0", "9999", "50")), "each side")


def test_a_store_is_one_image_and_a_folder_holds_many(run, slide):
    store(Path("photos/a.zarr"), image=SLIDE_8[:96, :96])
    slide.rename("photos/slide.svs")
    code, out, _ = run(*words("photos"))
    assert code == 0 and "a.zarr: " in out and "slide.svs: " in out and "2 of 2 images" in out
    code, out, _ = run(*words("photos/a.zarr", "--resume"))
    assert code == 0 and "done before" in out
    zarr.open_group("photos/a.zarr")["0"][0, 0, 0] = 7
    assert refused(run(*words("photos/a.zarr", "--resume")), "the image")


def test_a_missing_pixel_size_is_said_aloud(run, place, capsys):
    Image.fromarray(SLIDE_8[:64, :64]).save("plain.png")
    Image.fromarray(SLIDE_8[:64, :64]).save("screen.png", dpi=(72, 72))
    from sdfdiff.command import main

    assert main([str(word) for word in words("plain.png", "screen.png")]) == 0
    said = capsys.readouterr().err
    assert "plain.png: no pixel size in the file: assumed 0.25 um/px (40x); give the true one (microns, --mpp)" in said
    assert "screen.png: no plausible pixel size in the file (resolution: 352.7 um): assumed 0.25 um/px (40x)" in said


def test_evaluate_takes_the_pixel_size_and_says_it(run, place, capsys):
    for name in ("images", "masks"):
        Path("data", name).mkdir(parents=True)
    for k in range(2):
        Image.fromarray(SLIDE_8[:96, :96]).save(f"data/images/{k}.png")
        Image.fromarray(np.uint8(SLIDE_8[:96, :96, 0] < 128) * 255).save(f"data/masks/{k}.png")
    line = ("evaluate", "folder", "--root", "data", "--split", "train", "--weights", "tiny.safetensors", *QUICK)
    code, out, lines = run(*line, "--mpp", "0.5", "--out", "a.zarr")
    assert code == 0 and not lines and "2 images of 96x96 px at 0.5 um/px -> 96x96 px at 0.5 um/px" in out
    assert refused(run(*line, "--mpp", "0.25", "--out", "a.zarr", "--resume"), "microns")
    from sdfdiff.command import main

    assert main([*map(str, line)]) == 0
    found = capsys.readouterr()
    assert "2 of 2 images: no pixel size: assumed 0.25 um/px (40x)" in found.err
    assert "2 images of 96x96 px at 0.25 um/px (assumed) -> 48x48 px at 0.5 um/px" in found.out
