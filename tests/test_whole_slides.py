"Whole slides: noise of places, parts that need no neighbours, stops, stores, objects across borders."

import errno
import gzip
import json
from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import small_slides
import tifffile
import torch
import zarr
from scipy import ndimage, stats
from small_networks import calibration_file, one_call_network, random_network
from torch.nn import functional as F

from sdfdiff.command import main
from sdfdiff.diffusion.model import Model, load_model, save_weights
from sdfdiff.diffusion.network import Architecture
from sdfdiff.diffusion.one_call import noise_maps
from sdfdiff.ensembles import slide_results as results
from sdfdiff.ensembles import whole_slides as slides
from sdfdiff.ensembles.method import Method, untuned
from sdfdiff.ensembles.objects import dye_amounts, objects_of
from sdfdiff.ensembles.pyramids import create_store, in_steps
from sdfdiff.ensembles.segmentation import segment
from sdfdiff.ensembles.slide_results import draw_slide, open_store
from sdfdiff.ensembles.whole_slides import fields_of, grid_of, open_whole, place_noise
from sdfdiff.files import DiskFull, Exists
from sdfdiff.images.preparation import GLANDS, NUCLEI, TISSUE
from sdfdiff.images.slides import Slide
from sdfdiff.images.synthetic import tissue
from sdfdiff.provenance import weights_header
from sdfdiff.uncertainty.calibration import Recalibration

LAYERS = Architecture(cells=(8, 32))


@cache
def tiny(preparation=TISSUE):
    "A small network with random weights; its P(object) is near 1/2, so that there are objects."
    return Model(
        one_call_network(3 if preparation.colour == "rgb" else 1),
        preparation=preparation,
        boundary="half_pixel",
        about={"name": "tiny"},
    )


def written(path, image, microns=0.25, **more):
    pixels = np.round(255 * image).astype(np.uint8)
    size = {} if microns is None else {"resolution": (1e4 / microns,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        how = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib", **size}
        for k in more.pop("levels", (1,)):
            file.write(pixels[::k, ::k], subifds=0, subfiletype=int(k > 1), **how)
            how |= {"resolution": None, "resolutionunit": None} if k > 1 else {}
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    "Synthetic tissue of 530 x 560 pixels, in tiles; what is to be drawn of it."
    path = written(tmp_path_factory.mktemp("slides") / "scene.tif", tissue(3, (530, 560)).image)
    return open_whole(path, tiny(), members=3, seed=5)


# ---- noise belongs to the place


def noise(corner=(0, 0), shape=(64, 96), members=range(2), seed=0, architecture=LAYERS):
    return place_noise(architecture, seed, members, corner, shape).numpy()


def test_noise_is_standard_normal():
    white = slides._place_normal((3, 0, 0), np.arange(-300, 300), np.arange(50, 650))
    assert stats.kstest(white.ravel(), "norm").pvalue > 0.01
    assert abs(white.mean()) < 0.01 and abs(white.var() - 1) < 0.01 and abs(stats.kurtosis(white.ravel())) < 0.03
    for near in (white[:, 1:] * white[:, :-1], white[1:] * white[:-1], white[1:, 1:] * white[:-1, :-1]):
        assert abs(near.mean()) < 0.008, "neighbours have nothing in common"
    many = noise(members=range(400), shape=(64, 64))
    np.testing.assert_allclose(many.var(0).mean((1, 2)), 1, atol=0.15)
    assert np.abs(many.var(0)[:4] - 1).max() < 0.4, "each place has variance one"


def test_noise_of_members_seeds_and_layers_has_nothing_in_common():
    found = [slides._place_normal(key, np.arange(200), np.arange(200)).ravel() for key in
             [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 0, 8), (0, 0, 32), (-1, 0, 0), (2**63 - 1, 0, 0)]]  # fmt: skip
    assert np.abs(np.corrcoef(found) - np.eye(len(found))).max() < 0.025


def test_noise_is_the_same_from_any_window():
    whole = noise((-32, -64), (256, 320))
    for corner, shape in (((0, 0), (64, 96)), ((-32, 64), (32, 192)), ((100, -6), (70, 38))):
        rows, columns = (slice((a + b) // 2, (a + b + n) // 2) for a, b, n in zip(corner, (32, 64), shape))
        assert np.array_equal(noise(corner, shape), whole[:, :, rows, columns]), "to the bit"
    assert np.array_equal(noise(members=range(5))[3], noise(members=range(3, 4))[0])


@pytest.mark.parametrize("cell", [8, 32])
def test_smooth_noise_varies_together_as_that_of_an_image(cell, monkeypatch):
    "The covariance of places along a row, exactly: noise is linear in its nodes."
    steps, length = cell // 2, 40
    nodes = length // steps + 2
    each = F.interpolate(torch.eye(nodes)[:, None], scale_factor=float(steps), mode="linear", align_corners=False)
    ways = each[:, 0, steps // 2 : steps // 2 + length].numpy()
    ways = ways / np.sqrt((ways**2).sum(0))
    found = []
    for node in range(-1, length // steps + 2):
        one = partial(lambda node, key, rows, columns: np.outer(rows == rows[0], columns == node).astype(float), node)
        monkeypatch.setattr(slides, "_place_normal", one)
        found.append(slides._smooth((0,), steps, (0, 1), (0, length))[0])
    monkeypatch.undo()
    together = np.array(found).T @ np.array(found)
    np.testing.assert_allclose(together / together[0, 0], ways.T @ ways, atol=1e-5)
    former = noise_maps(2, (64, 80), replace(LAYERS, cells=(cell,)), torch.Generator().manual_seed(0))
    assert former.shape == noise(shape=(64, 80), architecture=replace(LAYERS, cells=(cell,))).shape


# ---- geometry


@pytest.mark.parametrize(
    ("microns", "levels", "preparation", "level", "side"),
    [
        (0.25, (1, 2, 4), NUCLEI, 1, 256),
        (0.25, (1,), NUCLEI, 0, 512),
        (0.2528, (1, 4), NUCLEI, 0, 512),
        (0.253, (1, 2), NUCLEI, 0, 512),  # level 1 is coarser than the network by 1.2 %
        (0.252, (1, 2), NUCLEI, 1, 256),
        (1.0, (1, 2), NUCLEI, 0, 128),
        (0.25, (1, 2, 4), GLANDS, 2, 640),
        (None, (1, 2), NUCLEI, 1, 256),  # as in training, at 40x
        (0.25, (1,), TISSUE, 0, 256),
    ],
)
def test_the_coarsest_level_that_is_fine_enough(tmp_path, microns, levels, preparation, level, side):
    slide = Slide(written(tmp_path / "a.tif", np.full((512, 600, 3), 0.9), microns, levels=levels))
    grid = grid_of(slide, preparation)
    assert (grid.level, grid.side) == (level, side)
    rows, columns = slide.level(level)[:2]
    assert (grid.rows - 1) * side < rows * 256 <= grid.rows * side and grid.columns == -(-columns * 256 // side)
    if preparation.microns:
        assert abs(grid.microns / preparation.microns - 1) < 0.04
        assert grid.microns == pytest.approx((microns or 0.25) * grid.downsample)
    assert grid_of(slide, preparation, level=0).level == 0
    assert grid_of(slide, preparation, scale=0.25).side == 1024


def test_a_scale_beyond_reason_is_refused(tmp_path):
    slide = Slide(written(tmp_path / "a.tif", np.full((64, 64, 3), 0.9)))
    with pytest.raises(ValueError, match="a.tif: at scale 0.01 a network pixel is 100 px: 1/16 to 16 are possible"):
        grid_of(slide, NUCLEI, scale=0.01)
    with pytest.raises(ValueError, match="no level 3"):
        grid_of(slide, NUCLEI, level=3)


def test_weights_of_windows_sum_to_one():
    total = np.zeros((800, 800), np.float32)
    for row in range(0, 512 + 1, 256):
        for column in range(0, 512 + 1, 256):
            total[row : row + 288, column : column + 288] += slides._WEIGHT
    assert (total[32:768, 32:768] == 1).all()


# ---- any part can be computed alone


def test_any_part_is_the_same_as_in_the_whole(scene):
    rows, columns = scene.grid.rows, scene.grid.columns
    assert (rows, columns) == (530, 560)
    whole, kept = fields_of(scene, slice(0, rows), slice(0, columns)), {}
    left = fields_of(scene, slice(0, rows), slice(0, 256), kept=kept)
    assert set(kept) == {(row, 1) for row in range(3)}
    right = fields_of(scene, slice(0, rows), slice(256, columns), kept=kept)
    corner = fields_of(scene, slice(512, rows), slice(512, columns), workers=2)
    for name, field in whole.items():
        assert field.shape[-2:] == (rows, columns)
        assert np.array_equal(field, np.concatenate([left[name], right[name]], axis=-1)), name
        assert np.array_equal(field[..., 512:, 512:], corner[name]), "the last row and column, too"
    assert not np.array_equal(whole["members"][0], whole["members"][1])
    assert whole["probability"].dtype == np.float16 and 0 < whole["probability"].mean() < 1


@pytest.mark.parametrize("sampler", ["paper", "ancestral", "heun", "dpm"])
def test_any_sampler_draws_parts_alone(scene, sampler):
    "A part has the bits that it has in the whole; each member has noise of its own, fresh at each step."
    one = replace(scene, method=untuned(sampler, 1, members=2, seed=3))
    whole = fields_of(one, slice(0, 100), slice(0, 300))
    right = fields_of(one, slice(0, 100), slice(256, 300), workers=2)
    for name, field in whole.items():
        assert np.array_equal(field[..., 256:300], right[name]), name
    assert whole["members"].shape == (2, 100, 300) and not np.array_equal(*whole["members"])
    source = slides._fresh_noise(3, range(2, 4), (5, -3))
    first, second = (source((2, 1, 40, 50)).numpy() for _ in range(2))
    assert first.shape == (2, 1, 40, 50) and abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05
    again = slides._fresh_noise(3, range(3, 4), (15, 17))
    assert np.array_equal(again((1, 1, 30, 30))[0], first[1, :, 10:, 20:]), "it belongs to place, member and draw"
    assert np.array_equal(again((1, 1, 30, 30))[0], second[1, :, 10:, 20:])


@pytest.mark.parametrize("quality", ["fast", "draft"])
def test_it_is_close_to_the_image_at_once(tmp_path, quality):
    "Same network, other noise and other tiles."
    shape, members = ((400, 520), 8) if quality == "fast" else ((230, 300), 6)
    model, image = load_model("tissue_fast"), tissue(4, shape).image
    path = written(tmp_path / "a.tif", image)
    whole = open_whole(path, model, quality, members=members)
    found = fields_of(whole, *map(slice, (0, 0), shape))
    expected = segment(np.round(255 * image).astype(np.float32) / 255, model, quality, members=members, progress=False)
    away = np.abs(found["initial_estimate"] - expected["initial_estimate"].values)
    assert away.mean() < 0.05, "which has no noise"
    masks = found["probability"] >= 0.5, expected["probability"].values >= 0.5
    assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.9
    away = np.abs(found["mean"] - expected["mean"].values)
    assert away.mean() < float(expected["std"].mean()), "8 members each"
    assert found["std"].mean() == pytest.approx(float(expected["std"].mean()), rel=0.15)


def test_glass_is_not_drawn(tmp_path, monkeypatch):
    image = np.full((1100, 1500, 3), 0.97, np.float32)
    image[500:800, 200:500] = small_slides.nuclei(300)
    whole = open_whole(written(tmp_path / "a.tif", image, 0.5), tiny(NUCLEI), members=2)
    drawn, seen = [], slides.see_image
    monkeypatch.setattr(slides, "see_image", lambda *given, **more: drawn.append(more["stain"]) or seen(*given, **more))
    found = fields_of(whole, slice(0, 1100), slice(0, 1500))
    assert len(drawn) == 4, "windows that touch the tissue, of 35"
    assert len(set(drawn)) == 1 and drawn[0] == whole.stain, "no window has colours of its own"
    tissue_there = np.zeros((1100, 1500), bool)
    tissue_there[480:820, 180:520] = True
    assert (found["probability"][~tissue_there] == 0).all() and (found["mean"][~tissue_there] == 10).all()
    assert found["probability"][520:780, 220:480].min() > 0


def test_a_hole_in_tissue_is_seen():
    there = np.ones((100, 100), bool)
    there[:, 80:], there[40:46, 40:46] = False, False
    seen = slides._seen_tissue(there, 8)
    assert seen[:, :80].all() and not seen[:, 82:].any()
    assert slides._seen_tissue(there[:, :80], 8).all()


def test_stain_is_that_of_all_tissue(tmp_path):
    image = np.full((900, 900, 3), 0.97, np.float32)
    image[100:700, 100:700] = small_slides.nuclei(600)
    whole = open_whole(written(tmp_path / "a.tif", image), tiny(NUCLEI), members=2)
    np.testing.assert_allclose(whole.stain.matrix, small_slides.DYES, atol=0.08)
    brown = open_whole(whole.slide.path, tiny(NUCLEI), members=2, stain="haematoxylin")
    assert brown.stain.strength[0] > 0.5
    grey = np.repeat(image.mean(2, keepdims=True), 3, axis=2)
    assert open_whole(written(tmp_path / "b.tif", grey), tiny(NUCLEI), members=2).stain is None


# ---- refused in a sentence


def test_what_cannot_be_a_whole_slide(tmp_path):
    glass = written(tmp_path / "glass.tif", np.full((300, 300, 3), 0.97))
    with pytest.raises(ValueError, match="glass.tif shows no tissue"):
        open_whole(glass, tiny(NUCLEI))
    for wrong, why in (
        ({"sampler": "authors", "steps": 2}, "members that need each other"),
        ({"tolerance": 0.1}, "a tol"),
    ):
        with pytest.raises(
            ValueError, match=f"glass.tif: each part .* is drawn alone, without {why}.*: segment a region"
        ):
            open_whole(glass, tiny(), Method(**wrong))
    with pytest.raises(ValueError, match="were not trained for one call per member"):
        open_whole(glass, Model(random_network(3), preparation=TISSUE), "fast")
    assert open_whole(glass, Model(random_network(3), preparation=TISSUE)).method.name == "default", "as of an image"
    with pytest.warns(UserWarning, match="1 member: uncertainty needs at least two"):
        whole = open_whole(glass, tiny(), members=1)
    assert np.isnan(fields_of(whole, slice(0, 256), slice(0, 256))["std"]).all()
    with pytest.warns(UserWarning, match="no pixel size in the file: assumed 0.25 um/px"):
        image = np.full((300, 300, 3), 0.97, np.float32)
        image[50:250, 50:250] = small_slides.nuclei(200)
        open_whole(written(tmp_path / "a.tif", image, None), tiny(NUCLEI))


# ---- the store


def content(folder):
    return {str(one.relative_to(folder)): one.read_bytes() for one in sorted(folder.rglob("*")) if one.is_file()}


@pytest.fixture
def small_regions(monkeypatch):
    monkeypatch.setattr(results, "_REGION", 512)


def test_stopped_at_any_region_and_resumed_the_bytes_are_the_same(scene, tmp_path, small_regions, monkeypatch):
    store = open_store(scene, tmp_path / "a.ome.zarr")
    assert [step[:2] for step in draw_slide(scene, store)] == [(k, 4) for k in range(5)]
    expected = content(store.folder)
    write = results.Store.write
    for stop in (1, 3):
        path = tmp_path / str(stop) / "a.ome.zarr"

        def stopped(self, *given, stop=stop):
            if len(self.done()) == stop:
                raise KeyboardInterrupt  # members are written, fields are not
            write(self, *given)

        monkeypatch.setattr(results.Store, "write", stopped)
        with pytest.raises(KeyboardInterrupt):
            list(draw_slide(scene, open_store(scene, path)))
        monkeypatch.setattr(results.Store, "write", write)
        with pytest.raises(Exists, match="resume=True"):
            open_store(scene, path)
        again = open_store(scene, path, resume=True)
        assert [step.done for step in draw_slide(scene, again)] == list(range(stop, 5))
        assert content(again.folder) == expected


def test_workers_of_a_cluster_write_the_same(scene, tmp_path, small_regions):
    from distributed import Client

    here, there = (open_store(scene, tmp_path / name / "a.ome.zarr") for name in "ab")
    assert list(draw_slide(scene, here))[-1] == (4, 4)
    with Client(processes=False, n_workers=2, threads_per_worker=1, dashboard_address=":0") as client:
        assert list(draw_slide(scene, there, client=client))[-1] == (4, 4)
    assert content(here.folder) == content(there.folder)


def test_the_store_of_something_else_is_refused(scene, tmp_path):
    path = tmp_path / "a.ome.zarr"
    open_store(scene, path)
    for other in (
        replace(scene, method=replace(scene.method, members=4)),
        replace(scene, method=replace(scene.method, seed=6)),
        replace(scene, slide=Slide(written(tmp_path / "scene.tif", tissue(4, (530, 560)).image))),
    ):
        with pytest.raises(ValueError, match="was begun with something else"):
            open_store(other, path, resume=True)
    assert open_store(scene, path, resume=True).done() == set()


def test_a_full_disk_loses_nothing(scene, tmp_path, small_regions, monkeypatch):
    store, put = open_store(scene, tmp_path / "a.ome.zarr"), zarr.Array.__setitem__

    def full(array, *given):
        if array.name == "/members" and len(store.done()) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        put(array, *given)

    monkeypatch.setattr(zarr.Array, "__setitem__", full)
    with pytest.raises(DiskFull, match="no space left for .*: what is finished is kept, make room: pass resume=True"):
        list(draw_slide(scene, store))
    assert len(store.done()) == 2


# ---- objects


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(results, "_TILE", 64)
    monkeypatch.setattr(results, "_BEYOND", 16)


@pytest.mark.parametrize("seed", range(4))
def test_pieces_are_joined_across_tiles(small_tiles, seed):
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(200, 270)), 2 + 2 * seed)
    mask = field > (0 if seed < 3 else -field.std() / 2)
    found = results.crossing_pieces(lambda rows, columns: mask[rows, columns], mask.shape)
    labels, _ = ndimage.label(mask)
    lines = np.zeros_like(mask)
    for k in (0, 63, 64, 127, 128, 191, 192, 255, 256):
        lines[k : k + 1] = lines[:, k : k + 1] = True
    lines[-1] = lines[:, -1] = True
    boxes = ndimage.find_objects(labels)
    there = [boxes[k - 1] for k in np.unique(labels[lines]) if k]
    assert sorted(map(tuple, found.tolist())) == sorted((r.start, r.stop, c.start, c.stop) for r, c in there)
    assert len(results.crossing_pieces(lambda rows, columns: ~mask[rows, columns] & False, mask.shape)) == 0


def made_up(path, shape=(200, 270), members=9, **more):
    "A store of smooth fields, with pieces of all sizes, some with holes."
    generator = np.random.default_rng(1)

    def smooth(wide):
        field = ndimage.gaussian_filter(generator.normal(size=shape), wide)
        return field / field.std()

    mean = 3 * smooth(5) + 2 * smooth(14) + 0.5
    drawn = np.stack([mean + smooth(4) for _ in range(members)])
    probability = 1 / (1 + np.exp(mean))
    probability[:64, 128:192] = np.nan  # never drawn
    names, dyes = (*results.FIELDS, "haematoxylin", "eosin"), np.abs([smooth(3), smooth(6)])
    store = create_store(path, shape, names, 0.5, "float16")
    fields = dict(zip(names, (probability, mean.clip(-3, 3), drawn.std(0), mean, *dyes)))
    group = zarr.open_group(store.folder, mode="r+")
    about = {"weights": "made up", "weights_checksum": "none", "members": members, "truncation_px": 10.0}
    about |= {"reach_px": 3.0, "threshold_px": 0.0, "microns": 0.5, "downsample": 2.0, **more}
    about |= {"dyes": ["haematoxylin", "eosin"]}
    group.attrs["sdfdiff"] = about
    group.create_array("members", data=in_steps(drawn, 10.0), chunks=(1, 512, 512))
    store.write(0, 0, None, fields)
    return store


@pytest.mark.parametrize("line", [0, 2])
def test_objects_are_those_of_the_whole_array(tmp_path, small_tiles, line):
    "Also of weights that kept a line between objects, which is given back."
    store = made_up(tmp_path / "a.ome.zarr", **{"line_px": line} if line else {})
    group = zarr.open_group(store.folder, mode="r")
    every = slice(None)
    expected, rows = objects_of(*results._crop(group, slice(0, 200), slice(0, 270)), microns=0.5)
    table = results.slide_objects(store, progress=False)
    labels = group["labels/objects/0"][every]
    assert labels.max() == expected.max() == table.sizes["object"] > 30
    pairs = np.unique(np.stack([labels.ravel(), expected.ravel()]), axis=1)
    assert pairs.shape[1] == labels.max() + 1 and len(set(pairs[0])) == len(set(pairs[1])) == labels.max() + 1
    order = pairs[1, 1:] - 1  # rows of the whole, in the order of the tiles
    pieces, _ = ndimage.label(np.nan_to_num(group["0"][0]) >= 0.5)
    sizes = np.array([max(r.stop - r.start, c.stop - c.start) for r, c in ndimage.find_objects(pieces)])
    assert (sizes > 96).any(), "some piece is larger than a tile and what is read around it"
    assert table["id"].values.tolist() == list(range(1, labels.max() + 1))
    for name, factor in (("area", 4), ("perimeter", 2), ("area_um", 1), ("eccentricity", 1), ("probability", 1)):
        np.testing.assert_allclose(table[name], factor * rows[name].values[order], rtol=1e-5)
    for name in ("haematoxylin", "eosin"):
        assert np.array_equal(table[name], rows[name].values[order]), "the same pixels in the same order: to the bit"
    for name in ("row", "column"):
        np.testing.assert_allclose(table[name], (rows[name].values[order] + 0.5) * 2 - 0.5, rtol=1e-6)
        np.testing.assert_allclose(table[f"{name}_um"], table[name] * 0.25, rtol=1e-6)
    for name in ("exists", "split", "merged"):  # pieces of members are cut further out
        away = np.abs(table[name].values - rows[name].values[order])
        assert away.max() < 0.2 and away.mean() < 0.02
    again = results.slide_objects(store, workers=2, progress=False)
    assert again.identical(table) and (group["labels/objects/0"][every] == labels).all()


def test_objects_are_as_sure_as_those_of_an_image(scene, tmp_path, monkeypatch):
    "What the members say, from 8 bits and in tiles, against the distances themselves: only rounding differs."
    monkeypatch.setattr(results, "_TILE", 256)
    seen, keep = [], slides.in_steps
    monkeypatch.setattr(slides, "in_steps", lambda distance, most: seen.append(distance) or keep(distance, most))
    store = open_store(scene, tmp_path / "a.ome.zarr")
    assert list(draw_slide(scene, store))[-1].done == 1
    group = zarr.open_group(store.folder, mode="r")
    crop, dyes = results._crop(group, slice(0, scene.grid.rows), slice(0, scene.grid.columns))
    exact = np.concatenate(seen, axis=1)
    assert np.abs(crop["distance"].values - exact).max() <= (scene.model.truncation + 0.5) / 127 / 2 + 1e-5
    assert np.array_equal(crop["distance"].values <= 0, exact <= 0)
    labels, rows = objects_of(crop.assign(distance=(crop["distance"].dims, exact)), dyes)
    table = results.slide_objects(store, progress=False)
    mine = zarr.open_group(store.folder, mode="r")["labels/objects/0"][:]
    pairs = np.unique(np.stack([mine.ravel(), labels.ravel()]), axis=1)[:, 1:]
    assert len(pairs[0]) == labels.max() == table.sizes["object"] > 30
    for name in ("exists", "split", "merged"):
        away = np.abs(table[name].values[pairs[0] - 1] - rows[name].values[pairs[1] - 1])
        assert away.mean() < 0.02, name


def test_a_slide_without_objects(tmp_path, small_tiles):
    store = made_up(tmp_path / "a.ome.zarr", (70, 80))
    zarr.open_group(store.folder, mode="r+")["0"][0] = 0
    table = results.slide_objects(store, progress=False)
    assert table.sizes["object"] == 0 and {"exists", "area_um", "haematoxylin", "eosin"} <= {*table}


@pytest.mark.parametrize(("stain", "microns"), [("vahadane", 0.5), ("vahadane", 0.25), ("none", 0.5)])
def test_dyes_of_objects_are_those_of_the_image(tmp_path, monkeypatch, stain, microns):
    "Against the dyes of the whole image at once, summed over the pixels of each object; in several tiles."
    monkeypatch.setattr(results, "_TILE", 64)
    image = small_slides.nuclei(320 if microns == 0.5 else 600)
    model = replace(tiny(NUCLEI), preparation=replace(NUCLEI, stain=stain))
    whole = open_whole(written(tmp_path / "a.tif", image, microns), model, members=2)
    store = open_store(whole, tmp_path / "a.ome.zarr")
    assert list(draw_slide(whole, store))[-1].done == 1
    table, factor = results.slide_objects(store, progress=False), int(0.5 / microns)
    amounts = dye_amounts(np.round(255 * image) / 255, stain, whole.stain)
    assert list(amounts) == (["density"] if stain == "none" else ["haematoxylin", "eosin"]) and len(table["id"]) > 3
    labels = zarr.open_group(store.folder, mode="r")["labels/objects/0"][:]
    labels = labels.repeat(factor, 0).repeat(factor, 1)  # network pixels, as pixels of the image
    for name, amount in amounts.items():
        expected = ndimage.mean(amount, labels, table["id"].values)
        np.testing.assert_allclose(table[name], expected, rtol=1e-3)  # half precision


# ---- the command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "Two slides, one of them cut off, and weights; what is large begins at 300 px."
    monkeypatch.setattr("sdfdiff.images.readers.LARGEST", 300)
    monkeypatch.setattr(results, "_REGION", 512)
    monkeypatch.chdir(tmp_path)
    whole = written(tmp_path / "a.tif", tissue(3, (310, 600)).image)
    (tmp_path / "cut.svs").write_bytes(whole.read_bytes()[:30000])
    save_weights("tiny.safetensors", tiny())
    return tmp_path


def words(*more, images=("a.tif",)):
    return ["segment", *images, "--out", "out", "--weights", "tiny.safetensors", "--members", "3", *more]


def test_command(folder, capsys):
    assert main(words(images=("a.tif", "cut.svs"))) == 1
    said = capsys.readouterr()
    assert "objects, " in said.out and "doubtful (P < 0.8), 600x310 px at 0.25 um/px -> 600x310 px" in said.out
    assert "cut.svs is cut off" in said.err and "1 of 2 images failed" in said.err
    names = {"a.ome.zarr", "a_labels.tif", "a_objects.csv", "a.geojson.gz"}
    assert {one.name for one in (folder / "out").iterdir()} == names
    before = content(folder / "out")
    assert main(words()) == 1 and "a.ome.zarr exists: pass --resume to go on, or --force" in capsys.readouterr().err
    assert main(words("--resume")) == 0 and "done before, skipped" in capsys.readouterr().out
    assert main(words("--resume", "--members", "4")) == 1 and "members 3, now 4" in capsys.readouterr().err
    assert content(folder / "out") == before
    assert main(words("--force")) == 0
    assert content(folder / "out") == before, "the same bytes again"
    assert main(["segment", "out", "--out", "elsewhere"]) == 1 and "holds no image" in capsys.readouterr().err
    assert main(words("--add")) == 1 and "no members can be added to a whole slide" in capsys.readouterr().err
    assert main(words("--tolerance", "0.1", "--force")) == 1
    assert "a.tif: each part of a whole slide is drawn alone, without a tolerance" in capsys.readouterr().err
    assert content(folder / "out") == before
    assert main(words("--quality", "draft", "--force")) == 0
    assert content(folder / "out") != before


def test_a_calibration_is_a_column_of_a_slide(folder, capsys):
    "The same store but for what it says of itself; a run that was begun with another calibration is not continued."
    calibration_file("c.nc", weights_header("tiny.safetensors")["checksum"])
    assert main(words("--out", "plain")) == 0 and main(words("--calibration", "c.nc")) == 0
    plain, table = (
        np.genfromtxt(f"{out}/a_objects.csv", delimiter=",", names=True, ndmin=1) for out in ("plain", "out")
    )
    assert [*table.dtype.names] == [*plain.dtype.names, "exists_calibrated"] and "density" in plain.dtype.names
    assert all(np.array_equal(table[name], plain[name], equal_nan=True) for name in plain.dtype.names)
    np.testing.assert_allclose(table["exists_calibrated"], Recalibration(3, 0.5, -1)(table["exists"]), rtol=1e-6)
    with gzip.open("out/a.geojson.gz") as file:
        assert all("exists_calibrated" in one["properties"]["measurements"] for one in json.load(file)["features"])
    capsys.readouterr()
    assert main(words("--calibration", "c.nc", "--resume")) == 0 and "skipped" in capsys.readouterr().out
    assert main(words("--resume")) == 1 and "calibration" in capsys.readouterr().err
    whole = open_whole("a.tif", load_model("tiny.safetensors"), members=3)
    open_store(whole, folder / "b.ome.zarr")
    other = open_whole("a.tif", whole.model, members=3, calibration="c.nc")
    with whole.slide, other.slide, pytest.raises(ValueError, match="was begun with something else .*calibration"):
        open_store(other, folder / "b.ome.zarr", resume=True)


def test_results_belong_together(folder):
    assert main(words()) == 0
    labels = tifffile.imread("out/a_labels.tif")
    group = zarr.open_group("out/a.ome.zarr", mode="r")
    assert labels.dtype == np.uint32 and (labels == group["labels/objects/0"][:]).all()
    assert group["0"].dtype == np.float16 and group["members"].shape == (3, 310, 600)
    with gzip.open("out/a.geojson.gz") as file:
        features = json.load(file)["features"]
    rows = (folder / "out/a_objects.csv").read_text().splitlines()
    assert len(features) == len(rows) - 1 == labels.max() > 0
    corners = np.concatenate([np.array(one["geometry"]["coordinates"][0]).reshape(-1, 2) for one in features
                              if one["geometry"]["type"] == "Polygon"])  # fmt: skip
    assert corners.min() >= 0 and (corners.max(0) <= [600, 310]).all()


def test_stopped_and_resumed(folder, monkeypatch, capsys):
    assert main(words("--out", "expected")) == 0
    measure = results.slide_objects

    def stopped(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(results, "slide_objects", stopped)
    assert main(words()) == 130 and "continue with --resume" in capsys.readouterr().err
    assert [one.name for one in (folder / "out").iterdir()] == ["a.ome.zarr.unfinished"]
    monkeypatch.setattr(results, "slide_objects", measure)
    assert main(words("--resume")) == 0
    assert content(folder / "out") == content(folder / "expected")
