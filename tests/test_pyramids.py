"Pyramids of labels and fields: levels, units, regions of several processes, stops and full disks."

import errno
import json
import multiprocessing
import re
import warnings

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05 import Image, ImageLabel

from sdfdiff.ensembles import pyramids
from sdfdiff.ensembles.pyramids import create_store, from_steps, in_steps, smaller, write_ome_zarr
from sdfdiff.files import DiskFull, Exists

SHAPE = (1100, 1300)
ROWS, COLUMNS = np.indices(SHAPE)
LABELS = (ROWS // 50 * 26 + COLUMNS // 50 + 1).astype(np.uint32) * (COLUMNS % 50 < 40)
FIELDS = {"probability": (ROWS % 7 / 7).astype(np.float32), "std": (COLUMNS / 500).astype(np.float32)}
REGIONS = [(row, column) for row in (0, 512, 1024) for column in (0, 1024)]  # not all of one size


def part(row, column):
    rows = slice(row, row + 512)
    columns = slice(0, 1024) if column == 0 else slice(1024, None)
    return LABELS[rows, columns], {name: field[rows, columns] for name, field in FIELDS.items()}


def write_parts(store, places):
    for row, column in places:
        store.write(row, column, *part(row, column))


def begun(path, **options):
    return create_store(path, SHAPE, tuple(FIELDS), **({"microns": 0.5, "about": {"slide": "a"}} | options))


def content(folder):
    return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "The store that was written at once."
    path = tmp_path_factory.mktemp("whole") / "a.ome.zarr"
    return write_ome_zarr(path, LABELS, FIELDS, microns=0.5)


def test_levels(whole):
    group = zarr.open_group(whole, mode="r")
    assert sorted(group.array_keys()) == sorted(group["labels/objects"].array_keys()) == ["0", "1", "2"]
    assert (group["labels/objects/0"][:] == LABELS).all() and group["labels/objects/0"].dtype == np.uint32
    for k, field in enumerate(FIELDS.values()):
        assert (group["0"][k] == field).all()
        assert np.allclose(group["1"][k], field.reshape(550, 2, 650, 2).mean((1, 3)), atol=1e-6)
    for level, shape in enumerate(((1100, 1300), (550, 650), (275, 325))):
        small = group[f"labels/objects/{level}"]
        assert small.shape == shape == group[str(level)].shape[1:]
        assert set(np.unique(small[:])) == set(np.unique(LABELS)), "no object is invented, and these are not lost"
        assert small.chunks == (512, 512) and group[str(level)].chunks == (1, 512, 512) and small.shards is None


def test_description(whole):
    "As the specification wants it, read by its models; sizes and places in micrometres."
    for model, group in ((Image, whole), (ImageLabel, whole / "labels" / "objects")):
        about = model.from_zarr(zarr.open_group(group, mode="r")).attributes.ome
        (pyramid,) = about.multiscales
        assert [one.unit for one in pyramid.axes if one.type == "space"] == ["micrometer"] * 2
        for level, one in enumerate(pyramid.datasets):
            scale, shift = one.coordinateTransformations
            assert scale.scale[-2:] == [0.5 * 2**level] * 2
            assert shift.translation[-2:] == [0.25 * (2**level - 1)] * 2, "the centre of the first pixel"
    labels = json.loads((whole / "labels" / "zarr.json").read_text())["attributes"]["ome"]
    assert labels == {"version": "0.5", "labels": ["objects"]}
    assert json.loads((whole / "zarr.json").read_text())["attributes"]["ome"]["omero"]["channels"][1]["label"] == "std"


def test_reader_of_the_reference_library(whole):
    "The one that napari uses; it does not install beside the pinned versions, so it is tried where there is one."
    reader, io = pytest.importorskip("ome_zarr.reader"), pytest.importorskip("ome_zarr.io")
    found = [one for one in reader.Reader(io.parse_url(whole))() if one.data]  # the group of labels has none
    assert [len(one.data) for one in found] == [3, 3]
    assert (np.asarray(found[1].data[0]) == LABELS).all() and np.allclose(
        np.asarray(found[0].data[0])[0], FIELDS["std"]
    )


def test_without_microns_the_unit_is_a_pixel(tmp_path):
    path = write_ome_zarr(tmp_path / "a.zarr", LABELS[:20, :30], {"probability": FIELDS["probability"][:20, :30]})
    (pyramid,) = Image.from_zarr(zarr.open_group(path, mode="r")).attributes.ome.multiscales
    assert [one.unit for one in pyramid.axes] == [None] * 3
    assert pyramid.datasets[0].coordinateTransformations[0].scale == [1, 1, 1]


@pytest.mark.parametrize("channels", [(), (3,)])
def test_an_image_becomes_channels(tmp_path, channels):
    image = np.random.default_rng(0).random((20, 30, *channels)).astype(np.float32)
    path = write_ome_zarr(tmp_path / "a.zarr", LABELS[:20, :30], {"std": FIELDS["std"][:20, :30]}, image=image)
    group = zarr.open_group(path, mode="r")
    names = [one["label"] for one in group.attrs["ome"]["omero"]["channels"]]
    assert names == (["red", "green", "blue", "std"] if channels else ["intensity", "std"])
    assert (group["0"][: len(names) - 1] == np.moveaxis(image.reshape(20, 30, -1), -1, 0)).all()


def test_smaller_keeps_what_is_known():
    field = np.array([[1.0, 3.0, np.nan], [np.nan, np.nan, np.nan], [5.0, 7.0, 9.0]])
    assert np.array_equal(smaller(field), [[2.0, np.nan], [6.0, 9.0]], equal_nan=True)
    assert smaller(np.array([[3, 7, 7], [7, 7, 7]])).tolist() == [[3, 7]]
    assert smaller(field.astype(np.float32)).dtype == np.float32


# ---- region by region


@pytest.mark.parametrize("order", [1, -1])
def test_regions_in_any_order_give_the_same_bytes(tmp_path, whole, order):
    store = begun(tmp_path / "a.ome.zarr")
    write_parts(store, REGIONS[::order])
    assert store.done() == set(REGIONS)
    (store.folder / "0" / "0.1f2e.partial").write_bytes(b"half")  # of a process that was killed
    assert content(store.finish()) == content(whole)


def test_a_stop_costs_nothing_that_was_complete(tmp_path, whole, monkeypatch):
    path, stopped = tmp_path / "a.ome.zarr", REGIONS[3]
    store = begun(path)
    write_parts(store, REGIONS[:3])
    monkeypatch.setattr(pyramids, "label_numbers", lambda labels: 1 / 0)  # after the fields, before the labels
    with pytest.raises(ZeroDivisionError):
        store.write(*stopped, *part(*stopped))
    monkeypatch.undo()
    assert not path.exists(), "it has its name when it is complete"
    with pytest.raises(Exists, match="resume=True to go on, or force=True to start anew"):
        begun(path)
    again = begun(path, resume=True)
    assert again.done() == set(REGIONS[:3])
    monkeypatch.setattr(pyramids, "_fill", lambda *levels: 1 / 0)
    write_parts(again, set(REGIONS) - again.done())
    with pytest.raises(ZeroDivisionError):
        again.finish()
    monkeypatch.undo()
    assert content(begun(path, resume=True).finish()) == content(whole)
    assert [one.name for one in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_two_processes_write_one_store(tmp_path, whole):
    store = begun(tmp_path / "a.ome.zarr")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=write_parts, args=(store, REGIONS[k::2])) for k in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(120)
    assert [one.exitcode for one in processes] == [0, 0] and content(store.finish()) == content(whole)


def test_labels_may_follow(tmp_path):
    "They are known when the objects of the whole slide are; fields of half the precision need half the room."
    store = begun(tmp_path / "a.ome.zarr", dtype="float16")
    for place in REGIONS:
        store.write(*place, None, part(*place)[1])
    assert store.done() == set(REGIONS)
    with store.safe():
        zarr.open_group(store.folder, mode="r+")["labels/objects/0"][:] = LABELS
    group = zarr.open_group(store.finish(), mode="r")
    assert set(np.unique(group["labels/objects/2"])) == set(np.unique(LABELS)) and group["1"].dtype == np.float16
    assert np.allclose(group["0"][1], FIELDS["std"], rtol=1e-3)
    with pytest.raises(ValueError, match="float32, now float16"):
        begun(tmp_path / "b.ome.zarr") and begun(tmp_path / "b.ome.zarr", dtype="float16", resume=True)


def test_what_is_not_written_is_not_known(tmp_path):
    store = begun(tmp_path / "a.ome.zarr")
    write_parts(store, [(0, 0)])
    group = zarr.open_group(store.finish(), mode="r")
    assert np.isnan(group["0"][:, 512:]).all() and np.isnan(group["0"][:, :, 1024:]).all()
    assert (group["labels/objects/0"][512:] == 0).all() and (
        group["0"][0, :512, :1024] == part(0, 0)[1]["probability"]
    ).all()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"about": {"slide": "b"}}, "slide a, now b"),
        ({"microns": 0.25}, "microns 0.5, now 0.25"),
        ({"channels": ("probability",)}, "channels"),
        ({"shape": (1100, 1301)}, "shape"),
    ],
)
def test_a_store_of_something_else_is_not_continued(tmp_path, change, said):
    begun(tmp_path / "a.ome.zarr")
    given = {"shape": SHAPE, "channels": tuple(FIELDS), "microns": 0.5, "about": {"slide": "a"}} | change
    with pytest.raises(ValueError, match="was begun with something else") as caught:
        create_store(tmp_path / "a.ome.zarr", resume=True, **given)
    assert said in str(caught.value)


def test_nothing_is_replaced_without_force(tmp_path, whole):
    path = tmp_path / "a.ome.zarr"
    path.mkdir()
    (path / "mine").touch()
    for write in (lambda: begun(path), lambda: begun(path, resume=True), lambda: write_ome_zarr(path, LABELS, FIELDS)):
        with pytest.raises(FileExistsError, match="force=True to replace it"):
            write()
    assert content(write_ome_zarr(path, LABELS, FIELDS, microns=0.5, force=True)) == content(whole)
    assert [one.name for one in tmp_path.iterdir()] == ["a.ome.zarr"]


def test_what_appears_meanwhile_is_kept(tmp_path):
    store = begun(tmp_path / "a.ome.zarr")
    store.path.mkdir()
    with pytest.raises(FileExistsError, match="force=True"):
        store.finish()
    assert store.path.exists() and begun(tmp_path / "b.ome.zarr").done() == set()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_keeps_what_is_complete(tmp_path, monkeypatch, code):
    store = begun(tmp_path / "a.ome.zarr")
    write_parts(store, REGIONS[:1])

    def full(self, key, value):
        raise OSError(code, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", full)
        with pytest.raises(DiskFull, match="no space left for .*a.ome.zarr: what is finished is kept"):
            write_parts(store, REGIONS[1:2])
        with pytest.raises(OSError, match="No space left on device"):
            write_ome_zarr(tmp_path / "b.zarr", LABELS, FIELDS)
    assert store.done() == {REGIONS[0]}
    assert [one.name for one in tmp_path.iterdir()] == ["a.ome.zarr.unfinished"]


@pytest.mark.parametrize(
    "place, shape, said",
    [
        ((100, 0), (512, 512), "must begin and end at multiples of 512"),
        ((0, 0), (500, 512), "must begin and end at multiples of 512"),
        ((1024, 0), (100, 512), "two processes may not share a chunk"),
        ((0, -512), (512, 512), "column -512"),
        ((0, 0), (0, 512), "0 x 512 px"),
    ],
)
def test_regions_that_share_a_chunk_are_refused(tmp_path, place, shape, said):
    store = begun(tmp_path / "a.ome.zarr")
    with pytest.raises(ValueError, match=re.escape(said)):
        store.write(*place, np.zeros(shape, int), dict.fromkeys(FIELDS, np.zeros(shape)))
    assert store.done() == set()


@pytest.mark.parametrize(
    "labels, fields, said",
    [
        (np.zeros((9, 9)), {}, "Labels are whole numbers"),
        (np.zeros((9, 9), int), {"std": np.zeros((9, 9))}, "has the channels probability, std; probability is wrong"),
        (np.zeros((9, 9), int), dict.fromkeys(FIELDS, np.zeros((9, 8))), "has the shape (9, 8) and the labels (9, 9)"),
    ],
)
def test_what_is_no_region_is_refused(tmp_path, labels, fields, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        create_store(tmp_path / "a.zarr", (9, 9), tuple(FIELDS)).write(0, 0, labels, fields)


@pytest.mark.parametrize(
    "path, options, said",
    [
        ("a.tif", {}, "a.tif must end in .zarr"),
        ("a.zarr", {"shape": (0, 9)}, "needs rows, columns"),
        ("a.zarr", {"microns": -1}, "microns above 0"),
        ("a.zarr", {"channels": ()}, "channels"),
    ],
)
def test_what_is_no_pyramid_is_refused(tmp_path, path, options, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        create_store(tmp_path / path, **({"shape": (9, 9)} | options))
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_warned_of(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zarr.open_group(write_ome_zarr(tmp_path / "a.zarr", LABELS[:9, :9], {}, image=FIELDS["std"][:9, :9]))


def test_members_in_8_bits_keep_their_masks():
    "Rounded up: at most the edge is object before and after; off by half a step at most, and cut at the end."
    exact = np.random.default_rng(0).normal(size=50_000).astype(np.float32)
    exact[:4] = 0, np.float32(1e-30), -np.float32(1e-30), 5
    steps = in_steps(exact, 2.0)
    assert steps.dtype == np.int8 and np.array_equal(steps <= 0, exact <= 0) and steps[3] == 127
    near, inside = from_steps(steps, 2.0), np.abs(exact) <= 2
    assert near.dtype == np.float32 and np.abs(near - exact)[inside].max() <= 1 / 127 + 1e-6
    assert np.array_equal(near <= 0, exact <= 0)
