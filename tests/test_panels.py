"The numbers behind the panels, against independent ways to compute them."

import base64
import gzip
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from small_networks import one_call_network, random_network

from sdfdiff import drawing
from sdfdiff.diffusion.corruption import VE, VP, displacement, fragments
from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.distance import signed_distance
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.method import METHODS, Method, untuned
from sdfdiff.images.synthetic import tissue
from sdfdiff.ensembles.members import Denoiser, draw_members, in_pixels
from sdfdiff.panels import CorruptionPanel, EnsemblePanel, ErrorPanel, LivePanel, PaintPanel, ReversePanel, StackPanel
from sdfdiff.panels import ensembles, live, masks, pages
from sdfdiff.panels.pages import codes, colours, packed
from sdfdiff.panels.samplers import method_with, reverse_run


@pytest.fixture(scope="module")
def material():
    scene, model = tissue(3, (64, 64)), load_model("tissue")
    image, truth = np.moveaxis(scene.image, -1, 0), scene.rate(np.random.default_rng(1)) > 0
    return model, image, truth, ensemble(model, image, untuned("dpm_sde", 4), members=6, truth=truth, progress=False)


# ---- corruption


@pytest.mark.parametrize("schedule", [VE(), VP()])
def test_damage_is_that_of_the_corruption_module(schedule):
    labels = tissue(5, (64, 64)).rate(np.random.default_rng(0))
    clean, noise = masks._targets(labels), masks._standard_noise(labels.shape)
    levels = masks._schedule_levels(schedule, 9)
    assert levels.shape == (9, 2) and levels[-1, 0] == pytest.approx(float(schedule.noise_level(1.0)), rel=1e-6)
    found = masks._damage_curves(labels, clean, noise, levels[:, 0])
    for k in range(2):
        for frame in range(9):
            torn = masks._corrupted(clean[k], noise, levels[frame, 0]) <= 0
            assert found[0, k, frame] == pytest.approx(fragments(torn, labels))
            assert found[1, k, frame] == pytest.approx(displacement(torn, labels), nan_ok=True)


def test_noise_is_standard_and_the_range_is_the_same():
    noise = masks._standard_noise((256, 256), 4)
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.01 and noise.dtype == np.float32
    distance, binary = masks._targets(tissue(3, (64, 64)).rate(np.random.default_rng(0)))
    assert np.abs(distance).max() == pytest.approx(0.2)
    assert set(np.unique(binary)) == {np.float32(-0.2), np.float32(0.2)}


def test_a_painted_mask_is_set_and_read(material):
    truth = material[2]
    panel = PaintPanel(truth, truncation=6)
    np.testing.assert_array_equal(panel.mask, truth)
    panel.mask = labels = np.where(truth.T, 7, 0)
    np.testing.assert_array_equal(panel.mask, labels > 0)
    np.testing.assert_array_equal(panel.distance, signed_distance(labels > 0, 6.0))
    with pytest.raises(ValueError, match=r"shape \(5, 5\): the panel paints on \(64, 64\)"):
        panel.mask = np.zeros((5, 5), bool)
    np.testing.assert_array_equal(panel.mask, labels > 0)


# ---- the way back


WAYS = [method_with(*one) for one in (("dpm_sde", 5), ("ancestral", 7), ("heun", 5), ("paper", 7), ("score_sde", 5))]
WAYS += [METHODS["default"], METHODS["draft"], untuned("paper", 3, "geometric", corrections=1, final=False)]


@pytest.mark.parametrize("threshold", [-2.0, 0.0, 2.0])
def test_the_threshold_moves_the_edge_of_a_painted_mask(threshold):
    mask = np.zeros((20, 24), bool)
    mask[5:15, 6:18] = True
    panel = PaintPanel(mask)
    panel.threshold.value = threshold
    grown = int(threshold)
    expected = np.zeros((20, 24), bool)
    expected[5 - grown : 15 + grown, 6 - grown : 18 + grown] = True
    found = panel.thresholded
    assert not (found & ~expected).any()  # corners are rounded
    middle = np.s_[8:12, 9:15]
    np.testing.assert_array_equal(found[:, 11], expected[:, 11])
    np.testing.assert_array_equal(found[10], expected[10])
    assert found[middle].all()


@pytest.mark.parametrize("method", WAYS, ids=lambda one: f"{one.name}-{one.calls}")
def test_a_run_ends_where_the_ensemble_does(material, method):
    model, image = material[:2]
    run = reverse_run(model, image, method, members=3, seed=5)
    dataset = ensemble(model, image, method, members=3, seed=5, progress=False)
    last = run.state[-1] * model.truncation / model.data_scale
    np.testing.assert_allclose(last.clip(-model.reach, model.reach), dataset["distance"].values, atol=1e-4)
    assert run.calls[0] == 0 and run.calls[-1] == method.calls and (np.diff(run.calls) > 0).all()
    left = 0 if method.final else pytest.approx(model.schedule.sigma_min)
    assert run.noise_level[0] == pytest.approx(model.schedule.sigma_max) and run.noise_level[-1] == left
    assert (np.diff(run.noise_level) < 0).all()
    if method.final:
        np.testing.assert_array_equal(run.state[-1], run.denoised[-2])


def test_the_reverse_panel_offers_what_people_use_and_takes_any_method(material):
    model, image = material[:2]
    panel = ReversePanel(model, image, members=2, seed=5)
    assert panel.method.options[:2] == ("default with 10 calls", "draft with 5 calls")
    assert [int(label.split()[2]) for label in panel.methods] == [one.calls for one in panel.methods.values()]
    assert len(panel.methods) == 18 and list(panel.canvas.runs) == ["default with 10 calls"]
    own = Method("dpm", 3, stochasticity=1.0, members=64, name="mine")
    panel = ReversePanel(model, image, (own, "default"), members=2, seed=5)
    assert panel.methods["mine with 4 calls"] == replace(own, members=2, seed=5), "shown as it is, but for the members"
    panel.method.value = "default with 10 calls"
    assert list(panel.canvas.runs) == ["mine with 4 calls", "default with 10 calls"], "drawn when it is chosen"
    dataset = ensemble(model, image, members=2, seed=5, progress=False)
    one = panel.canvas.runs["default with 10 calls"].data["denoised"]
    sent = np.frombuffer(one["bytes"], np.uint8).reshape(one["shape"])
    np.testing.assert_array_equal(
        sent[-1] < 128, dataset["distance"].values <= np.float32(model.threshold("half_pixel"))
    )


def test_a_run_is_drawn_once(material):
    panel = ReversePanel(*material[:2], ("draft", method_with("heun", 5)), members=1)
    panel.compute_all()
    first = dict(panel.canvas.runs)
    panel.compute_all()
    assert list(first) == list(panel.methods) and all(panel.canvas.runs[name] is run for name, run in first.items())


def test_too_few_calls_are_named():
    with pytest.raises(ValueError, match="2 calls are too few for 'heun'"):
        method_with("heun", 2)


# ---- members while a slider moves


@pytest.fixture(scope="module")
def generating():
    "A model with a generator, and an image that is not square and whose padding shows."
    return Model(one_call_network(3)), np.moveaxis(tissue(3, (72, 90)).image, -1, 0)


def test_live_members_are_those_of_the_method_fast(generating):
    model, image = generating
    denoiser = Denoiser(model, image)
    (drawn,) = draw_members(denoiser, model, replace(METHODS["fast"], seed=4), range(8))
    wanted = in_pixels(model, drawn, image.shape[1:])
    np.testing.assert_array_equal(live.live_members(denoiser, model, 4), wanted)
    np.testing.assert_array_equal(live.live_members(denoiser, model, 4), wanted, err_msg="the same bits again")
    np.testing.assert_array_equal(live.live_members(denoiser, model, 3, blend=1.0), wanted, err_msg="a path's end")
    assert wanted.shape == (8, 72, 90) and np.abs(wanted).max() <= model.reach
    assert not np.array_equal(live.live_members(denoiser, model, 3), wanted)


def test_without_noise_all_members_are_equal(generating):
    model, image = generating
    denoiser = Denoiser(model, image)
    still = live.live_members(denoiser, model, 4, 0.3, strength=0.0)
    assert (still == still[0]).all()
    np.testing.assert_array_equal(still, live.live_members(denoiser, model, 9, strength=0.0))
    spread = [live.live_members(denoiser, model, 4, strength=one).std(axis=0).mean() for one in (0.0, 0.5, 1.0, 1.5)]
    assert spread == sorted(spread) and spread[1] > 0


@pytest.mark.parametrize("blend", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_noise_on_the_path_is_standard_normal(generating, blend):
    denoiser = Denoiser(generating[0], np.zeros((3, 256, 256), np.float32))
    noise = live.live_noise(denoiser, 7, blend, members=16)
    white = noise[:, :4]
    assert abs(float(white.mean())) < 0.01 and abs(float(white.std()) - 1) < 0.01
    ends = [live.live_noise(denoiser, 7 + k, members=16)[:, :4] for k in (0, 1)]
    shares = [float((white * end).mean()) for end in ends]
    assert shares == pytest.approx([np.cos(blend * np.pi / 2), np.sin(blend * np.pi / 2)], abs=0.01)


def test_paint_changes_its_spot_and_nothing_else():
    image = np.random.default_rng(0).random((3, 40, 50)).astype(np.float32)
    before = image.copy()
    np.testing.assert_array_equal(live.painted(image, []), image)
    away = np.hypot(np.arange(40)[:, None] - 12, np.arange(50) - 30)
    for kind, better in ((0, np.less_equal), (1, np.greater_equal)):
        found = live.painted(image, [[12, 30, 6, kind]])
        assert better(found, image).all() and (found != image)[:, away < 6].all()
        np.testing.assert_array_equal(found[:, away >= 7], image[:, away >= 7])
        assert 0 <= found.min() and found.max() <= 1
    wiped = live.painted(image, [[12, 30, 6, 2]])
    ring = (away > 6.5) & (away < 9)
    assert (wiped[:, away <= 6] == wiped[:, 12, 30][:, None]).all(), "one colour"
    assert (np.abs(wiped[:, 12, 30] - np.median(image[:, ring], axis=1)) < 0.15).all(), "that of its surroundings"
    twice = live.painted(live.painted(image, [[12, 30, 6, 0]]), [[0, 49, 20, 2]])
    np.testing.assert_array_equal(live.painted(image, [[12, 30, 6, 0], [0, 49, 20, 2]]), twice)
    assert np.isfinite(live.painted(image, [[20, 25, 200, 2]])).all(), "larger than the image"
    np.testing.assert_array_equal(image, before, err_msg="the image itself stays")


def test_the_image_is_read_again_only_when_it_was_painted(generating, monkeypatch):
    model, image = generating
    panel, readings = LivePanel(model, image), []
    monkeypatch.setattr(live, "Denoiser", lambda *given: readings.append(given) or Denoiser(*given))
    first = panel.distance
    panel.seed.value, panel.blend.value, panel.strength.value = 3, 0.5, 1.2
    np.testing.assert_array_equal(
        panel.distance, live.live_members(Denoiser(model, image), model, 3, blend=0.5, strength=1.2)
    )
    panel.threshold.value, panel.shown.value = 1.0, "masks"
    assert not readings and panel.canvas.answer["number"] == 4, "drawn at first, and for each of three changes"
    panel.seed.value, panel.blend.value, panel.strength.value = 0, 0.0, 1.0
    np.testing.assert_array_equal(panel.distance, first)
    panel.canvas.spots = [[30, 40, 8, 0]]
    assert len(readings) == 1 and not np.array_equal(panel.distance, first)
    panel.canvas.spots = []
    np.testing.assert_array_equal(panel.distance, first, err_msg="taken back")


@pytest.mark.parametrize("reach", [0.5, 3.0, 10.0, 12.0, 40.0])
def test_each_threshold_of_the_slider_gives_the_exact_mask(reach):
    steps, limit = live._steps(reach), min(reach, 31.0)
    thresholds = np.arange(-limit // 0.25, limit // 0.25 + 1) * 0.25
    field = np.random.default_rng(0).uniform(-reach, reach, (40, 50)).astype(np.float32)
    field[0, : len(thresholds)] = thresholds[:50]
    field[1, : len(thresholds)] = np.nextafter(thresholds[:50].astype(np.float32), np.float32(99))
    for edge in thresholds:
        np.testing.assert_array_equal(live._counted(field, steps) <= 128 + edge * steps, field <= edge)


def test_what_is_sent_is_what_was_drawn(generating):
    model, image = generating
    panel = LivePanel(model, image, seed=5)
    sent = np.frombuffer(panel.canvas.frames, np.uint8).reshape(9, 72, 90)
    edge = model.threshold("half_pixel")
    assert panel.threshold.value == edge
    limit = 128 + edge * panel.canvas.settings["steps"]
    np.testing.assert_array_equal(sent[:8] <= limit, panel.distance <= edge)
    np.testing.assert_array_equal(sent[8] <= limit, panel.distance.mean(axis=0, dtype=float) <= edge)
    photo = np.frombuffer(panel.canvas.photo, np.uint8).reshape(72, 90, 3)
    np.testing.assert_array_equal(photo, np.moveaxis(image * 255, 0, -1).round())


def test_a_model_without_a_generator_is_refused(generating):
    plain = Model(random_network(3), about={"name": "plain"})
    with pytest.raises(ValueError, match="'plain' has no one-call generator") as refused:
        live.LiveImage(plain, generating[1])
    panel = LivePanel(plain, generating[1])
    assert panel.message == str(refused.value) and panel.message.endswith(".") and not panel.controls


# ---- maps of uncertainty


def test_shown_maps(material):
    dataset = material[3]
    maps = ensembles._shown_maps(dataset)
    assert [unit for _, unit in maps.values()] == ["1", "1", "px", "px"]
    assert all(field.shape == (64, 64) and field.dtype == np.float32 for field, _ in maps.values())
    ratio, of_mask, of_distance, edge = (field for field, _ in maps.values())
    away = np.abs(dataset["mean"].values - dataset.attrs["threshold_px"])
    std = dataset["std"].values
    np.testing.assert_allclose(ratio * (std + away), std, atol=1e-5)
    member = dataset["distance"].values
    np.testing.assert_allclose(of_mask, (member <= dataset.attrs["threshold_px"]).std(0), atol=1e-6)
    np.testing.assert_array_equal(of_distance, std)
    mask = dataset["mean"].values <= dataset.attrs["threshold_px"]
    rim = mask & ~ndimage.binary_erosion(mask, border_value=1)
    assert edge.max() == -0.5 and (edge[rim] == -0.5).all() and edge.min() < -3, "nearer is larger"
    nothing = {"mean": dataset["mean"] * 0 + 9.0, "std": dataset["std"] * 0, "probability": dataset["probability"] * 0}
    for other in (dataset.assign(nothing), dataset.assign(std=dataset["std"] * 0)):
        assert all(np.isfinite(field).all() for field, _ in ensembles._shown_maps(other).values()), (
            "no object, no spread"
        )


def test_the_pixel_shown_first_is_the_most_uncertain_inside_the_border(material):
    dataset = material[3]
    inside = (dataset["distance"].values <= dataset.attrs["threshold_px"]).mean(axis=0)
    row, column = EnsemblePanel(dataset).pixel
    assert 4 <= row < 60 and 4 <= column < 60
    assert abs(inside[row, column] - 0.5) == np.abs(inside[4:60, 4:60] - 0.5).min()
    for thin in (dataset.isel(row=[7]), dataset.isel(row=[7], column=[9])):
        panel = ErrorPanel(thin)
        assert panel.message == "" and panel.pixel[0] == 0


@pytest.mark.parametrize("name", ["image", "distance", "mean", "std"])
def test_each_missing_variable_is_named(material, name):
    with pytest.raises(ValueError, match=f"no {name}:"):
        ensembles._check_ensemble(material[3].drop_vars(name))


# ---- what is sent to the browser


@given(st.integers(0, 1000), st.floats(-1, 1), st.floats(0.01, 5))
def test_the_mask_survives_the_colour_numbers(seed, threshold, end):
    field = np.random.default_rng(seed).normal(size=(9, 11)).astype(np.float32)
    field[0, 0] = np.float32(threshold)
    np.testing.assert_array_equal(codes(field, threshold, end) < 128, field <= np.float32(threshold))


def test_packing_keeps_numbers_and_refuses_others():
    array = np.arange(24.0).reshape(2, 3, 4)[:, ::-1]
    one = packed(a=array)["a"]
    np.testing.assert_array_equal(
        np.frombuffer(one["bytes"], one["dtype"]).reshape(one["shape"]), array.astype(np.float32)
    )
    assert packed(a=array > 3)["a"]["dtype"] == "uint8"
    with pytest.raises(TypeError, match="int64"):
        packed(a=np.arange(3))


@pytest.mark.parametrize("quantity", drawing.QUANTITIES, ids=lambda quantity: quantity.label)
def test_colour_tables_are_those_of_the_figures(quantity):
    table, drawn = colours(quantity), drawing.colour_map(quantity)
    if quantity.scale == "code" and len(quantity.categories) > 2:
        wanted = [drawn(k)[:3] for k in range(len(quantity.categories))]
        np.testing.assert_allclose(table[: len(wanted)], np.array(wanted) * 255, atol=0.5)
    else:
        np.testing.assert_allclose(table[[0, 255]], np.array([drawn(0.0)[:3], drawn(1.0)[:3]]) * 255, atol=0.5)


def stored(text: str, name: str) -> bytes:
    return gzip.decompress(base64.b64decode(re.search(f'id="{name}">([^<]*)<', text)[1]))


def test_a_page_carries_the_numbers_and_the_present_state():
    frames = np.random.default_rng(0).normal(size=(3, 8, 9))
    panel = StackPanel(frames, end=2.0)
    panel.frame.value = 2
    text = pages._page(panel, 'A <b>"title"</b>')
    assert (
        "<title>A &lt;b&gt;" in text and "http" not in text.replace("http-equiv", "").split('<script type="module">')[0]
    )
    state = json.loads(
        re.search(r'page\(document.getElementById\("panel"\), (\{.*\}),\n\[', text)[1].replace("<\\/", "</")
    )
    assert state["frame"] == 2 and state["scene"] == "stack"
    panel.playing.value = True
    assert '"playing": false' in pages._page(panel), "a page opens at rest"
    numbers = np.frombuffer(stored(text, state["data"]["frames"]["id"]), np.uint8).reshape(3, 8, 9)
    np.testing.assert_array_equal(numbers, ((frames + 2) * 64).clip(0, 255).astype(np.uint8))


def test_every_control_is_tied_to_a_state_that_redraws(material):
    model, image, truth, dataset = material
    panels = [
        PaintPanel(truth),
        CorruptionPanel(truth, frames=5),
        EnsemblePanel(dataset),
        ErrorPanel(dataset),
        StackPanel(np.zeros((2, 4, 4))),
        ReversePanel(model, image, ("draft",), members=1),
        LivePanel(Model(one_call_network(3)), image),
    ]
    for panel in panels:
        assert panel.controls and panel.message == ""
        for name, control in panel.controls.items():
            assert getattr(panel, name) is control
            assert name in panel.canvas.watched
            assert getattr(panel.canvas, name) == getattr(control, pages._linked(control)), (
                f"{name} starts as its control says"
            )
