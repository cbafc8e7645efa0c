"Reading pixels: thousands of small files, each as written or refused in one sentence, never a third thing."

import io
import itertools
import warnings
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from sdfdiff.files import read_image, read_labels
from sdfdiff.pixels import read_pixels

ROWS, COLUMNS = 16, 24  # one tile wide and high where there are tiles
RANDOM = np.random.default_rng(0)
TURNED = {  # orientation: as shown
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}
FULL = {"1": 1, "2": 3, "4": 15, "u1": 255, "12": 4095, "u2": 65535, "f2": 1, "f4": 1, "f8": 1}


def numbers(depth, channels):
    "Random numbers over the whole range of a depth."
    shape = (ROWS, COLUMNS, channels)[: 2 + (channels > 1)]
    if depth[0] == "f":
        return RANDOM.random(shape).astype(depth)
    kind = bool if depth == "1" else np.uint8 if FULL[depth] < 256 else np.uint16
    return RANDOM.integers(0, FULL[depth] + 1, shape).astype(kind)


def shown(array, depth, channels, miniswhite=False, associated=False):
    "What a viewer shows: light in [0, 1], on white."
    light = array.astype(float) / FULL[depth]
    if channels in (2, 4):
        light, alpha = light[..., :-1], light[..., -1:]
        light = (light if associated else light * alpha) + 1 - alpha
        light = light[..., 0] if channels == 2 else light
    return np.clip(1 - light if miniswhite else light, 0, 1)


def outcome(path, expected, tolerance, read=read_image):
    "`exact`, or the sentence; AssertionError for a third thing."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            found = read(path)
        except ValueError as problem:
            said = str(problem)
            assert said.startswith(str(path)) and "\n" not in said and said[-1] in ".?", said
            return said
    assert found.shape == expected.shape, path.name
    assert np.abs(found - expected).max() <= tolerance, f"{path.name}: {np.abs(found - expected).max()}"
    return "exact"


def tally(outcomes):
    "How many, how many of them exact; the refusals stand in the report of a failure."
    exact = sum(one == "exact" for one in outcomes)
    print(f"{len(outcomes)} files, {exact} exact, refused: {sorted({one[-90:] for one in outcomes} - {'exact'})}")
    return len(outcomes), exact


def tiff_variants():
    "depth x channels x byte order x compression x photometric x planar x tiles x orientation."
    depths, orders = ("1", "u1", "u2", "12", "f2", "f4", "f8"), "<>"
    compressions = (None, "lzw", "zlib", "zstd", "packbits", "lzma")
    for depth, channels, order, compression in itertools.product(depths, (1, 2, 3, 4), orders, compressions):
        packed = depth in ("1", "12")
        if packed and (channels > 1 or (depth == "12" and (compression or order == ">"))):
            continue  # tifffile writes no such file, or (12 bits, big-endian) packs the two bytes in the wrong order
        for planar, tiled, white in itertools.product(("contig", "separate"), (False, True), (False, True)):
            if (planar == "separate" and channels < 3) or (white and channels > 1) or (tiled and packed):
                continue
            yield depth, channels, order, compression, planar, tiled, white


def test_every_tiff_of_tifffile(tmp_path):
    "Each orientation in turn; grey, grey with opacity, RGB, RGBA with both kinds of opacity."
    outcomes, labels = [], []
    for count, (depth, channels, order, compression, planar, tiled, white) in enumerate(tiff_variants()):
        array, orientation = numbers(depth, channels), 1 + count % 8
        associated = channels in (2, 4) and count % 3 == 0
        if associated:
            array[..., -1] = max(FULL[depth] // 2, 0.5) if depth[0] == "f" else FULL[depth] // 2
            array[..., :-1] = array[..., :-1] / 4
        options = {"byteorder": order, "compression": compression, "photometric": ("minisblack", "rgb")[channels > 2]}
        options |= {"photometric": "miniswhite"} if white else {}
        options |= {"planarconfig": planar} if channels > 1 else {}
        options |= {"tile": (16, 16)} if tiled else {}
        options |= {"extrasamples": ["assocalpha" if associated else "unassalpha"]} if channels in (2, 4) else {}
        options |= {"bitspersample": 12} if depth == "12" else {}
        options |= {"predictor": True} if compression and count % 2 and depth in ("u1", "u2", "f4") else {}
        stored = np.moveaxis(array, -1, 0) if planar == "separate" and channels > 1 else array
        path = tmp_path / "a.tif"
        tags = [(274, 3, 1, orientation, True)]
        tifffile.imwrite(path, stored, bigtiff=count % 5 == 0, extratags=tags, metadata=None, **options)
        what = TURNED[orientation](shown(array, depth, channels, white, associated))
        outcomes.append(outcome(path, what, 2e-3 if depth == "f2" else 1e-6))
        if channels == 1 and depth[0] != "f":
            array[0, 0] = 0
            tifffile.imwrite(path, array // 2 if depth != "1" else array, extratags=tags, metadata=None, **options)
            expected = TURNED[orientation](array.astype(int) // (1 if depth == "1" else 2))
            labels.append(outcome(path, expected, 0, read_labels))
    count, exact = tally(outcomes)
    assert count >= 850 and exact == count
    count, exact = tally(labels)
    assert count >= 100 and exact == count


def test_every_tiff_of_pillow(tmp_path):
    modes = {"1": ("1", 1), "L": ("u1", 1), "I;16": ("u2", 1), "F": ("f4", 1), "RGB": ("u1", 3), "RGBA": ("u1", 4)}
    compressions = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "group4")
    outcomes = []
    for (mode, (depth, channels)), compression, orientation in itertools.product(modes.items(), compressions, TURNED):
        if compression == "group4" and mode != "1":
            continue
        array = numbers(depth, channels)
        Image.fromarray(array).save(tmp_path / "a.tif", compression=compression, tiffinfo={274: orientation})
        expected = TURNED[orientation](shown(array, depth, channels))
        outcomes.append(outcome(tmp_path / "a.tif", expected, 1e-6))
    count, exact = tally(outcomes)
    assert count >= 240 and exact == count


def chunk(name, content):
    return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)


def packed_png(array, bits, kind=0, extra=b""):
    "A PNG of any depth, byte by byte: Pillow writes no grey of 2 and 4 bits."
    rows, columns = array.shape[:2]
    header = chunk(b"IHDR", columns.to_bytes(4) + rows.to_bytes(4) + bytes([bits, kind, 0, 0, 0]))
    lines = b""
    for row in array.reshape(rows, -1):
        places = (row[:, None].astype(int) >> np.arange(bits)[::-1]) & 1
        lines += b"\0" + np.packbits(places.ravel().astype(np.uint8)).tobytes()
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def turned_png(data, orientation):
    "With an eXIf chunk, as cameras write it."
    exif = Image.Exif()
    exif[274] = orientation
    return data[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + data[33:]


def test_every_png(tmp_path):
    "By Pillow, by imagecodecs and byte by byte: 1 to 16 bits, grey and colour, opacity and a transparent number."
    outcomes, path = [], tmp_path / "a.png"
    kinds = {1: 0, 2: 4, 3: 2, 4: 6}
    for depth, channels, orientation in itertools.product(("1", "2", "4", "u1", "u2"), kinds, TURNED):
        bits, array = {"u1": 8, "u2": 16}.get(depth) or int(depth), numbers(depth, channels)
        if bits < 8 and channels > 1:
            continue
        files = [packed_png(array, bits, kinds[channels])]
        if bits >= 8:
            files.append(imagecodecs.png_encode(array))
        if bits == 8 or channels == 1:
            buffer = io.BytesIO()
            values = array if bits in (1, 8, 16) else array * np.uint8(255 // FULL[depth])
            Image.fromarray(values).save(buffer, "PNG", optimize=orientation > 4)
            files.append(buffer.getvalue())
        for data in files:
            path.write_bytes(turned_png(data, orientation))
            outcomes.append(outcome(path, TURNED[orientation](shown(array, depth, channels)), 1e-6))
        if channels in (1, 3):  # tRNS: one number is transparent
            clear = np.atleast_1d(array[2, 3])
            path.write_bytes(packed_png(array, bits, kinds[channels], chunk(b"tRNS", clear.astype(">u2").tobytes())))
            gone = (np.atleast_3d(array) == clear).all(axis=2)
            light = shown(array, depth, channels)
            light[gone] = 1
            outcomes.append(outcome(path, light, 1e-6))
        if channels == 1:
            array[0, :3] = (0, 1, FULL[depth] // 2)
            for data in files[:1] * (bits < 8) or [imagecodecs.png_encode(array // 2)]:
                path.write_bytes(turned_png(packed_png(array, bits) if bits < 8 else data, orientation))
                labels = array.astype(int) // (1 if bits < 8 else 2)
                outcomes.append(outcome(path, TURNED[orientation](labels), 0, read_labels))
    count, exact = tally(outcomes)
    assert count >= 250 and exact == count


def test_every_jpeg(tmp_path):
    "A smooth picture comes back within 0.03, turned as shown: grey, colour, CMYK; Pillow and imagecodecs."
    across = np.linspace(0.1, 0.9, COLUMNS) * np.ones((ROWS, 1))
    smooth = np.stack([across, across[::-1, ::-1], 0.5 + 0 * across], axis=2)
    outcomes, path = [], tmp_path / "a.jpg"
    modes = {"L": smooth[..., 0], "RGB": smooth, "CMYK": smooth}
    for mode, orientation, progressive, quality in itertools.product(modes, TURNED, (False, True), (90, 100)):
        exif = Image.Exif()
        exif[274] = orientation
        picture = Image.fromarray(np.round(modes[mode] * 255).astype(np.uint8)).convert(mode)
        picture.save(path, quality=quality, progressive=progressive, exif=exif, subsampling=0)
        outcomes.append(outcome(path, TURNED[orientation](modes[mode]), 0.03))
    for light in modes.values():
        for bits, full in ((8, 255), (12, 4095)):
            values = np.round(light * full).astype(np.uint8 if bits == 8 else np.uint16)
            path.write_bytes(imagecodecs.jpeg_encode(values, level=98, bitspersample=bits))
            outcomes.append(outcome(path, light, 0.03))
            tifffile.imwrite(tmp_path / "a.tif", values, compression="jpeg", bitspersample=bits,
                             photometric="rgb" if values.ndim == 3 else None)  # fmt: skip
            outcomes.append(outcome(tmp_path / "a.tif", light, 0.03))
    count, exact = tally(outcomes)
    assert count >= 100 and exact == count


# ---- one by one

GREY, RGB = numbers("u2", 1), numbers("u1", 3)
TWELVE = GREY >> 4


def tiff(path, array, **options):
    tifffile.imwrite(path, array, **options)
    return path


def overwrite(path, **tags):
    "Change tags of a file in place: name=value."
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name, value in tags.items():
            file.pages[0].tags[name].overwrite(value)
    return path


COMPRESSED = [  # compression, array, options
    *((name, RGB, {}) for name in ("lzw", "zstd", "jpeg2000", "png", "jpegxr")),
    *((name, RGB, {"compressionargs": {"lossless": True}}) for name in ("webp", "jpegxl")),
    ("lerc", GREY, {}),
    ("jpeg2000", GREY, {}),
    ("lzw", numbers("u2", 3), {}),
    ("zlib", numbers("f4", 1), {"predictor": 3}),
    ("zlib", numbers("f8", 3), {}),
    ("lzw", numbers("u2", 3), {"predictor": 2, "byteorder": ">"}),
]


@pytest.mark.parametrize(("name", "array", "options"), COMPRESSED)
def test_compressions(tmp_path, name, array, options):
    options = options | ({"photometric": "rgb"} if array.ndim == 3 else {})
    path = tiff(tmp_path / "a.tif", array, compression=name, **options)
    full = 1 if array.dtype.kind == "f" else np.iinfo(array.dtype).max
    assert np.abs(read_image(path) - array / full).max() <= 1e-6


@pytest.mark.parametrize("kind", [np.int16, np.int32, np.uint32, np.float32, np.int64])
def test_big_endian_and_compressed(tmp_path, kind):
    labels = np.zeros((9, 7), kind)
    labels[1:4, 2:5], labels[6:, 3:] = 1, 2
    path = tiff(tmp_path / "a.tif", labels, byteorder=">", compression="lzw")
    assert (read_labels(path) == labels).all()
    if kind == np.float32:
        path = tiff(tmp_path / "b.tif", labels / np.float32(2), byteorder=">", compression="zlib", predictor=True)
        assert (read_image(path) == labels / 2).all()
    else:
        path = tiff(tmp_path / "b.tif", labels * kind(9000), byteorder=">", compression="zlib")
        assert np.abs(read_image(path) - labels * 9000.0 / 65535).max() < 1e-7


def test_twelve_bits(tmp_path):
    "Packed, in JPEG, and in 16 if a tag or OME says so; a tag that is no full scale is a statistic and says nothing."
    path, light = tmp_path / "a.tif", TWELVE / 4095
    assert np.abs(read_image(tiff(path, TWELVE, bitspersample=12)) - light).max() < 1e-6
    tags = [(281, 3, 1, 4095, True)]
    assert np.abs(read_image(tiff(path, TWELVE, extratags=tags)) - light).max() < 1e-6
    ome = tiff(tmp_path / "a.ome.tif", TWELVE, metadata={"SignificantBits": 12})
    assert np.abs(read_image(ome) - light).max() < 1e-6
    tags = [(281, 3, 1, int(GREY.max()) - 1000, True)]
    assert np.abs(read_image(tiff(path, GREY, extratags=tags)) - GREY / 65535).max() < 1e-6
    with pytest.raises(ValueError, match=r"a.tif has values from .*; expected 0 to 4095 for uint16\.$"):
        read_image(tiff(path, GREY, extratags=[(281, 3, 1, 4095, True)]))
    bits = (TWELVE[..., None] >> np.arange(12)[::-1]) & 1
    packed = np.packbits(bits.reshape(ROWS, -1).astype(np.uint8), axis=1)  # big-endian: tifffile cannot write it
    overwrite(tiff(path, packed, byteorder=">"), ImageWidth=COLUMNS, BitsPerSample=12)
    assert np.abs(read_image(path) - light).max() < 1e-6


REFUSED = {  # what: (array, options, words)
    "ImageJ stack with one directory": ((5, 9, 8), "u1", {"imagej": True, "truncate": True}, "holds 5 planes; save"),
    "shaped stack with one directory": ((5, 9, 8), "u1", {"truncate": True, "photometric": "minisblack"}, "5 planes"),
    "volume": ((4, 16, 16), "u1", {"volumetric": True, "photometric": "minisblack", "tile": (4, 16, 16)}, "4 planes"),
    **{
        f"pages of {kind}": ((3, 9, 8), kind, {"photometric": "minisblack"}, "holds 3 pages; save the one")
        for kind in ("f8", "f2", "i8", "u8")
    },
    "two channels": ((9, 8, 2), "u1", {"photometric": "minisblack", "planarconfig": "contig"}, "2 channels"),
    "four channels": ((9, 8, 4), "u1", {"photometric": "rgb", "extrasamples": ["unspecified"]}, "4 channels"),
    "five channels": ((9, 8, 5), "u2", {"photometric": "minisblack", "planarconfig": "contig"}, "5 channels"),
    "complex": ((9, 8), "c8", {}, "expected whole numbers or floating point"),
}


@pytest.mark.parametrize("what", REFUSED)
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_refused_in_one_sentence(tmp_path, what, read):
    shape, kind, options, words = REFUSED[what]
    path = tiff(tmp_path / "a.tif", np.zeros(shape, kind), **options)
    assert words in outcome(path, None, 0, read)


def test_compression_is_named(tmp_path):
    for code, name in ((34661, "JBIG"), (6, "OJPEG"), (64999, "64999")):
        path = overwrite(tiff(tmp_path / "a.tif", GREY, compression="zlib"), Compression=code)
        said = outcome(path, None, 0)
        assert f"is compressed in a way that is not read here ({name}); save it without compression." in said


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits", "jpeg", "jpeg2000"])
def test_cut_off_files(tmp_path, compression, capfd):
    path = tiff(tmp_path / "a.tif", RANDOM.integers(0, 256, (64, 64, 3)).astype(np.uint8), compression=compression,
                photometric="rgb", rowsperstrip=16)  # fmt: skip
    whole = path.read_bytes()
    for part in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(len(whole) * part)])
        assert "is it damaged?" in outcome(path, None, 0)
    assert capfd.readouterr() == ("", "")  # tifffile's log says nothing beside it


def test_previews_do_not_count(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(GREY, subifds=1)
        file.write(GREY[::2, ::2], subfiletype=1)
        file.write(GREY[::4, ::4], subfiletype=1)
    assert np.abs(read_image(tmp_path / "a.tif") - GREY / 65535).max() < 1e-7


def test_opacity_is_laid_on_white(tmp_path):
    "Transparent black is white, an opaque image stays, and one without anything to see is refused."
    black = np.zeros((6, 5, 4), np.uint8)
    black[:4, :, 3] = 255
    for write in (lambda path: tiff(path, black), lambda path: Image.fromarray(black).save(path, "PNG")):
        write(tmp_path / "a.tif")
        image = read_image(tmp_path / "a.tif")
        assert image.shape == (6, 5, 3) and (image[:4] == 0).all() and (image[4:] == 1).all()
    black[..., 3] = 0
    assert "transparent everywhere" in outcome(tiff(tmp_path / "a.tif", black), None, 0)


def test_rounding_of_floats_is_forgiven(tmp_path):
    light = np.float32([[0, 0.5, 1 + 9e-7], [-9e-7, 1, 0.25]])
    assert (read_image(tiff(tmp_path / "a.tif", light)) == np.clip(light, 0, 1)).all()
    said = outcome(tiff(tmp_path / "a.tif", np.float32([[0, 1.0000021]])), None, 0)
    assert said.endswith("a.tif has values from 0 to 1.0000021; expected 0 to 1 for float32.")


def test_too_many_pixels(tmp_path):
    "The size rule, before anything is decoded; what is allowed is read without a warning."
    (tmp_path / "a.png").write_bytes(packed_png(np.zeros((1, 8), np.uint8), 1))
    data = bytearray((tmp_path / "a.png").read_bytes())
    header = (20_000).to_bytes(4) + (10_000).to_bytes(4) + data[24:29]
    data[16:33] = header + zlib.crc32(b"IHDR" + header).to_bytes(4)
    (tmp_path / "a.png").write_bytes(data)
    overwrite(tiff(tmp_path / "a.tif", np.zeros((9, 8), np.uint8)), ImageWidth=20_000, ImageLength=10_000)
    for name, read in itertools.product(("a.png", "a.tif"), (read_image, read_labels)):
        said = outcome(tmp_path / name, None, 0, read)
        assert "pixels: an image to be segmented has 32 to 4096 on each side." in said and "damaged" not in said
    Image.new("1", (10_000, 9_000), 1).save(tmp_path / "large.png")  # Pillow warns from 89 million pixels on
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_pixels(tmp_path / "large.png").values.shape == (9_000, 10_000)


def test_palettes_and_printing_inks(tmp_path):
    entries = numbers("4", 1)
    table = RANDOM.integers(0, 256, (3, 256))
    for factor in (1, 256, 257):  # the lower 8 bits, the upper 8, and all 16
        colormap = (table * factor).astype(np.uint16)
        path = tiff(tmp_path / "a.tif", entries, photometric="palette", colormap=colormap)
        assert np.abs(read_image(path) - np.moveaxis(table[:, entries], 0, 2) / 255).max() < 1e-6
        assert (read_labels(path) == entries).all()
    inks = numbers("u1", 4)
    Image.fromarray(inks, "CMYK").save(tmp_path / "b.tif")
    light = (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255)
    assert np.abs(read_image(tmp_path / "b.tif") - light).max() <= 1 / 255
    Image.fromarray(RGB, "YCbCr").save(tmp_path / "c.tif")
    assert (
        np.abs(read_image(tmp_path / "c.tif") - np.array(Image.fromarray(RGB, "YCbCr").convert("RGB")) / 255).max()
        < 0.02
    )
    assert "stores CMYK colours in an unusual way" in outcome(
        tiff(tmp_path / "d.tif", numbers("u2", 4), photometric="separated"), None, 0
    )


def test_the_content_counts_and_not_the_name(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.tif", "PNG")
    Image.fromarray(RGB).save(tmp_path / "b.png", "TIFF")
    Image.fromarray(RGB).save(tmp_path / "c.jpg", "WEBP", lossless=True)
    for name in ("a.tif", "b.png", "c.jpg"):
        assert (read_image(tmp_path / name) == RGB / np.float32(255)).all()
    Image.fromarray(RGB).save(tmp_path / "d.png", "JPEG2000")
    assert "is a JPEG2000 file; expected PNG, TIFF, JPEG or BMP." in outcome(tmp_path / "d.png", None, 0)
    first, second = (Image.fromarray(RGB + np.uint8(k)) for k in range(2))
    for kind in ("PNG", "GIF", "TIFF"):
        first.save(tmp_path / "e.png", kind, save_all=True, append_images=[second])
        assert "holds 2 pages; save the one to be used" in outcome(tmp_path / "e.png", None, 0)
