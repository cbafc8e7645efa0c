"The other methods: what each network computes, equal training for all, one form of answer, and the table."

import json
import math
import shutil
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file
from shell import refused, typist
from torch import nn
from torch.nn import functional as F

from sdfdiff.comparisons import fitting, judging, networks, table
from sdfdiff.comparisons.answers import APPROACHES, Approach, as_ensemble, ask, load_approach
from sdfdiff.comparisons.attention import AxialAttention, AxialUNet, MedT
from sdfdiff.comparisons.fitting import fit_network, load_network, save_network, setting_for
from sdfdiff.comparisons.masks import MaskDiffusion, draw_masks, noise_loss
from sdfdiff.comparisons.networks import SegNet, Segmenter, drop_out, probabilities
from sdfdiff.comparisons.table import by_approach, finish_table, gaps, join_rows, read_table, run_table, table_text
from sdfdiff.diffusion.fitting import SETTINGS
from sdfdiff.diffusion.losses import Recipe
from sdfdiff.diffusion.training import train
from sdfdiff.diffusion.model import load_model
from sdfdiff.distance import signed_distance
from sdfdiff.files import write_png
from sdfdiff.images.cases import Prepared, find_cases, prepare_case
from sdfdiff.images.preparation import TISSUE
from sdfdiff.images.training_data import TrainingData
from sdfdiff.study.plan import case_seed
from sdfdiff.study.verification import _augrc_of_images, _failures, _measures
from sdfdiff.uncertainty.errors import augrc
from sdfdiff.uncertainty.metrics import scores


def randomly(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---- networks


def test_segnet_puts_values_back_where_they_were():
    "With convolutions that do nothing, a lonely bright pixel comes out at its own place, and nowhere else."
    network = SegNet(16, base=16)
    for group in [*network.down, *network.up]:
        for layer in group:
            if isinstance(layer, nn.Conv2d):
                nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)
                for channel in range(min(layer.weight.shape[:2])):
                    layer.weight.data[channel, channel, 1, 1] = 1.0
    nn.init.zeros_(network.leave.weight), nn.init.zeros_(network.leave.bias)
    network.leave.weight.data[0, 0, 1, 1] = 1.0
    image = torch.zeros(1, 16, 64, 64)
    image[0, 0, 13, 38] = 5.0
    found = network.eval()(image)[0, 0]
    assert found.argmax() == 13 * 64 + 38 and 4.5 < found.max() <= 5 and (found > 0).sum() == 1


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_same_seed_same_network(name):
    if "unet" in name:
        pytest.importorskip("monai")
    one, two, other = (Segmenter(name, 1, seed=k).eval() for k in (3, 3, 4))
    side = networks.ONE_SIZE.get(name, 128)
    with torch.no_grad():
        a, b, c = (each(torch.full((1, 1, side, side), 0.3)) for each in (one, two, other))
    assert torch.equal(a, b) and not torch.equal(a, c) and a.dtype == torch.float32


def test_a_library_that_is_missing_is_named_before_anything_is_trained(monkeypatch, tmp_path):
    monkeypatch.setattr(networks, "find_spec", lambda name: None)
    networks.check_installed(["segnet", "axial", "mask_diffusion", "sdf"])
    with pytest.raises(ValueError, match=r"network res_unet is MONAI's, which is not installed: pip install 'sdfdiff"):
        networks.check_installed(["segnet", "res_unet"])
    with pytest.raises(ValueError, match="is MONAI's"):
        Segmenter("unet")
    with pytest.raises(ValueError, match="unet_plus_plus is MONAI's"):
        table._check_training(["segnet-0", "unet_plus_plus-0"], tmp_path, 5.0, "folder", tmp_path)


def test_unknown_network():
    with pytest.raises(ValueError, match="No network 'fcn': choose one of segnet, unet"):
        Segmenter("fcn")


def test_attention_without_positions_does_not_know_the_order():
    "Whatever the order along the axis, each place gets the same answer; with positions it does not."
    x, order = randomly(2, 16, 8, 3), torch.randperm(8, generator=torch.Generator().manual_seed(1))
    for positions in (False, True):
        attention = AxialAttention(16, 8, positions=positions).eval()
        with torch.no_grad():
            same = torch.allclose(attention(x)[:, :, order], attention(x[:, :, order]), atol=1e-6)
        assert same != positions


def test_attention_along_rows_is_that_along_columns_turned():
    down = AxialAttention(16, 8, gated=True).eval()
    across = AxialAttention(16, 8, across=True, gated=True).eval()
    across.load_state_dict(down.state_dict())
    x = randomly(2, 16, 8, 8)
    with torch.no_grad():
        assert torch.allclose(across(x), down(x.transpose(2, 3)).transpose(2, 3), atol=1e-6)


def test_gates_that_are_open_change_nothing():
    plain, gated = AxialAttention(16, 8).eval(), AxialAttention(16, 8, gated=True).eval()
    gated.load_state_dict(plain.state_dict() | {"gates": torch.ones(4)})
    x = randomly(1, 16, 8, 5)
    with torch.no_grad():
        assert torch.equal(plain(x), gated(x))


def test_attention_reads_its_line_and_no_other():
    attention, x = AxialAttention(16, 8).eval(), randomly(1, 16, 8, 6).requires_grad_()
    attention(x)[0, :, 2, 4].square().sum().backward()
    read = x.grad.abs().sum((0, 1)) > 0
    assert read[:, 4].all() and not read[:, [0, 1, 2, 3, 5]].any()


@pytest.mark.parametrize("make", [AxialUNet, MedT])
def test_positions_belong_to_one_size(make):
    with pytest.raises(ValueError, match="The image has 64 x 128 pixels: this network was made for 128 x 128"):
        make(3)(torch.zeros(1, 3, 64, 128))


class _Pixelwise(nn.Module):
    "Log odds that depend on the pixel alone."

    def __init__(self, channels):
        super().__init__()
        self.layer = nn.Conv2d(channels, 1, 1)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    "name, shape",
    [("axial", (130, 300)), ("axial", (20, 128)), ("segnet", (300, 70)), ("medt_published", (260, 500))],
)
def test_tiles_cover_the_image_without_a_seam(monkeypatch, name, shape):
    "A network that looks at single pixels gives in tiles what it gives at once."
    monkeypatch.setitem(networks.NETWORKS, name, _Pixelwise)
    network, image = Segmenter(name, 2).eval(), randomly(2, *shape).numpy()
    with torch.no_grad():
        at_once, seen = network(torch.from_numpy(image)[None]).sigmoid()[0, 0].numpy(), []
    network.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[-2:]))
    assert np.allclose(probabilities(network, image), at_once, atol=1e-6)
    assert name not in networks.ONE_SIZE or {*seen} == {(networks.ONE_SIZE[name],) * 2}


def test_image_of_other_channels():
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\): 3 finite channels"):
        probabilities(Segmenter("segnet"), np.zeros((1, 8, 8)))
    with pytest.raises(ValueError, match=r"shape \(1, 8, 8\): 3 channels"):
        draw_masks(MaskDiffusion(3), np.zeros((1, 8, 8)))


def test_dropout_stays_on_where_there_is_some():
    with pytest.raises(ValueError, match="segnet has no dropout"):
        drop_out(Segmenter("segnet"))
    pytest.importorskip("monai")
    network = drop_out(Segmenter("unet_dropout"))
    layers = {type(one).__name__: one.training for one in network.modules()}
    assert layers["Dropout"] and not layers["Conv2d"]


# ---- diffusion of masks


def test_members_do_not_depend_on_their_batch():
    network, image = MaskDiffusion(3, width=8, multipliers=(1, 1)), randomly(3, 20, 24).numpy()
    nn.init.normal_(network.leave.weight, std=0.2, generator=torch.Generator().manual_seed(0))
    many, few = (draw_masks(network, image, members, seed=4, calls=3) for members in (4, 2))
    assert many.shape == (4, 20, 24) and np.array_equal(many[:2], few)
    assert not np.array_equal(many, draw_masks(network, image, 4, seed=5, calls=3))


def test_noise_that_is_known_costs_nothing():
    "A network that knows the mask finds the noise, and draws the mask."
    truth = torch.where(randomly(1, 1, 16, 16) < 0.4, -1.0, 1.0)

    class Knows(MaskDiffusion):
        def noise(self, noisy, noise_level, image):
            return (noisy - truth) / noise_level.view(-1, 1, 1, 1)

    network = Knows(3, width=8, multipliers=(1, 1))
    distances = torch.where(truth < 0, 0.5, 1.0)  # half a pixel outside is object
    assert noise_loss(network, randomly(1, 3, 16, 16), distances, torch.Generator().manual_seed(0)) < 1e-6
    assert (draw_masks(network, randomly(3, 16, 16).numpy(), 2, calls=5) == (truth[0] < 0).numpy()).all()


# ---- training


def discs(count=6, side=40):
    "Bright discs on a dark ground."
    row, column = np.mgrid[:side, :side]
    masks = [np.hypot(row - 12 - 2 * k, column - 20 + k) < 8 for k in range(count)]
    return [np.stack([0.2 + 0.6 * mask] * 3).astype(np.float32) for mask in masks], masks


def objective(network, images, distances, generator):
    return F.binary_cross_entropy_with_logits(network(images), (distances <= 0.5).float())


def test_the_average_counts_what_batch_normalisation_counts():
    data = TrainingData.of(*discs(), crop=32)
    network = Segmenter("segnet")
    *_, last = train(network, data, Recipe(steps=12, batch=2), objective=objective)
    own, kept = (dict(one.named_buffers())["body.down.0.1.running_mean"] for one in (network, last.average))
    assert own.abs().max() > 0.01 and torch.allclose(own, kept, rtol=0.5, atol=0.02) and not torch.equal(own, kept)


def test_training_of_another_network_continues_to_the_bit(tmp_path):
    data, recipe, file = TrainingData.of(*discs(), crop=32), Recipe(steps=8, batch=2), tmp_path / "c.safetensors"
    *_, whole = train(Segmenter("segnet"), data, recipe, objective=objective)
    for step in train(Segmenter("segnet"), data, recipe, objective=objective, checkpoint=file):
        if step.number == 3:
            break
    *_, resumed = train(Segmenter("segnet"), data, recipe, objective=objective, checkpoint=file)
    pairs = zip(whole.average.state_dict().values(), resumed.average.state_dict().values())
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("discs")
    for k, (image, mask) in enumerate(zip(*discs(20))):
        noise = np.random.default_rng(k).normal(0, 0.05, image.shape)
        write_png(root / "images" / f"{k}.png", np.moveaxis((image + noise).clip(0, 1), 0, -1))
        write_png(root / "masks" / f"{k}.png", mask)
    return root


def shrink(monkeypatch):
    "Networks and a setting that learn in a second."
    for name in ("unet", "res_unet", "segnet"):
        monkeypatch.setitem(networks.NETWORKS, name, _Pixelwise)
    narrow = replace(SETTINGS["folder"].architecture, width=8, multipliers=(1, 1), one_call=(1,), encoder_blocks=1)
    recipe = replace(SETTINGS["folder"].recipe, batch=2)
    monkeypatch.setitem(SETTINGS, "folder", replace(SETTINGS["folder"], architecture=narrow, crop=32, recipe=recipe))
    monkeypatch.setattr(fitting, "_seconds", lambda *_: 1.0)
    fitting._data.cache_clear()


@pytest.fixture
def small(monkeypatch):
    shrink(monkeypatch)
    yield
    fitting._data.cache_clear()


def test_learning_rate_is_that_of_the_best_trial(small, monkeypatch, tmp_path):
    "Trials are a tenth of the steps; one whose loss is not finite is out."
    asked = []

    def begin(name, setting, data, views, recipe, seed, **how):
        asked.append((recipe.learning_rate, recipe.steps))
        if recipe.learning_rate == 3e-3:
            raise ValueError("The loss is nan")
        step = type("S", (), {"history": ({"validation_loss": 1 - recipe.learning_rate},)})
        return iter([step])

    monkeypatch.setattr(fitting, "_begin", begin)
    plan = fitting._plan("unet", setting_for("unet", "folder"), "folder", None, None, 5.0, tmp_path / "unet.json")
    assert asked == [(rate, 30) for rate in fitting.RATES] and plan["steps"] == 300 and plan["rate"] == 1e-3
    assert plan["trials"] == {"0.0003": 0.9997, "0.001": 0.999, "0.003": None}
    assert json.loads((tmp_path / "unet.json").read_text()) == plan
    again = fitting._plan("unet", setting_for("unet", "folder"), "folder", None, None, 5.0, tmp_path / "unet.json")
    assert again == plan and len(asked) == 3
    with pytest.raises(ValueError, match="planned for something else"):
        fitting._plan("unet", setting_for("unet", "folder"), "glas", None, None, 5.0, tmp_path / "unet.json")


def test_both_stages_of_a_training_are_timed(monkeypatch):
    "The encoder's steps cost 1, the others 4: the mean is that of the shares in the whole training."
    clock = [0.0]
    monkeypatch.setattr(fitting.time, "process_time", lambda: clock[0])

    def begin(name, setting, data, views, recipe, seed, **how):
        for step in range(recipe.steps):
            clock[0] += 1 if step < recipe.encoder_steps else 4
            clock[0] += 100 * (step == recipe.steps - 1)  # a reading
            yield step

    monkeypatch.setattr(fitting, "_begin", begin)
    found = fitting._seconds("sdf", setting_for("sdf", "monuseg"), None, None)
    assert math.isclose(found, (1 * 7500 + 4 * 2300) / 9800, rel_tol=1e-3)


@contextmanager
def killed_after(steps):
    "Ctrl-C after so many steps of a training; trials of learning rates end."
    begin = fitting._begin

    def killed(*arguments, **how):
        for step in begin(*arguments, **how):
            yield step
            if how and step.number == steps:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(fitting, "_begin", killed)
        yield


@pytest.mark.parametrize("name", ["segnet", "sdf", "mask_diffusion"])
def test_killed_and_continued_it_gives_the_same_weights(small, tmp_path, folder, name):
    whole = load_network(fit_network(name, "folder", folder, tmp_path / "whole", 1.0))[0]
    with killed_after(11), pytest.raises(KeyboardInterrupt):
        fit_network(name, "folder", folder, tmp_path / "cut", 1.0)
    assert (tmp_path / "cut" / f"{name}-0.checkpoint.safetensors").exists()
    path = fit_network(name, "folder", folder, tmp_path / "cut", 1.0)
    resumed, _, about = load_network(path)
    one, two = (getattr(each, "network", each).state_dict() for each in (whole, resumed))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert about["steps"] == 60 and about["budget"] == 1.0 and len(about["held_out"]) == 4
    assert not (tmp_path / "cut" / f"{name}-0.checkpoint.safetensors").exists()


def test_a_training_is_not_continued_with_other_images(small, tmp_path, folder):
    shutil.copytree(folder, tmp_path / "data")
    with killed_after(3), pytest.raises(KeyboardInterrupt):
        fit_network("segnet", "folder", tmp_path / "data", tmp_path / "w", 0.4)
    fitting._data.cache_clear()
    write_png(tmp_path / "data" / "masks" / "3.png", np.eye(40) > 0, force=True)
    with pytest.raises(ValueError, match="was begun with other files or settings.*mask of 3"):
        fit_network("segnet", "folder", tmp_path / "data", tmp_path / "w", 0.4)


def test_a_setting_is_the_same_for_all_but_what_is_learned():
    one, two = setting_for("unet", "glas"), setting_for("sdf_binary", "glas")
    for name in ("preparation", "augmentation", "crop", "instances"):
        assert getattr(one, name) == getattr(two, name)
    assert two.recipe.truncation == 0.5 and setting_for("sdf_raw_score", "glas").architecture.parametrisation == "score"
    with pytest.raises(ValueError, match="No network 'fcn'"):
        setting_for("fcn", "glas")
    known = [setting_for(name, "monuseg") for name in ("medt", "medt_published")]
    batches = [fitting._recipe(one, name, 9, 1e-3, 0).batch for one, name in zip(known, ("medt", "medt_published"))]
    assert [one.crop for one in known] == [128, 256] and batches[0] == 4 * batches[1]  # as many pixels


# ---- files


@pytest.mark.parametrize("network", [Segmenter("segnet", 1), MaskDiffusion(1)], ids=["segnet", "mask_diffusion"])
def test_a_file_holds_all_that_is_needed(tmp_path, network):
    path = tmp_path / "n.safetensors"
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.fill_(1e5)  # float16 has no such number
    save_network(path, network, TISSUE, {"minutes": 2.0})
    found, preparation, about = load_network(path)
    assert preparation == TISSUE and about == {"minutes": 2.0} and type(found) is type(network)
    for name, value in network.state_dict().items():
        kept = found.state_dict()[name]
        assert torch.equal(kept, value.half().to(value.dtype) if value.abs().max() < 6e4 else value)
    with pytest.raises(FileExistsError):
        save_network(path, network, TISSUE, {})


def test_any_other_file_is_refused(tmp_path):
    for name, make in {
        "cut.safetensors": lambda path: path.write_bytes(b"\x10" * 40),
        "foreign.safetensors": lambda path: save_file({"a": torch.zeros(2)}, path),
    }.items():
        make(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} holds no network of a comparison"):
            load_network(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="train it, or name the folder"):
        load_network(tmp_path / "none.safetensors")


# ---- answers


def flat(p, channels=3):
    "A network that says P everywhere."
    network = Segmenter("segnet", channels)
    network.body = nn.Conv2d(channels, 1, 1)
    nn.init.zeros_(network.body.weight)
    nn.init.constant_(network.body.bias, math.log(p / (1 - p)))
    return network.eval()


def test_five_networks_are_asked_together():
    image = randomly(3, 40, 40).numpy()
    found = ask(APPROACHES["deep ensemble"], [flat(p) for p in (0.1, 0.6, 0.7, 0.8, 0.9)], image, SETTINGS["glas"])
    assert np.allclose(found["probability"], 0.62, atol=1e-6) and np.allclose(found["share"], 0.8)
    assert found.sizes["member"] == 5 and found.attrs["boundary"] == "inner" and found.attrs["threshold_px"] == 0.5


def test_one_network_has_one_mask():
    found = ask(Approach("x", "segnet"), [flat(0.4)], randomly(3, 40, 40).numpy(), SETTINGS["monuseg"])
    assert found.sizes["member"] == 1 and (found["std"] == 0).all() and (found["distance"] == 1).all()  # cut at 1 px
    assert np.allclose(found["probability"], 0.4)


def test_what_is_no_tissue_holds_no_object():
    unseen = np.zeros((40, 40), bool)
    unseen[:10] = True
    found = ask(Approach("x", "segnet"), [flat(0.9)], randomly(3, 40, 40).numpy(), SETTINGS["glas"], unseen=unseen)
    assert (found["probability"][:10] == 0).all() and (found["probability"][10:] > 0.89).all()
    assert (found["distance"][0][:9] > 0.5).all() and (found["distance"][0][10:] <= 0.5).all()


def test_moments_are_those_of_the_members():
    distances = np.random.default_rng(0).normal(0, 3, (7, 8, 9))
    about = {"reach_px": 2.0, "threshold_px": 0.5}
    found = as_ensemble(np.zeros((1, 8, 9)), distances, np.full((8, 9), 0.3), about)
    cut = distances.clip(-2, 2)
    assert np.allclose(found["mean"], cut.mean(0), atol=1e-6)
    assert np.allclose(found["std"], cut.std(0, ddof=1), atol=1e-6)
    assert np.allclose(found["share"], (distances <= 0.5).mean(0))


def test_no_two_seeds_share_a_network():
    ensemble = APPROACHES["deep ensemble"]
    files = [name for seed in range(3) for name in ensemble.files(seed)]
    assert files == [f"unet-{k}" for k in range(15)] and APPROACHES["U-Net"].files(2) == ["unet-2"]


# ---- the table

ROWS = ("Res-UNet", "SegNet", "SDF regression", "SDF, one call", "U-Net")


@pytest.fixture(scope="module")
def made(folder, tmp_path_factory):
    "A small table, with its arguments."
    how = ("folder", folder, tmp_path_factory.mktemp("table") / "t.nc", 0.4)
    with pytest.MonkeyPatch.context() as monkeypatch:
        shrink(monkeypatch)
        return finish_table(run_table(*how, rows=ROWS, seeds=2), progress=False), how


def test_a_table_that_was_stopped_goes_on(small, made, monkeypatch):
    whole, (*first, _) = made
    out = first[2].with_name("again.nc")
    how = {"rows": ROWS, "seeds": 2, "weights": first[2].with_name("t_weights")}
    steps = run_table(*first[:2], out, **how)
    for step in steps:
        if step.done == 3:
            break
    steps.close()
    assert read_table(out).sizes["method"] == 3
    asked, judge = [], table.judge
    monkeypatch.setattr(table, "judge", lambda one, seed, *rest: asked.append(one.label) or judge(one, seed, *rest))
    again = finish_table(run_table(*first[:2], out, **how, resume=True), progress=False)
    assert len(asked) == whole.sizes["method"] - 3 == 4
    same = [name for name in whole.data_vars if not whole[name].isnull().all()]
    for name in same:
        assert np.array_equal(whole[name], again[name], equal_nan=True), name
    for words, error in (({}, FileExistsError), ({"resume": True, "split": "test"}, (ValueError, FileNotFoundError))):
        with pytest.raises(error):
            finish_table(run_table(*first[:2], out, **how | words), progress=False)


def test_numbers_of_the_table(made):
    "Counts, F1, edges and seeds, each found again in another way."
    whole, _ = made
    assert whole["method"].values.tolist() == [f"{row}, seed 0" for row in ROWS] + [
        "SDF, one call, seed 1",
        "U-Net, seed 1",
    ]
    numbers = by_approach(whole)
    assert numbers["approach"].values.tolist() == list(ROWS)
    both = whole["f1"].sel(estimator="majority").isel(method=[4, 6])
    assert np.isclose(numbers.sel(approach="U-Net", quantity="f1_majority", bound="estimate"), both.mean())
    there, back = (gaps(whole, one).sel(approach=other) for one, other in (ROWS[:2], ROWS[1::-1]))
    a, b = there.sel(quantity="f1_mmse").values, back.sel(quantity="f1_mmse").values
    assert np.allclose(a, -b[[0, 2, 1]], atol=1e-9)
    single = whole.isel(method=0)
    assert (single["drawn"] == 1).all() and int(single["members"]) == 1 and (single["variance"].sum() == 0)
    assert single["crps"].notnull().all() and (single["parameters"] == 4)  # three weights and a bias
    hit, false, missed = np.moveaxis(single["counts"].sel(mask="majority", threshold="half_pixel").values, -1, 0)
    assert np.allclose(single["f1"].sel(estimator="majority"), 2 * hit / (2 * hit + false + missed))
    with pytest.raises(ValueError, match="no row 'FCN'; it has 'Res-UNet'"):
        gaps(whole, "FCN")


@pytest.mark.parametrize("row", ["Res-UNet", "SDF, one call"])
def test_masks_are_counted_under_every_convention(small, made, row):
    "The row is asked again, and pixels are counted by sets; a threshold of three sigma_min, or of half a pixel."
    whole, (_, root, out, _) = made
    weights, setting, found = out.with_name("t_weights"), setting_for("sdf", "folder"), []
    loaded = load_approach(APPROACHES[row], weights)
    for paths in find_cases("folder", root, "validation"):
        case = prepare_case(paths, load_network(weights / "segnet-0.safetensors")[1])
        drawn = ask(APPROACHES[row], loaded, case.image, setting, case_seed(0, case.name))
        edge = 3 * 1e-3 / drawn.attrs["data_scale"] * drawn.attrs["truncation_px"]
        share = (drawn["distance"].values <= edge).mean(0)
        for mask in (share >= 0.5, drawn["probability"].values >= 0.5):
            ours, true = ({*np.flatnonzero(one)} for one in (mask, case.truth))
            found.append([len(ours & true), len(ours | true), len(ours), len(true)])
    hit, either, own, true = np.array(found).reshape(4, 2, 4).transpose(2, 1, 0)
    numbers = by_approach(whole.sel({"method": [f"{row}, seed 0"]})).sel(approach=row, bound="estimate")
    for k, level in enumerate(("paper", "half_pixel")):
        each = {"f1": 2 * hit[k] / (own[k] + true[k]), "iou": hit[k] / either[k]}
        pooled = {"f1": 2 * hit[k].sum() / (own[k] + true[k]).sum(), "iou": hit[k].sum() / either[k].sum()}
        for name in each:
            expected = [each[name].mean(), np.where(hit[k], each[name], 1).mean(), pooled[name]]
            asked = [f"{name}_majority_{level}_{rule}" for rule in ("zero", "one", "pooled")]
            assert np.allclose(numbers.sel(quantity=asked), expected)


def test_a_total_miss_scores_nothing_or_everything(made):
    lone = made[0].isel(method=[0, 1]).copy(deep=True)
    lone["counts"][:] = [[30, 10, 20]]
    lone["counts"][0, 0] = [0, 10, 20]
    one, other = by_approach(lone).sel(bound="estimate").transpose("approach", "quantity")
    f1, iou = 60 / 90, 30 / 60
    for mask in ("mmse", "majority"):
        asked = [f"{score}_{mask}_paper_{rule}" for score in ("f1", "iou") for rule in ("zero", "one", "pooled")]
        expected = [0.75 * f1, 0.25 + 0.75 * f1, 180 / 300, 0.75 * iou, 0.25 + 0.75 * iou, 90 / 210]
        assert np.allclose(one.sel(quantity=asked), expected)
        assert np.allclose(other.sel(quantity=asked), [f1, f1, f1, iou, iou, iou])


def test_seeds_that_differ_by_a_constant_make_intervals_wider(made):
    "The same images and patients: a second seed is better by 0.1; in a difference of rows that share it, it cancels."
    both = made[0].isel(method=[1, 1, 3, 3]).copy(deep=True)
    both["f1"] = 0.4 + both["f1"] * 0.1 + xr.DataArray([0, 0.1, 0, 0.1], dims="method")
    names, seeds = ["SegNet", "SegNet", "U-Net", "U-Net"], [0, 1, 0, 1]
    both = both.assign_coords(approach=("method", names), seed=("method", seeds), method=list("abcd"))
    alone = both.isel(method=[0, 2])
    quantity = {"quantity": "f1_majority", "approach": "SegNet"}
    numbers = [by_approach(one) for one in (both, alone)]
    assert [one["seeds"].values.tolist() for one in numbers] == [[2, 2], [1, 1]]
    wide, narrow = (one.sel(quantity).values for one in numbers)
    assert np.isclose(wide[0], narrow[0] + 0.05)
    assert wide[1] < narrow[1] and narrow[2] < wide[2] and np.ptp(wide) > 0.1 + np.ptp(narrow)
    assert np.allclose(*(gaps(one, "U-Net").sel(quantity).values for one in (both, alone)), atol=1e-6)
    assert "over patients only" in table_text(alone) and "over the seeds of a row" in table_text(both)


def test_members_are_compared_in_pairs():
    masks = np.random.default_rng(0).random((5, 9, 8)) < np.array([0.2, 0.5, 0.5, 0, 0])[:, None, None]
    pairs = [scores(masks[i], masks[j])["f1"] for i in range(5) for j in range(i)]
    assert math.isclose(judging._disagreement(masks), 1 - np.mean(pairs), abs_tol=1e-6)


def test_failures_of_whole_images(made):
    "The area under the curve, image by image, also where some images count several times, or not at all."
    v = made[0].isel(method=3).copy(deep=True)
    v["disagreement"][:] = [0.3, 0.1, 0.3, 0.2]
    times = np.array([2, 0, 3, 1])
    u, loss = (
        np.repeat(one, times) for one in (v["disagreement"].values, 1 - v["f1"].sel(estimator="majority").values)
    )
    sums = _failures(v, "disagreement").to_dataarray("what")
    sums = xr.dot(xr.DataArray(times, dims="case"), sums, dim="case").to_dataset("what")
    assert np.isclose(_augrc_of_images(sums), augrc(u[:, None], loss[:, None]))


def test_failures_by_pairs_are_those_of_the_seeds_that_are_known(made):
    "A row without them has none, and a row with one seed of two has that seed's; nothing else changes."
    whole = made[0].isel(method=[0, 3, 5, 6])  # the last: U-Net, seed 1
    old = whole.copy(deep=True)
    old["disagreement"][:, [0, 2]] = np.nan  # judged before it was kept: Res-UNet, and SDF, one call, seed 1
    asked, others = {"quantity": "augrc_of_pairs", "approach": "SDF, one call"}, {"approach": ["Res-UNet"]}
    numbers, known = by_approach(old), by_approach(whole.isel(method=[1, 3]))
    assert np.isnan(numbers.sel(asked | others)).all() and " - " in table_text(old.isel(method=[0, 1]))
    assert np.array_equal(numbers.sel(asked), known.sel(asked)) and not np.isnan(known.sel(asked)).any()
    same = [name for name in numbers["quantity"].values if name != "augrc_of_pairs"]
    several = by_approach(whole.isel(method=[1, 2])).sel(quantity=same, approach=["SDF, one call"])
    assert np.array_equal(numbers.sel(quantity=same, approach=["SDF, one call"]), several, equal_nan=True)
    both = made[0].isel(method=[3, 5, 4, 6]).copy(deep=True)  # of SDF, one call, and U-Net
    both["disagreement"][:, 1] = np.nan
    found, one = (gaps(pair).sel(asked | {"approach": "U-Net"}) for pair in (both, both.isel(method=[0, 2])))
    assert np.array_equal(found, one) and not np.isnan(found).any()


def test_tables_are_joined(made):
    "What a row has stays; what it lacks comes from the same row of a later table; new rows come behind."
    whole = made[0]
    old, again = whole.isel(method=[0, 3]).drop_vars(["disagreement", "mask_checksum"]), whole.isel(method=[3, 2, 4])
    again = again.assign(crps=again["crps"] + 1)
    found = join_rows(old, again)
    assert found["method"].values.tolist() == [f"{ROWS[k]}, seed 0" for k in (0, 3, 2, 4)]
    assert "disagreement" not in old and "mask_checksum" not in found.coords and found.attrs == whole.attrs
    for name in old.data_vars:
        first = found[name].isel(method=[0, 1])
        assert first.dtype == old[name].dtype and np.array_equal(
            first, old[name].transpose(*first.dims), equal_nan=True
        )
    assert np.array_equal(found["disagreement"][:, 1:], whole["disagreement"].isel(method=[3, 2, 4]))
    assert np.array_equal(found["disagreement"][:, 0], whole["expected_loss"][:, 0])  # of one mask
    assert np.array_equal(found["crps"][:, 2:], again["crps"][:, 1:])
    several = join_rows(old, whole.isel(method=[5]))
    assert np.isnan(several["disagreement"][:, 1]).all() and several["disagreement"][:, 2].notnull().all()
    assert join_rows(whole).identical(whole)
    changed = again.copy(deep=True)
    changed["weights_checksum"] = "method", ["x"] * 3
    other = again.assign_coords(case=again["case"].values[::-1])
    for wrong, words in ((changed, "the weights of SDF, one call, seed 0"), (other, "case"),
                         (again.assign_attrs(split="test"), "split validation, now test")):  # fmt: skip
        with pytest.raises(ValueError, match=f"cannot be joined with one of something else .*{words}"):
            join_rows(old, wrong)


def test_weights_are_judged_on_other_images_without_training(small, made, monkeypatch, tmp_path):
    "Images under other names have the numbers that they had; images that were trained on are refused."
    whole, (_, root, out, _) = made
    monkeypatch.setattr(table, "_trained", lambda names, *_: iter([]) if not names else pytest.fail("trained"))
    how = {"split": "test", "rows": ["Res-UNet"], "weights": out.with_name("t_weights")}
    with pytest.raises(ValueError, match="were trained on .* and 15 more of these images"):
        finish_table(run_table("folder", root, tmp_path / "a.nc", 9.0, **how), progress=False)
    assert not (tmp_path / "a.nc").exists()
    for part in ("images", "masks"):
        (tmp_path / "new" / part).mkdir(parents=True)
        for name in whole["case"].values:
            shutil.copy(root / part / f"{name}.png", tmp_path / "new" / part / f"new{name}.png")
    found = finish_table(run_table("folder", tmp_path / "new", tmp_path / "b.nc", 9.0, **how), progress=False)
    assert found.sizes["case"] == 4 and found.attrs["split"] == "test" and "minutes" not in found.attrs
    assert np.array_equal(found["f1"].isel(method=0), whole["f1"].isel(method=0))


@pytest.mark.parametrize("changed", ["masks/{0}.png", "weights"])
def test_a_table_is_not_continued_with_other_files(small, made, tmp_path, changed):
    whole, (_, root, out, _) = made
    shutil.copytree(root, tmp_path / "d"), shutil.copytree(out.with_name("t_weights"), tmp_path / "t_weights")
    shutil.copy(out, tmp_path / "t.nc")
    file = tmp_path / "d" / changed.format(whole["case"].values[0])
    if changed == "weights":
        shutil.copy(tmp_path / "t_weights" / "unet-1.safetensors", tmp_path / "t_weights" / "unet-0.safetensors")
    else:
        write_png(file, np.eye(40) > 0)
    with pytest.raises(ValueError, match="is a table of something else.*(mask of|weights unet-0)"):
        finish_table(
            run_table("folder", tmp_path / "d", tmp_path / "t.nc", 0.4, rows=ROWS, resume=True), progress=False
        )


def test_seeds_are_paired_where_both_have_them(made):
    whole, _ = made
    found = gaps(whole, "SDF, one call").sel(approach="U-Net", quantity="f1_mmse", bound="estimate")
    f1 = whole["f1"].sel(estimator="mmse")
    assert np.isclose(found, float(f1.isel(method=[4, 6]).mean() - f1.isel(method=[3, 5]).mean()))
    alone = gaps(whole, "SDF, one call").sel(approach="SegNet", quantity="f1_mmse", bound="estimate")
    assert np.isclose(alone, float(f1.isel(method=1).mean() - f1.isel(method=3).mean()))


def test_crps_of_one_mask_is_its_absolute_error():
    "Over all pixels of the image, in the distances of the data set."
    truth = np.zeros((40, 50), bool)
    truth[10:25, 10:30] = True
    case = Prepared(randomly(3, 40, 50).numpy(), truth, truth.shape, name="x", group="x")
    found = judging._judged_case(Approach("x", "segnet"), [flat(0.9)], case, SETTINGS["glas"], 0)
    error = np.abs(-10 - signed_distance(truth, 10.0, "inner"))  # the mask is full: as far inside as can be
    assert np.isclose(_measures(found.isel(method=0))[0]["crps_image"].item(), error.mean(), rtol=1e-5)
    assert np.isclose(found["wrong"].item(), 1 - truth.mean()) and found["variance"].item() == 0


def test_shipped_weights_stand_beside_the_others(tmp_path):
    path = fit_network("shipped", "glas", None, tmp_path, None)
    with pytest.raises(ValueError, match="The budget is None minutes"):
        fit_network("unet", "glas", None, tmp_path, None)
    assert load_network(path)[0].about["checksum"] == load_model("glands").about["checksum"]
    assert judging._history(load_network(path)[2])["minutes"] > 30
    with pytest.raises(ValueError, match="No weights for folder come with this package"):
        fit_network("shipped", "folder", None, tmp_path / "other", 1.0)
    names = [one.label for one, _ in table._pieces(None, 2, "folder")]
    assert "SDF, shipped" not in names and len(names) == len(APPROACHES) - 1 + 4


def test_expected_loss_of_a_certain_mask_is_nothing():
    p = np.zeros((9, 9), np.float32)
    p[2:5, 3:8] = 1
    assert (
        judging._expected_loss(p, p > 0) == 0 and judging._expected_loss(np.zeros((4, 4)), np.zeros((4, 4), bool)) == 0
    )
    mask, draws = p > 0, np.random.default_rng(0).random((4000, 9, 9)) < 0.5
    actual = 1 - scores(np.broadcast_to(mask, draws.shape), draws)["f1"].mean()
    assert abs(judging._expected_loss(np.full((9, 9), 0.5), mask) - actual) < 0.01


def test_weights_that_are_missing(small, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="has no segnet-0.safetensors: train it with a table"):
        finish_table(run_table("folder", folder, tmp_path / "t.nc", rows=["SegNet"]), progress=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="unet-3.safetensors does not exist"):
        fit_network("unet", "folder", folder, tmp_path, 0.1)
        for k in (1, 2):
            (tmp_path / f"unet-{k}.safetensors").write_bytes((tmp_path / "unet-0.safetensors").read_bytes())
        load_approach(APPROACHES["deep ensemble"], tmp_path)


def test_all_that_is_wrong_with_a_folder_is_said_first(small, folder, tmp_path):
    for k in range(4):
        for part in ("images", "masks"):
            there = tmp_path / "data" / part / f"{k}.png"
            there.parent.mkdir(parents=True, exist_ok=True)
            content = (folder / part / f"{k}.png").read_bytes()
            there.write_bytes(content if k < 2 or part == "images" else content[:60])
    with pytest.raises(ValueError) as problem:
        finish_table(run_table("folder", tmp_path / "data", tmp_path / "t.nc", 0.1, rows=["SegNet"]), progress=False)
    assert "2.png" in str(problem.value) and "3.png" in str(problem.value)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("--out t.txt", "t.txt, split validation: a file ending in .nc"),
        ("--out t.nc --rows FCN", "no row 'FCN'; rows are 'SegNet', 'U-Net'"),
        ("--out t.nc --rows SegNet", "t_weights has no segnet-0.safetensors"),
    ],
)
def test_command_refuses(small, folder, tmp_path, monkeypatch, capsys, words, sentence):
    monkeypatch.chdir(tmp_path)
    assert refused(typist(capsys)("table", "folder", "--root", str(folder), *words.split()), sentence)


def test_command_prints_the_table(small, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("--budget", "0.4", "--out", "t.nc", "--rows", "SegNet", "Res-UNet")
    code, out, _ = typist(capsys)("table", "folder", "--root", str(folder), *words)
    assert code == 0 and "folder validation: 4 images of 4 patients" in out and "t.nc: 2 rows, 4 images" in out
    assert {"SegNet", "Res-UNet"} <= {line.split("  ")[0] for line in out.splitlines()}
