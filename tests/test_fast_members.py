"Members in one call each: the same whatever the batch, the tile and the worker; and P(object) with the encoder's part."

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from small_networks import one_call_network, random_network

from sdfdiff.diffusion.model import Model
from sdfdiff.diffusion.one_call import noise_maps
from sdfdiff.diffusion.sampling import member_generators
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.fused import Fused
from sdfdiff.ensembles.members import Denoiser
from sdfdiff.ensembles.method import METHODS, Method

IMAGE = np.random.default_rng(5).random((1, 72, 96), dtype=np.float32)


def model(dtype=torch.float32, encoders=2):
    return Model(one_call_network(encoders=encoders).to(dtype), about={"name": "tiny", "checksum": "123"})


def fast(one, image=IMAGE, members=5, **options):
    return ensemble(one, image, "fast", members=members, progress=False, **options)


@pytest.mark.parametrize("encoders", [1, 2])
@pytest.mark.parametrize("fuse", [False, None])
def test_the_fused_generator_is_the_generator(encoders, fuse):
    network = one_call_network(encoders=encoders)
    features = network.encode(torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(1)))
    noise = noise_maps(3, (32, 48), network.architecture, torch.Generator().manual_seed(2))
    expected, found = network.generate(noise, features), Fused(network, fuse).generate(noise, features)
    assert expected.std() > 0.01 and (found - expected).abs().max() < 1e-5


def test_a_member_is_what_the_generator_makes_of_its_noise():
    one = model()
    found = fast(one, IMAGE[:, :64])["distance"].values
    features = one.network.encode(torch.from_numpy(IMAGE[None, :, :64]))
    noise = noise_maps(5, (64, 96), one.network.architecture, member_generators(0, range(5)))
    expected = one.to_pixels(one.network.generate(noise, features))[:, 0].clamp(-10, 10).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
    assert np.abs(np.diff(found, axis=0)).mean(axis=(1, 2)).min() > 0.01, "two members are the same"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bits_do_not_depend_on_batches_and_workers(dtype):
    one = model(dtype)
    whole = fast(one)
    for options in ({"batch": 1}, {"batch": 2, "workers": 2}, {"batch": 3, "workers": 3}):
        xr.testing.assert_identical(fast(one, **options), whole)
    xr.testing.assert_identical(fast(one, members=3)["distance"], whole["distance"][:3])


def test_tiles_share_one_field_of_noise():
    "A lone member may round differently in float32; a tile sees less of the image, but the noise is the same."
    image = np.random.default_rng(3).random((1, 64, 192), dtype=np.float32)
    one = model(torch.bfloat16)
    whole, tiled, other = fast(one, image), fast(one, image, tile=96, overlap=32), fast(one, image, seed=1)
    error = float(np.abs(whole["distance"] - tiled["distance"]).mean())
    assert 0 < error < 0.2 * float(np.abs(whole["distance"] - other["distance"]).mean())
    xr.testing.assert_identical(fast(one, image, tile=96, overlap=32, batch=1, workers=2), tiled)
    inner = slice(70, 122)  # columns in which two tiles are blended
    np.testing.assert_allclose(tiled["std"][:, inner].mean(), whole["std"][:, inner].mean(), rtol=0.1)


@pytest.mark.parametrize(("first", "keep"), [(3, None), (3, 2)])
def test_members_are_added_without_a_trace(first, keep):
    one = model()
    before = fast(one, members=first, keep=keep)
    xr.testing.assert_identical(fast(one, members=7, keep=keep, previous=before), fast(one, members=7, keep=keep))


def test_probability_is_half_the_encoder_s_and_half_what_the_members_cover():
    found, edge = fast(model()), 0.5
    cover = (0.5 + edge - found["distance"]).clip(0, 1).mean("member")
    np.testing.assert_allclose(found["probability"], (cover + found["initial_probability"]) / 2, atol=2e-4)
    np.testing.assert_array_equal(found["share"], (found["distance"] <= edge).mean("member").astype(np.float32))
    np.testing.assert_allclose(found["mask_std"], np.sqrt(found["probability"] * (1 - found["probability"])), atol=1e-5)
    assert float(found["initial_probability"].std()) > 0.01


def test_the_encoder_s_probability_is_that_of_all_encoders_together():
    one = model()
    image = torch.from_numpy(IMAGE[None, :, :64])
    each = [one.network.answers(image, k)[1].probability for k in range(2)]
    found = Denoiser(one, IMAGE[:, :64]).probability
    np.testing.assert_allclose(found, sum(each) / 2, atol=1e-6)


def test_unseen_pixels_have_no_object():
    unseen = np.zeros(IMAGE.shape[1:], bool)
    unseen[:30] = True
    found = fast(model(), unseen=unseen)
    assert not found["probability"][:30].any() and found["probability"][30:].any()


@pytest.mark.parametrize("members", [1, 3])
def test_tiles_that_show_nothing_are_left_out_and_nothing_else_changes(members, monkeypatch):
    "To the bit what is left of all tiles once the rest is hidden; with tiles of the other shape, too."
    one, image = model(), np.random.default_rng(7).random((1, 80, 300), dtype=np.float32)
    unseen = np.zeros(image.shape[1:], bool)
    unseen[:, 130:230], unseen[:50, :130] = True, True
    options, drawn, real = {"members": members, "tile": 64, "overlap": 16}, [], Denoiser.generate
    monkeypatch.setattr(Denoiser, "generate", lambda self, noise: drawn.append(len(self.tiles)) or real(self, noise))
    every, found = fast(one, image, **options), fast(one, image, unseen=unseen, **options)
    assert drawn[-1] < drawn[0] and not found["share"].values[unseen].any()
    for name in ("distance", "mean", "std", "share", "probability", "initial_estimate"):
        assert np.array_equal(found[name].values[..., ~unseen], every[name].values[..., ~unseen], equal_nan=True), name
    assert fast(one, image, unseen=unseen | True, **options)["share"].sum() == 0 and drawn[-1] == drawn[0]


@pytest.mark.parametrize("draw", ["call", "generate"])
def test_the_tiles_that_remain_answer_as_if_the_image_ended_with_them(draw):
    one, image = model(), np.random.default_rng(8).random((1, 64, 160), dtype=np.float32)
    unseen = np.arange(160) >= np.full((64, 1), 64)  # tiles begin at columns 0, 32, 64 and 96
    part, whole = Denoiser(one, image[:, :, :96], 64, 32), Denoiser(one, image, 64, 32, unseen=unseen)
    assert (len(part.tiles), len(whole.tiles)) == (2, 2) and whole.canvas == (64, 160)
    if draw == "generate":
        noise = noise_maps(2, (64, 160), one.network.architecture, torch.Generator().manual_seed(0))
        found, expected = whole.generate(noise), part.generate(noise[..., :48])
    else:
        noisy = torch.randn(2, 1, 64, 160, generator=torch.Generator().manual_seed(0))
        found, expected = whole(noisy, torch.tensor(0.3)), part(noisy[..., :96], torch.tensor(0.3))
    torch.testing.assert_close(found[..., :96], expected)
    torch.testing.assert_close(whole.initial_estimate[..., :96], part.initial_estimate)
    assert expected.std() > 0.01 and not found[..., 96:].any()


def test_weights_without_a_generator_are_refused_in_one_sentence():
    plain = Model(random_network(), about={"name": "plain"})
    with pytest.raises(ValueError, match="plain were not trained for one call per member.*draft or default"):
        fast(plain)


def test_weights_with_a_generator_are_drawn_in_one_call_unless_told_otherwise():
    "A setting of a sampler belongs to a sampler with steps."
    one, plain = model(), Model(random_network(), about={"name": "plain"})
    for weights, changes, calls in (
        (one, {}, 1),
        (one, {"seed": 2}, 1),
        (one, {"steps": 2}, 3),
        (plain, {"steps": 2}, 3),
    ):
        found = ensemble(weights, IMAGE, members=2, progress=False, **changes)
        assert found.attrs["calls_per_member"] == calls, changes
    xr.testing.assert_identical(ensemble(one, IMAGE, members=5, progress=False), fast(one))
    assert ensemble(plain, IMAGE, members=2, progress=False).attrs["calls_per_member"] == METHODS["default"].calls


def test_one_call_has_no_steps():
    assert METHODS["fast"].calls == 1
    for wrong in ({"steps": 3}, {"steps": 0, "final": False}, {"steps": 0, "corrections": 1}):
        with pytest.raises(ValueError, match="no steps to take"):
            Method("one_call", **{"steps": 0} | wrong)
    with pytest.raises(ValueError, match="no steps to take"):
        replace(METHODS["fast"], steps=2)


def test_views_are_turned_back():
    "Eight views of an image and of its turn are the same eight: the answers turn with the image, to rounding."
    network = one_call_network()
    image = torch.rand(1, 1, 16, 32, generator=torch.Generator().manual_seed(3))
    for name in ("initial_estimate", "probability"):
        straight, turned = (
            getattr(network.encode(one, views=8), name) for one in (image, torch.rot90(image, 1, (-2, -1)))
        )
        single = getattr(network.encode(image), name)
        assert (torch.rot90(straight, 1, (-2, -1)) - turned).abs().max() < 1e-5 < (straight - single).abs().max()
    first = network.encode(image, views=1)
    for view in range(1, 8):
        more, fewer = (network.encode(image, views=count).probability * count for count in (view + 1, view))
        only = more - fewer
        flipped = image.flip(-1) if view >= 4 else image
        seen = network.encode(torch.rot90(flipped, view % 4, (-2, -1))).probability
        seen = torch.rot90(seen, -(view % 4), (-2, -1))
        assert (only - (seen.flip(-1) if view >= 4 else seen)).abs().max() < 1e-4
    assert first.probability.shape == image.shape


def test_views_are_a_setting_and_stand_in_the_result():
    one = model()
    eight = fast(one, views=8)
    assert eight.attrs["views"] == 8 and fast(one).attrs["views"] == 1
    assert float(np.abs(eight["initial_probability"] - fast(one)["initial_probability"]).max()) > 1e-3
    with pytest.raises(ValueError, match="views"):
        fast(one, members=7, previous=eight)
