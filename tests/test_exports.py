"Objects in the files of other programs: read back, with the same numbers, areas and units; whole or not at all."

import gzip
import json
import re
import sys
import uuid
import warnings
from importlib import import_module

import numpy as np
import pytest
import shapely
import tifffile
import xarray as xr
from scipy import ndimage

from sdfdiff import drawing
from sdfdiff.ensembles.exports import columns, uncertainty_picture, write_geojson, write_labels, write_objects
from sdfdiff.files import read_labels
from sdfdiff.outlines import trace_outlines


def made(shape=(120, 150), seed=0):
    "Labels of blobs that touch no other one, numbered with gaps, and a table of them."
    generator = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(generator.normal(size=shape), 3)
    labels = ndimage.label(smooth > 0.5 * smooth.std())[0].astype(np.uint32) * 3
    number = np.unique(labels)[1:]
    middle = np.array(ndimage.center_of_mass(labels > 0, labels, number))
    values = {
        "row": (middle[:, 0], {"units": "px"}),
        "column": (middle[:, 1], {"units": "px"}),
        "area": (np.bincount(labels.flat)[number] * 0.25**2, {"units": "µm²"}),
        "probability": (generator.uniform(0.5, 1, len(number)), {"units": "1"}),
        "area_std": (np.where(number % 2, np.nan, 0.5), {"units": "µm²"}),
        "parts": (np.ones(len(number), int), {}),
        "kind": (np.array(["round", "long"] * len(number))[: len(number)], {}),
    }
    table = xr.Dataset({name: ("object", *one) for name, one in values.items()}, {"id": ("object", number)})
    table["intensity"] = (("object", "stain"), generator.random((len(number), 2)))
    table.attrs = {"source": "blobs", "members": np.int64(8), "microns": np.float32(0.25), "levels": np.arange(3)}
    return labels, table.assign_coords(stain=["haematoxylin", "eosin"])


LABELS, TABLE = made()


def collection(path):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf8") as file:
        return json.load(file)


# ---- labels


def test_labels_come_back_from_the_file(tmp_path):
    path = write_labels(tmp_path / "a_labels.tif", LABELS, microns=0.25)
    assert (read_labels(path) == LABELS).all()
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        assert file.is_ome and page.dtype == np.uint32 and page.is_tiled and page.compression.name == "ADOBE_DEFLATE"
        pixels = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
        assert [pixels[f"PhysicalSize{axis}"] for axis in "XY"] == [0.25, 0.25]
        assert [pixels[f"PhysicalSize{axis}Unit"] for axis in "XY"] == ["µm", "µm"]
        assert page.tags["ResolutionUnit"].value == 3 and page.tags["XResolution"].value == (40000, 1)
        assert page.photometric.name == "MINISBLACK" and len(file.pages) == 1


@pytest.mark.parametrize("microns", [0.25, 0.4990, 2.48])
def test_slide_readers_know_the_pixel_size(tmp_path, microns):
    path = write_labels(tmp_path / "a_labels.tif", LABELS, microns)
    tiffslide, openslide = pytest.importorskip("tiffslide"), pytest.importorskip("openslide")
    with tiffslide.TiffSlide(path) as slide:
        assert slide.properties["tiffslide.mpp-x"] == pytest.approx(microns, rel=1e-6)
        region = slide.read_region((0, 0), 0, LABELS.shape[::-1], as_array=True)
        assert region.dtype == np.uint32 and (region.reshape(LABELS.shape) == LABELS).all()
    with openslide.OpenSlide(path) as slide:
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(microns, rel=1e-6)


def test_without_a_pixel_size_none_is_written(tmp_path):
    path = write_labels(tmp_path / "a_labels.tif", LABELS)
    with tifffile.TiffFile(path) as file:
        assert "PhysicalSize" not in file.ome_metadata
        assert file.pages.first.tags["ResolutionUnit"].value == 1, "no unit"


def test_large_numbers_and_odd_shapes(tmp_path):
    labels = np.zeros((513, 1025), np.int64)
    labels[512, 1024], labels[0, 0] = 2**32 - 1, 70_000
    path = write_labels(tmp_path / "a.tif", labels)
    assert (tifffile.imread(path) == labels).all()


def test_labels_may_lie_on_a_disk(tmp_path):
    "What is written is read band by band; the file is that of the array in memory."
    import zarr

    stored = zarr.create_array(tmp_path / "a.zarr", shape=LABELS.shape, dtype="uint32", chunks=(50, 50))
    stored[:] = LABELS
    first, second = (write_labels(tmp_path / name / "a.tif", one, 0.5) for name, one in (("x", LABELS), ("y", stored)))
    assert first.read_bytes() == second.read_bytes()
    first, second = (
        write_geojson(tmp_path / name / "a.geojson", one, TABLE) for name, one in (("x", LABELS), ("y", stored))
    )
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("microns", [0, -1, np.nan, np.inf])
def test_a_pixel_has_a_size(tmp_path, microns):
    with pytest.raises(ValueError, match="microns is a number above 0"):
        write_labels(tmp_path / "a.tif", LABELS, microns)


# ---- GeoJSON


@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
def test_geojson_is_what_qupath_reads(tmp_path, name):
    found = collection(write_geojson(tmp_path / name, LABELS, TABLE))
    assert found["type"] == "FeatureCollection" and len(found["features"]) == TABLE.sizes["object"]
    row = {int(number): k for k, number in enumerate(TABLE["id"].values)}
    for feature in found["features"]:
        assert list(feature) == ["type", "id", "geometry", "properties"] and feature["type"] == "Feature"
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        about = feature["properties"]
        number = int(about["name"])
        shape, one = shapely.geometry.shape(feature["geometry"]), TABLE.isel(object=row[number])
        assert shape.is_valid and shape.area == (LABELS == number).sum() and about["objectType"] == "detection"
        assert shape.bounds[0] == np.argwhere(LABELS == number)[:, 1].min()
        parts = feature["geometry"]["coordinates"]
        parts = [parts] if shape.geom_type == "Polygon" else parts
        rings = [ring for part in parts for ring in part]
        assert all(ring[0] == ring[-1] and len(ring) >= 5 for ring in rings)
        doubtful = float(one["probability"]) < 0.8
        assert about["classification"]["name"] == ("doubtful" if doubtful else "object")
        assert [0 <= part <= 255 for part in about["classification"]["color"]] == [True] * 3
        measured = about["measurements"]
        assert measured["area_um2"] == pytest.approx(shape.area / 16, rel=1e-8) and measured["parts"] == 1
        assert measured["probability"] == pytest.approx(float(one["probability"]), rel=1e-8)
        assert ("area_std_um2" in measured) == (number % 2 == 0), "NaN is left out"
        assert "intensity_eosin" in measured and "kind" not in measured and "id" not in measured
    assert len({feature["id"] for feature in found["features"]}) == len(found["features"])
    assert "null" not in json.dumps(found) and "NaN" not in json.dumps(found)


def test_geojson_is_the_same_every_time(tmp_path):
    first = write_geojson(tmp_path / "x" / "a.geojson.gz", LABELS, TABLE)
    second = write_geojson(tmp_path / "y" / "a.geojson.gz", LABELS, TABLE)
    plain = write_geojson(tmp_path / "a.geojson", LABELS, TABLE)
    other = write_geojson(tmp_path / "b.geojson", LABELS, TABLE)
    assert first.read_bytes() == second.read_bytes() and first.read_bytes()[4:8] == bytes(4), "no time in it"
    assert gzip.decompress(first.read_bytes()) == plain.read_bytes() != other.read_bytes()


def test_geojson_of_a_part_of_a_slide(tmp_path):
    def shapes(path):
        found = [(one["properties"]["name"], one["geometry"]) for one in collection(path)["features"]]
        return {name: shapely.geometry.shape(geometry) for name, geometry in found}

    here = shapes(write_geojson(tmp_path / "a.geojson", LABELS, TABLE))
    four = shapes(write_geojson(tmp_path / "b.geojson", LABELS, TABLE, origin=(1000, 20), scale=4))
    odd = shapes(write_geojson(tmp_path / "c.geojson", LABELS, TABLE, origin=(0.5, 0), scale=1.37))
    for name, shape in here.items():
        moved = shapely.affinity.affine_transform(shape, [4, 0, 0, 4, 20, 1000])
        assert moved.equals(four[name]) and moved.area == four[name].area
        assert odd[name].is_valid and odd[name].area == pytest.approx(1.37**2 * shape.area, rel=0.02)
    text = (tmp_path / "c.geojson").read_text()
    assert not re.search(r"\[\d+\.\d{3}", text), "two decimals"


def test_given_polygons_are_written_as_they_are(tmp_path):
    "From anywhere, one by one; the file is that of the labels."
    given = write_geojson(tmp_path / "x" / "a.geojson", trace_outlines(LABELS), TABLE)
    assert given.read_bytes() == write_geojson(tmp_path / "a.geojson", LABELS, TABLE).read_bytes()


def test_no_object(tmp_path):
    table = TABLE.isel(object=slice(0, 0))
    assert collection(write_geojson(tmp_path / "a.geojson", np.zeros((9, 9), int), table))["features"] == []
    write_objects(tmp_path / "a.csv", table)
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1


def more(labels, table):
    labels = labels.copy()
    labels[0, 0] = 1
    return labels, table


def twice(labels, table):
    "Two places of one object, far from each other, in different tiles."
    return [*trace_outlines(labels), (3, [[np.array([[0, 0], [1, 0], [1, 1], [0, 1]])]])], table


@pytest.mark.parametrize(
    "change, said",
    [
        (more, "Object 1 of the labels has no row in the table."),
        (lambda labels, table: (labels, table.isel(object=slice(1, None))), "Object 3 of the labels has no row"),
        (
            lambda labels, table: (np.where(labels == 6, 0, labels), table),
            "Object 6 of the table is not among the labels",
        ),
        (twice, "Object 3 is in two places that do not touch"),
        (lambda labels, table: (labels, table.drop_vars("id")), "The table needs whole numbers `id`"),
        (lambda labels, table: (labels, table.assign_coords(id=table["id"] // 6)), "two rows with the same id"),
        (lambda labels, table: (labels.astype(float), table), "Labels are whole numbers"),
        (lambda labels, table: (labels.astype(int) - 1, table), "these are -1 to"),
        (lambda labels, table: (labels, table.assign(area_um2=table["area"])), "would be called area_um2"),
    ],
)
def test_what_does_not_belong_together_leaves_no_file(tmp_path, change, said):
    labels, table = change(LABELS, TABLE)
    with pytest.raises(ValueError, match=re.escape(said)):
        write_geojson(tmp_path / "a.geojson.gz", labels, table)
    assert list(tmp_path.iterdir()) == []


# ---- tables


def test_columns_say_their_units():
    found = columns(TABLE)
    numbers = ["row_px", "column_px", "area_um2", "probability", "area_std_um2", "parts", "kind"]
    assert list(found) == ["id", *numbers, "intensity_haematoxylin", "intensity_eosin"]
    assert (found["intensity_eosin"] == TABLE["intensity"].sel(stain="eosin")).all()
    named = xr.Dataset({"size_um2": ("object", [1.0], {"units": "um^2"})}, {"object": [7]})
    assert list(columns(named)) == ["id", "size_um2"], "a unit is not said twice; the dimension may hold the numbers"
    assert list(columns(named.rename(size_um2="a/b c").assign_attrs()))[1] == "a_per_b_c_um2"


def test_csv(tmp_path):
    path = write_objects(tmp_path / "a_objects.csv", TABLE)
    lines = path.read_text().splitlines()
    assert lines[0].split(",") == list(columns(TABLE)) and len(lines) == TABLE.sizes["object"] + 1
    back = [dict(zip(lines[0].split(","), line.split(","))) for line in lines[1:]]
    assert [float(row["area_um2"]) for row in back] == TABLE["area"].values.tolist()
    assert [int(row["id"]) for row in back] == TABLE["id"].values.tolist()
    assert back[0]["area_std_um2"] == "" and back[1]["area_std_um2"] == "0.5"


def test_parquet(tmp_path):
    path = write_objects(tmp_path / "a_objects.parquet", TABLE)
    back = import_module("pyarrow.parquet").read_table(path)
    assert back.column_names == list(columns(TABLE)) and back["id"].to_pylist() == TABLE["id"].values.tolist()
    frame = back.to_pandas()
    assert (frame["area_um2"].values == TABLE["area"].values).all()
    assert frame.attrs["members"] == 8 and frame.attrs["levels"] == [0, 1, 2]
    assert frame.attrs["units"]["area"] == "µm²"


def test_anndata(tmp_path):
    anndata = pytest.importorskip("anndata")
    path = write_objects(tmp_path / "a_objects.h5ad", TABLE)
    back = anndata.read_h5ad(path)
    numeric = [name for name in columns(TABLE) if name not in ("id", "kind")]
    assert back.shape == (TABLE.sizes["object"], len(numeric)) and back.var_names.tolist() == numeric
    assert back.obs_names.tolist() == [str(number) for number in TABLE["id"].values]
    assert np.array_equal(back.to_df()["area_um2"], TABLE["area"].values)
    assert np.array_equal(back.to_df()["area_std_um2"], TABLE["area_std"].values, equal_nan=True)
    assert back.obs["kind"].tolist() == TABLE["kind"].values.tolist()
    assert back.obs["instance_id"].tolist() == TABLE["id"].values.tolist()
    assert back.obs["region"].cat.categories.tolist() == ["a_objects"] == [back.uns["spatialdata_attrs"]["region"]]
    assert np.array_equal(back.obsm["spatial"], np.stack([TABLE["column"], TABLE["row"]], axis=1))
    assert json.loads(back.uns["about"])["units"]["area"] == "µm²"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "h5ad"])
def test_tables_are_the_same_every_time(tmp_path, suffix):
    first, second = (write_objects(tmp_path / name / f"a.{suffix}", TABLE) for name in "xy")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("suffix, package, extra", [("parquet", "pyarrow", "parquet"), ("h5ad", "anndata", "anndata")])
def test_an_extra_that_is_missing_is_named(tmp_path, monkeypatch, suffix, package, extra):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{suffix} needs {package}, .* pip install 'sdfdiff\[{extra}\]' brings it."):
        write_objects(tmp_path / f"a.{suffix}", TABLE)
    assert list(tmp_path.iterdir()) == []


# ---- pictures


@pytest.mark.parametrize("shape", [(40, 60), (300, 200), (1200, 700)])
def test_the_picture_keeps_every_pixel(shape):
    field = np.random.default_rng(0).uniform(0, 0.5, shape)
    field[3, 4] = np.nan
    picture = uncertainty_picture(field)
    expected = drawing.colour_map(drawing.SPREAD)(2 * field, bytes=True)[..., :3]
    expected[3, 4] = 128
    assert (picture[: shape[0], : shape[1]] == expected).all()
    bar = picture[:, shape[1] :].astype(int)
    assert picture.shape[0] == max(shape[0], 160) and bar.shape[1] >= 80
    dark = (bar.max(2) < 120).sum()
    assert (bar == 255).all(2).mean() > 0.4 and dark > 50, "a bar and words on white"
    middle = bar[:, round(bar.shape[1] * 0.25)]
    assert middle[round(0.1 * len(middle))].sum() > 600 and middle[round(0.9 * len(middle))].sum() < 120, (
        "light is high"
    )


# ---- files


WRITERS = {
    "a.tif": lambda path, **options: write_labels(path, LABELS, **options),
    "a.geojson": lambda path, **options: write_geojson(path, LABELS, TABLE, **options),
    "a.geojson.gz": lambda path, **options: write_geojson(path, LABELS, TABLE, **options),
    "a.csv": lambda path, **options: write_objects(path, TABLE, **options),
    "a.parquet": lambda path, **options: write_objects(path, TABLE, **options),
    "a.h5ad": lambda path, **options: write_objects(path, TABLE, **options),
}
each_writer = pytest.mark.parametrize("name", WRITERS)


@each_writer
def test_nothing_is_replaced_without_force(tmp_path, name):
    path = tmp_path / "new" / name
    assert WRITERS[name](path) == path
    kept = path.read_bytes()
    path.write_bytes(b"mine")
    with pytest.raises(FileExistsError, match="force=True"):
        WRITERS[name](path)
    assert path.read_bytes() == b"mine"
    WRITERS[name](path, force=True)
    assert path.read_bytes() == kept and [one.name for one in path.parent.iterdir()] == [name]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/full")
@each_writer
def test_a_full_disk_leaves_nothing(tmp_path, name, monkeypatch):
    "The place to write to has no space left."
    monkeypatch.setattr("secrets.token_hex", lambda count: "full")
    (tmp_path / f".writing-full.{name.split('.')[-1]}").symlink_to("/dev/full")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(OSError) as caught:
            WRITERS[name](tmp_path / name)
    assert "No space left on device" in str(caught.value) and name in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write, name", [(write_labels, "a.png"), (write_geojson, "a.json"), (write_objects, "a.xlsx")])
def test_another_suffix_is_refused(tmp_path, write, name):
    given = {write_labels: [LABELS], write_geojson: [LABELS, TABLE], write_objects: [TABLE]}
    with pytest.raises(ValueError, match=rf"{re.escape(name)} must end in \."):
        write(tmp_path / name, *given[write])


def test_areas_in_um_have_one_unit_in_their_names():
    data = {"id": [1, 2], "area": [4, 9], "area_um": [1.0, 2.25], "area_std_um": [0.1, 0.2], "margin_um": [1.0, 2.0]}
    units = {"area": "px²", "area_um": "um²", "area_std_um": "um²", "margin_um": "um"}
    table = xr.Dataset({name: ("object", values, {"units": units.get(name, "1")}) for name, values in data.items()})
    assert list(columns(table)) == ["id", "area_px2", "area_um2", "area_std_um2", "margin_um"]
