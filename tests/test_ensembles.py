"Ensembles: tiles that sum to one, members that are themselves, statistics against NumPy, exact posteriors, labels."

import json
import math
import time
import tracemalloc
from dataclasses import fields, replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from sdfdiff.distance import normalise
from sdfdiff.ensembles import (
    PAPER_GLANDS,
    PAPER_NUCLEI,
    UNITS,
    Denoiser,
    Running,
    Sampling,
    batch_size,
    draw_members,
    ensemble,
    masks,
    sample_batches,
    source_pixels,
    tile_windows,
)
from sdfdiff.network import Features, Model
from sdfdiff.oracle import FiniteMasks, GaussianField
from sdfdiff.sampling import SAMPLERS, Counted, last
from sdfdiff.segmenting import write_dataset
from sdfdiff.shapes import box, disc
from small_networks import random_network

IMAGE = np.random.default_rng(0).random((1, 72, 96), dtype=np.float32)
QUICK = Sampling(steps=3)
INDEPENDENT = sorted(set(SAMPLERS) - {"authors"})  # the authors' corrector has one step size for the whole batch


@cache
def tiny(channels=1, seed=0):
    "A small network with random weights, in float32: what it finds does not matter here."
    return Model(random_network(channels, seed), about={"name": "tiny", "checksum": "123"})


class Known:
    "Stands in for a network: any function of the noisy map, the noise level and the image."

    def __init__(self, denoise, prior=0.0, multiple=16):
        self.denoise, self.prior, self.largest = denoise, prior, 0
        self.architecture = SimpleNamespace(multiple=multiple)
        self.read = SimpleNamespace(weight=torch.zeros(1))

    def encode(self, image):
        return Features(image, self.prior * image)

    def __call__(self, noisy, noise_level, features):
        self.largest = max(self.largest, len(noisy))
        return self.denoise(noisy, noise_level, features.maps)


def pointwise(noisy, noise_level, image):
    return 0.2 * torch.tanh(noisy / (1 + noise_level) + image - 0.5)


def known(denoise=pointwise, **options):
    return Model(Known(denoise, **options))


def oracle(denoise, **options):
    return known(lambda noisy, level, _: denoise(noisy, level), **options)


def drawn(model, image=IMAGE, members=4, sampling=QUICK, **options):
    return ensemble(model, image, members, sampling, progress=False, **options)


# ---- tiles


@given(st.sampled_from([1, 4, 8, 16]), st.integers(1, 300), st.integers(3, 40), st.data())
def test_tiles_cover_overlap_and_sum_to_one(multiple, blocks, tile_blocks, data):
    length, tile = blocks * multiple, tile_blocks * multiple
    overlap = multiple * data.draw(st.integers(1, tile_blocks - 1), "overlap")
    windows, weights = tile_windows(length, tile, overlap, multiple)
    assert weights.shape == (len(windows), length)
    assert np.allclose(weights.sum(axis=0), 1, atol=1e-12) and (weights >= 0).all()
    assert windows[0].start == 0 and windows[-1].stop == length
    assert len({w.stop - w.start for w in windows}) == 1 and windows[0].stop <= tile
    assert all(edge % multiple == 0 for w in windows for edge in (w.start, w.stop))
    assert all(a.stop - b.start >= overlap for a, b in zip(windows, windows[1:]))
    for window, weight in zip(windows, weights):
        assert (weight[window] > 0).all() and weight.sum() == pytest.approx(weight[window].sum())


@settings(max_examples=50)
@given(st.integers(1, 300), st.sampled_from([(288, 32), (96, 32), (64, 16), (128, 96)]))
def test_tiles_fade_at_inner_edges(blocks, tiling):
    "No weight jumps: between neighbouring pixels it changes by little more than one part of the overlap."
    _, weights = tile_windows(16 * blocks, *tiling, 16)
    assert np.abs(np.diff(weights, axis=1)).max(initial=0) <= 1.5 / min(tiling[1], 32)


def test_one_tile_is_used_whole():
    for length in (16, 64, 288):
        windows, weights = tile_windows(length, 288, 32, 16)
        assert windows == [slice(0, length)] and (weights == 1).all()


@pytest.mark.parametrize("shape", [(64, 64), (96, 200), (33, 47), (150, 64)])
@pytest.mark.parametrize(("tile", "overlap"), [(64, 16), (48, 32), (288, 32)])
def test_tiles_change_nothing_where_pixels_are_independent(shape, tile, overlap):
    "For a denoiser that works pixel by pixel, blending must be invisible: positions, features and weights are right."
    image = np.random.default_rng(1).random((1, *shape), dtype=np.float32)
    model = known(prior=0.3)
    denoiser, level = Denoiser(model, image, tile, overlap), torch.tensor(0.7)
    noisy = torch.randn(2, 1, *denoiser.canvas, generator=torch.Generator().manual_seed(0))
    padded = np.pad(image, [(0, 0), *((0, c - n) for c, n in zip(denoiser.canvas, shape))], mode="symmetric")
    torch.testing.assert_close(denoiser(noisy, level), pointwise(noisy, level, torch.from_numpy(padded)[None]))
    torch.testing.assert_close(denoiser.prior, 0.3 * torch.from_numpy(padded)[None])
    assert denoiser.canvas == tuple(max(64, math.ceil(n / 16) * 16) for n in shape)
    assert (len(denoiser.tiles) > 1) == (max(denoiser.canvas) > tile)


@pytest.mark.parametrize("shape", [(16, 16), (33, 47), (64, 64), (64, 65), (20, 130)])
def test_any_size_comes_back_as_it_was(shape):
    image = np.random.default_rng(2).random((1, *shape), dtype=np.float32)
    dataset = drawn(tiny(), image, members=2)
    assert dataset["distance"].shape == (2, *shape) and dataset["image"].shape == (1, *shape)
    assert (dataset["image"].values == image).all() and np.isfinite(dataset["distance"]).all()


def test_tiled_members_resemble_those_of_one_piece():
    "A real network sees less around each tile, but the noise is the same: the fields must agree in the main."
    image = np.random.default_rng(3).random((1, 64, 192), dtype=np.float32)
    whole, tiled = drawn(tiny(), image), drawn(tiny(), image, tile=96, overlap=32)
    other = drawn(tiny(), image, seed=1)
    error = float(np.abs(whole["distance"] - tiled["distance"]).mean())
    assert 0 < error < 0.2 * float(np.abs(whole["distance"] - other["distance"]).mean())


# ---- members


@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_member_does_not_depend_on_its_batch(name):
    model, sampling = known(), Sampling(name, 4, corrections=1)
    whole = drawn(model, members=7, sampling=sampling)["distance"].values
    for batch in (1, 3, 4):
        few = drawn(model, members=5, sampling=sampling, batch=batch)["distance"].values
        np.testing.assert_allclose(few, whole[:5], rtol=0, atol=1e-5)
    assert np.abs(np.diff(whole, axis=0)).mean(axis=(1, 2)).min() > 0.01, "two members are the same"


def test_a_networks_member_does_not_depend_on_its_batch():
    model = tiny()
    sixteen = drawn(model, members=16)
    for members, batch in ((8, 8), (8, 3), (3, 1)):
        few = drawn(model, members=members, batch=batch)
        np.testing.assert_allclose(few["distance"], sixteen["distance"][:members], rtol=0, atol=2e-3)
        np.testing.assert_allclose(few["area"], sixteen["area"][:members], rtol=0, atol=2)


def test_a_member_is_its_number_and_the_seed():
    model = known()
    denoiser = Denoiser(model, IMAGE)
    all_members = last(draw_members(denoiser, model, QUICK, range(6), seed=3))
    for member in (0, 5):
        torch.testing.assert_close(last(draw_members(denoiser, model, QUICK, [member], seed=3))[0], all_members[member])
    other = last(draw_members(denoiser, model, QUICK, range(6), seed=4))
    assert (other - all_members).abs().mean() > 1e-3


@pytest.mark.parametrize("name", sorted(SAMPLERS))
@pytest.mark.parametrize("final", [False, True])
def test_calls_are_counted_right(name, final):
    model, sampling = known(), Sampling(name, 5, final=final, corrections=2)
    counted = Counted(Denoiser(model, IMAGE))
    counted.prior, counted.canvas = counted.denoise.prior, counted.denoise.canvas
    last(draw_members(counted, model, sampling, range(2)))
    assert counted.calls == sampling.calls


def test_paper_settings():
    assert (PAPER_NUCLEI.calls, PAPER_GLANDS.calls) == (1500, 400)
    assert {PAPER_NUCLEI.start, PAPER_GLANDS.start} == {"zero"} and not PAPER_NUCLEI.final


def test_noise_levels_start_and_spacing_are_used():
    seen = []

    def denoise(noisy, level, image):
        seen.append(float(level))
        return torch.zeros_like(noisy)

    model = known(denoise, prior=100.0)
    drawn(model, members=1, sampling=Sampling("dpm", 4, "geometric", highest=8.0, lowest=0.5, final=False))
    assert seen == pytest.approx([8, 4, 2, 1])
    denoiser = Denoiser(model, np.ones_like(IMAGE))
    zero, prior = (next(draw_members(denoiser, model, Sampling("dpm", 1, start=start), [0])) for start in ("zero", "prior"))
    ratio = model.schedule.sigma_min / model.schedule.sigma_max  # of the start, this much is left after one step
    torch.testing.assert_close(prior - zero, torch.full_like(zero, 100 * ratio), rtol=1e-3, atol=0)


# ---- streaming statistics


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.integers(0, 2**32 - 1), st.sampled_from([0, 1e3, -1e6]))
def test_streaming_is_numpy(groups, seed, offset):
    numbers = np.random.default_rng(seed).normal(offset, 1, (sum(groups) + 1, 3, 2)).astype(np.float32)
    running = Running((3, 2), threshold=offset)
    for group in np.split(numbers, np.cumsum(groups)):
        running.add(group)
    exact = numbers.astype(np.float64)
    assert running.count == len(numbers)
    np.testing.assert_allclose(running.mean, exact.mean(axis=0), rtol=1e-12)
    assert (running.probability == (exact <= offset).mean(axis=0)).all()
    if len(numbers) == 1:
        assert np.isnan(running.std).all()
    else:
        np.testing.assert_allclose(running.std, exact.std(axis=0, ddof=1), rtol=1e-9)


def test_memory_does_not_grow_with_members():
    peaks, model = {}, known()
    for members in (8, 8, 64):  # the first run fills caches
        tracemalloc.start()
        dataset = drawn(model, members=members, batch=4, keep=1)
        peaks[members] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert dataset.attrs["members"] == members and dataset.sizes["every_member"] == members
    assert peaks[64] < 1.1 * peaks[8]
    assert model.network.largest == 4, "torch's memory grows with the members of one call"


@pytest.mark.parametrize("members", [1, 5, 1000])
@pytest.mark.parametrize(("canvas", "tile"), [((64, 64), 64), ((512, 512), 288), ((4096, 4096), 288)])
def test_batches_fit_into_memory(members, canvas, tile):
    shape = tuple(min(n, tile) for n in canvas)
    denoiser = SimpleNamespace(canvas=canvas, tiles=[(None, None, torch.empty(shape), None)])
    batch = batch_size(denoiser, members)
    assert 1 <= batch <= members and batch * math.prod(shape) <= 2**19 and batch * math.prod(canvas) <= 2**26
    assert batch == members or (batch + 1) * math.prod(shape) > 2**19 or (batch + 1) * math.prod(canvas) > 2**26


def test_batches_come_in_order():
    model = known()
    sizes = [len(batch) for batch in sample_batches(Denoiser(model, IMAGE), model, QUICK, 7, batch=3, progress=False)]
    assert sizes == [3, 3, 1]


def test_progress_bar_moves_with_every_step(capsys):
    "A batch can take half a minute: the bar shows its steps, also in the second batch."
    def slow(noisy, level, image):
        time.sleep(0.15)
        return noisy

    model = known(slow)
    list(sample_batches(Denoiser(model, IMAGE), model, Sampling("dpm", 5, final=False), 4, batch=2))
    shown = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "step" in line]
    second = [line for line in shown if " 2/4" in line]
    assert len(shown) - len(second) >= 3 and len({line.rsplit("step", 1)[1] for line in second}) >= 3, shown
    drawn(known(), members=1)
    assert not capsys.readouterr().err


# ---- exact posteriors


def test_finite_masks_are_found_with_their_probabilities():
    "Every member is one of the masks, each as often as it should be; mean, std and probability follow."
    shapes = [disc((64, 64), (31, 25), 9.0), box((64, 64), (31, 35), (10.0, 6.0))]
    pixels = np.stack([np.clip(shape, -10, 10) for shape in shapes]).astype(np.float32)
    field = FiniteMasks(torch.from_numpy(normalise(pixels, 10.0, 0.2)), torch.tensor([0.7, 0.3]))
    sampling = Sampling("ancestral", 24, highest=50.0)  # so high that the start does not know the masks
    dataset = drawn(oracle(field), np.zeros((1, 64, 64), np.float32), 200, sampling, rule="zero")
    error = np.abs(dataset["distance"].values[:, None] - pixels).mean(axis=(2, 3))
    assert error.min(axis=1).max() < 0.01
    share = (error.argmin(axis=1) == 0).mean()
    assert abs(share - 0.7) < 4 * math.sqrt(0.7 * 0.3 / 200)
    difference, inside = pixels[0] - pixels[1], pixels <= 0
    np.testing.assert_allclose(dataset["mean"], share * pixels[0] + (1 - share) * pixels[1], atol=0.02)
    spread = math.sqrt(share * (1 - share) * 200 / 199) * np.abs(difference)
    np.testing.assert_allclose(dataset["std"], spread, atol=0.02)
    sure = np.abs(pixels).min(axis=0) > 0.1
    np.testing.assert_allclose(
        dataset["probability"].values[sure], (share * inside[0] + (1 - share) * inside[1])[sure], atol=1e-6)


def test_gaussian_field_has_its_moments():
    deviation, mean = 0.03, 0.01  # 1.5 px and 0.5 px
    field = GaussianField((64, 64), deviation, length=1.5, mean=mean)
    dataset = drawn(oracle(field), np.zeros((1, 64, 64), np.float32), 48, Sampling("heun", 30), rule="zero")
    assert float(dataset["mean"].mean()) == pytest.approx(0.5, abs=0.05)
    assert float(np.sqrt((dataset["std"] ** 2).mean())) == pytest.approx(1.5, rel=0.04)
    normal = 0.5 * math.erfc(mean / deviation / math.sqrt(2))
    assert float(dataset["probability"].mean()) == pytest.approx(normal, abs=0.02)


# ---- the dataset


@pytest.fixture(scope="module")
def dataset():
    truth = np.zeros((72, 96), bool)
    truth[20:40, 30:60] = True
    return drawn(tiny(), members=5, keep=3, truth=truth, source_shape=(144, 96), seed=2)


def test_every_variable_has_dimensions_unit_and_meaning(dataset):
    plane = ("row", "column")
    expected = dict.fromkeys(("mean", "std", "probability", "mask_std", "prior", "truth"), plane)
    expected |= {"image": ("channel", *plane), "distance": ("member", *plane), "area": ("every_member",)}
    assert {name: field.dims for name, field in dataset.data_vars.items()} == expected
    for name in (*dataset.data_vars, *plane):
        assert dataset[name].attrs["units"] == UNITS[name][0] and dataset[name].attrs["long_name"] == UNITS[name][1]
    assert dict(dataset.sizes) == {"channel": 1, "row": 72, "column": 96, "member": 3, "every_member": 5}
    assert {field.dtype for field in dataset.drop_vars(["area", "truth"]).data_vars.values()} == {np.dtype("float32")}


def test_statistics_are_of_all_members_also_those_not_kept(dataset):
    everything = drawn(tiny(), members=5, seed=2)
    distances = everything["distance"].values.astype(np.float64)
    inside = distances <= dataset.attrs["threshold_px"]
    np.testing.assert_array_equal(dataset["distance"], everything["distance"][:3])
    np.testing.assert_allclose(dataset["mean"], distances.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(dataset["std"], distances.std(axis=0, ddof=1), atol=1e-5)
    np.testing.assert_allclose(dataset["probability"], inside.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(dataset["mask_std"], inside.std(axis=0), atol=1e-6)
    assert dataset["area"].values.tolist() == inside.sum(axis=(1, 2)).tolist()
    assert drawn(tiny(), members=2, keep=9).sizes["member"] == 2


def test_distances_stay_within_the_truncation(dataset):
    for name in ("distance", "mean", "prior"):
        assert np.abs(dataset[name]).max() <= dataset.attrs["truncation_px"]


def test_members_stay_whole_when_they_are_averaged_cut():
    "`reach` cuts what is averaged; members, P(object) and areas know nothing of it."
    whole, cut = drawn(tiny(), members=5), drawn(replace(tiny(), reach=1.0), members=5)
    assert (cut.attrs["truncation_px"], cut.attrs["reach_px"], whole.attrs["reach_px"]) == (10.0, 1.0, 10.0)
    for name in ("distance", "probability", "mask_std", "area", "prior"):
        np.testing.assert_array_equal(whole[name], cut[name])
    near = whole["distance"].values.clip(-1, 1)
    assert np.abs(whole["distance"]).max() > 2, "there is something to cut"
    np.testing.assert_allclose(cut["mean"], near.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(cut["std"], near.std(axis=0, ddof=1), atol=1e-5)


def test_attributes_make_it_again(dataset):
    "Seed, members and all settings are in the attributes, as plain numbers and words that netCDF can hold."
    attributes = json.loads(json.dumps(dataset.attrs))  # raises for anything else
    assert not [value for value in attributes.values() if isinstance(value, bool) or value is None]
    options = {field.name: attributes[field.name] for field in fields(Sampling)}
    sampling = Sampling(**{key: None if value == "default" else value for key, value in options.items()})
    assert sampling.calls == attributes["calls_per_member"]
    again = ensemble(
        tiny(), dataset["image"].values, attributes["members"], sampling, attributes["seed"],
        attributes["threshold_rule"], keep=dataset.sizes["member"], truth=dataset["truth"].values,
        source_shape=(attributes["source_rows"], attributes["source_columns"]), progress=False)
    xr.testing.assert_identical(again, dataset)
    assert (attributes["weights"], attributes["weights_checksum"]) == ("tiny", "123")


def test_attributes_tell_the_tiles():
    "Members depend on how an image was tiled, so it must be told."
    for tile, overlap in ((288, 32), (48, 16)):
        attributes = drawn(known(), members=1, tile=tile, overlap=overlap).attrs
        assert (attributes["tile"], attributes["overlap"]) == (tile, overlap)


def test_netcdf_keeps_everything(dataset, tmp_path):
    write_dataset(dataset, tmp_path / "ensemble.nc")
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "ensemble.nc", engine="h5netcdf"), dataset)


def test_coordinates_are_pixels_of_the_source(dataset):
    assert dataset["row"].values[:3].tolist() == [0.5, 2.5, 4.5] and dataset["row"].values[-1] == 142.5
    assert (dataset["column"].values == np.arange(96)).all()


@given(st.integers(1, 50), st.integers(1, 50))
def test_source_pixels_are_centred(count, source):
    place = source_pixels(count, source)
    assert place.mean() == pytest.approx((source - 1) / 2) and np.allclose(np.diff(place), source / count)
    assert place[0] - 0.5 * source / count == pytest.approx(-0.5)


def test_one_member_has_no_spread():
    one = drawn(tiny(), members=1)
    assert np.isnan(one["std"]).all() and (one["mask_std"] == 0).all()
    assert set(np.unique(one["probability"])) <= {0, 1}
    np.testing.assert_array_equal(one["mean"], one["distance"][0])


@pytest.mark.parametrize(("rule", "pixels"), [("zero", 0.0), ("paper", 0.15), ("half_pixel", 0.5)])
def test_threshold_rules(rule, pixels):
    ruled, zero = drawn(tiny(), rule=rule), drawn(tiny(), rule="zero")
    assert ruled.attrs["threshold_px"] == pytest.approx(pixels) and ruled.attrs["threshold_rule"] == rule
    for name in ("distance", "mean", "std", "prior"):
        xr.testing.assert_identical(ruled[name], zero[name])
    np.testing.assert_allclose(ruled["probability"], (ruled["distance"] <= pixels).mean("member"), atol=1e-6)
    assert (ruled["probability"] >= zero["probability"]).all()
    assert (masks(ruled)["mmse"] == (ruled["mean"] <= ruled.attrs["threshold_px"]).values).all()


def test_mean_and_majority_are_different_questions():
    fields = {"mean": ("n", [7 / 3, 0.0, 0.1]), "probability": ("n", [2 / 3, 0.5, 0.49])}
    far = masks(xr.Dataset(fields, attrs={"threshold_px": 0.0}))
    assert far["mmse"].tolist() == [False, True, False] and far["majority"].tolist() == [True, True, False]


@pytest.mark.parametrize(("call", "words"), [
    (lambda: drawn(tiny(), np.full((1, 64, 64), np.nan, np.float32)), "finite"),
    (lambda: drawn(tiny(), IMAGE[0]), "(channel, row, column)"),
    (lambda: drawn(tiny(), np.repeat(IMAGE, 3, axis=0)), "1, row, column"),
    (lambda: drawn(tiny(), members=0), "at least one"),
    (lambda: drawn(tiny(), rule="third"), "half_pixel"),
    (lambda: drawn(tiny(), sampling=Sampling(highest=1e-4)), "sigma"),
    (lambda: Sampling("ddim"), "dpm_sde"),
    (lambda: Sampling(spacing="linear"), "karras"),
    (lambda: Sampling(start="truth"), "prior"),
    (lambda: drawn(known(lambda noisy, level, image: noisy * math.inf)), "not finite"),
    (lambda: drawn(known(), tile=32, overlap=32), "overlap"),
    (lambda: drawn(known(), members=2, keep=-1), "keep"),
    (lambda: drawn(known(), members=1, truth=np.zeros((5, 5), bool)), "truth"),
])
def test_what_cannot_work_is_one_sentence(call, words):
    with pytest.raises(ValueError) as problem:
        call()
    sentence = str(problem.value)
    assert words in sentence and "\n" not in sentence and sentence.endswith(".")
