"The network against its own formula, a count by hand, and what it does with images and maps that do not fit."

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import TINY, fresh, stirred
from torch.nn.functional import group_norm, pixel_shuffle

from sdfdiff.diffusion import network as module
from sdfdiff.diffusion.model import load_model
from sdfdiff.diffusion.network import fast_dtype, multiply_adds, scalings

LEVELS = torch.tensor([1e-3, 0.02, 0.15, 1.0, 5.0])
PARAMETRISATIONS = ("preconditioned", "score")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def raw_answers(network, noisy, noise_level, features):
    "What enters the first convolution of the score network, what F answers at full resolution, and D."
    seen = {}
    hooks = [
        network.enter.register_forward_hook(lambda module, inputs, output: seen.update(enter=inputs[0])),
        network.leave.register_forward_hook(lambda module, inputs, output: seen.update(leave=output)),
    ]
    denoised = network(noisy, noise_level, features)
    for hook in hooks:
        hook.remove()
    entered, answer = (pixel_shuffle(seen[k], network.architecture.unshuffle) for k in ("enter", "leave"))
    return entered, answer, denoised


# The formula ---------------------------------------------------------------------------------------------------------


@given(st.floats(1e-4, 1e2), st.floats(1e-3, 10))
def test_scalings_give_variance_one_and_the_least_output(level, deviation):
    "Karras et al. 2022, appendix B.6: input and target have variance one, and no other c_skip asks for less output."
    skip, out, into = (c.item() for c in scalings(torch.tensor(level, dtype=torch.float64), deviation))
    assert into**2 * (level**2 + deviation**2) == pytest.approx(1, rel=1e-9)
    assert (1 - skip) ** 2 * deviation**2 + skip**2 * level**2 == pytest.approx(out**2, rel=1e-9)
    for other in (0.9 * skip, 1.1 * skip):
        assert (1 - other) ** 2 * deviation**2 + other**2 * level**2 > out**2


def test_scalings_of_the_score_form_and_shapes():
    for shape in ((), (3,), (2, 1, 1, 1)):
        level = torch.full(shape, 0.3)
        assert all(c.shape == shape for c in scalings(level, 0.2))
        skip, out, into = scalings(level, 0.2, "score")
        assert (skip == 1).all() and (into == 1).all() and torch.equal(out, -level)
    with pytest.raises(ValueError, match='"velocity"'):
        scalings(LEVELS, 0.2, "velocity")


def test_a_fresh_network_knows_both_ends():
    network, clean = fresh(), 0.2 * noise(3, 1, 8, 16).clamp(-1, 1)
    features = network.encode(torch.rand(1, 1, 8, 16, generator=seeded()))
    assert torch.allclose(network(clean, 1e-5, features), clean, atol=1e-6)  # no noise: the input
    assert (network(clean, 1e4, features) - 0.05).abs().max() < 1e-6  # only noise: the mean
    level = network.architecture.deviation
    assert torch.allclose(network(clean, level, features), (clean + 0.05) / 2, atol=1e-6)  # as much as data: half way
    assert torch.allclose(fresh(parametrisation="score")(clean, 0.3, features), clean, atol=1e-6)  # no score at all


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
@pytest.mark.parametrize("level", LEVELS.tolist())
def test_the_denoiser_is_the_formula_about_the_answer_of_the_network(parametrisation, level):
    network, noisy = stirred(parametrisation=parametrisation), noise(2, 1, 8, 8)
    entered, answer, denoised = raw_answers(network, noisy, level, network.encode(noise(1, 1, 8, 8, seed=2)))
    assert answer.std() > 0.01  # stirred: it does answer
    s, m = 0.15, 0.05
    if parametrisation == "score":
        expected, wanted = noisy - level * answer, noisy - m
        score = (denoised - noisy) / level**2  # s = -F / sigma
        assert torch.allclose(score, -answer / level, atol=1e-3 / level, rtol=1e-3)
    else:
        total = level**2 + s**2
        expected = m + s**2 / total * (noisy - m) + level * s / math.sqrt(total) * answer
        wanted = (noisy - m) / math.sqrt(total)
    assert torch.allclose(denoised, expected, atol=1e-5)
    assert torch.allclose(entered, wanted, rtol=1e-4, atol=1e-6)


def test_the_network_depends_on_image_noise_level_and_map():
    "In the score form nothing but the embedding tells the noise level: map and answer are not scaled."
    network, noisy = stirred(parametrisation="score"), noise(1, 1, 8, 8)
    image = torch.rand(1, 1, 8, 8, generator=seeded())
    features = network.encode(image)
    answer = partial(raw_answers, network)
    reference = answer(noisy, 0.2, features)[1]
    others = answer(noisy, 0.2, network.encode(1 - image)), answer(noisy, 0.3, features), answer(-noisy, 0.2, features)
    assert all((other[1] - reference).abs().max() > 1e-3 for other in others)
    assert (network.encode(1 - image).initial_estimate - features.initial_estimate).abs().max() > 1e-4


def test_each_level_on_the_way_up_sees_what_came_down():
    "Skip connections join equal resolutions: the second half of what enters a level is what left it on the way down."
    unet, seen = stirred(multipliers=(1, 2, 3)).body, {}
    for way in ("down", "up"):
        for k, level in enumerate(getattr(unet, way)):
            level.register_forward_hook(lambda _, inputs, output, key=(way, k): seen.update({key: (inputs[0], output)}))
    x = noise(1, 8, 8, 12)
    assert unet(x, noise(1, 32)).shape == x.shape
    for k, (channels, scale) in enumerate([(8, 1), (16, 2), (24, 4)]):
        left, entered = seen["down", k][1], seen["up", k][0]
        assert left.shape == (1, channels, 8 // scale, 12 // scale)
        assert torch.equal(entered[:, channels:], left) and entered[:, :channels].std() > 0.01


def test_every_pixel_can_reach_every_pixel_nearby():
    "Unshuffle, levels and skips fit together: a change of one pixel is felt around it, and felt most at its own place."
    network = stirred(multipliers=(1, 1))
    noisy, features = noise(1, 1, 16, 16), network.encode(torch.zeros(1, 1, 16, 16))
    moved = noisy.clone()
    moved[0, 0, 5, 9] += 0.5
    change = (network(moved, 0.1, features) - network(noisy, 0.1, features)).abs()[0, 0]
    assert change.argmax() == 5 * 16 + 9 and (change[2:9, 6:13] > 0).all()


# Members, levels, features -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_one_encoded_image_serves_many_members(parametrisation):
    network, noisy = stirred(parametrisation=parametrisation), noise(5, 1, 8, 12)
    features = network.encode(torch.rand(1, 1, 8, 12, generator=seeded()))
    together = network(noisy, LEVELS, features)
    alone = torch.cat([network(noisy[k : k + 1], LEVELS[k], features) for k in range(5)])
    assert torch.allclose(together, alone, atol=1e-5)
    repeated = type(features)(features.maps.repeat(5, 1, 1, 1), features.initial_estimate.repeat(5, 1, 1, 1))
    assert torch.allclose(together, network(noisy, LEVELS, repeated), atol=1e-6)


def test_one_image_per_member():
    network, noisy, images = stirred(), noise(3, 1, 8, 8), torch.rand(3, 1, 8, 8, generator=seeded())
    together = network(noisy, 0.4, network.encode(images))
    alone = torch.cat([network(noisy[k : k + 1], 0.4, network.encode(images[k : k + 1])) for k in range(3)])
    assert torch.allclose(together, alone, atol=1e-5)
    swapped = network(noisy, 0.4, network.encode(images[[1, 0, 2]]))
    assert torch.allclose(swapped[2], together[2], atol=1e-5) and (swapped[:2] - together[:2]).abs().max() > 1e-4


def test_all_ways_to_say_one_noise_level_agree():
    network, noisy = stirred(), noise(3, 1, 8, 8)
    features = network.encode(torch.rand(1, 1, 8, 8, generator=seeded()))
    expected = network(noisy, 0.4, features)
    for level in (
        torch.tensor(0.4),
        torch.tensor([0.4]),
        torch.full((3,), 0.4),
        torch.tensor(0.4, dtype=torch.float64),
        np.float64(0.4),
    ):
        assert torch.equal(network(noisy, level, features), expected)


def test_the_encoder_s_own_guess_is_in_model_units_and_full_size():
    network = stirred()
    image = torch.rand(2, 1, 8, 12, generator=seeded())
    features = network.encode(image)
    assert features.initial_estimate.shape == (2, 1, 8, 12) and features.maps.shape == (2, 8, 4, 6)
    wider = network.encode(image).initial_estimate - 0.05
    network.architecture = replace(TINY, mean=-1.0, deviation=0.3)
    assert torch.allclose(network.encode(image).initial_estimate, -1 + 2 * wider, atol=1e-5)


def test_noise_embedding_tells_levels_apart_over_four_decades():
    embedding, levels = module.NoiseEmbedding(32), torch.logspace(-3, 1, 30)
    waves = embedding.waves(levels)
    assert waves.shape == (30, 32) and embedding(levels).shape == (30, 32)
    assert torch.allclose(waves[:, :16] ** 2 + waves[:, 16:] ** 2, torch.ones(30, 16), atol=1e-5)
    assert torch.allclose(waves[:, 0], (levels.log() / 4).sin(), atol=1e-6)  # lowest frequency 1, highest 64
    assert torch.allclose(waves[:, 31], (16 * levels.log()).cos(), atol=1e-4)
    assert torch.cdist(waves, waves).fill_diagonal_(9).min() > 1


def test_noise_embedding_keeps_its_frequencies_in_any_number_format():
    "In bfloat16 a frequency of 50 would be off by up to 0.125: another embedding than the one that was trained."
    levels = torch.logspace(-3, 0.7, 20)
    exact = module.NoiseEmbedding(32).waves(levels)
    assert torch.allclose(module.NoiseEmbedding(32).to(torch.bfloat16).waves(levels), exact, atol=1e-5)


def test_bfloat16_answers_in_float32_and_nearly_the_same():
    network, noisy, image = stirred(), noise(2, 1, 8, 8), torch.rand(1, 1, 8, 8, generator=seeded())
    exact = network(noisy, 0.2, network.encode(image))
    network.to(torch.bfloat16)
    features = network.encode(image)
    coarse = network(noisy, 0.2, features)
    assert coarse.dtype == features.initial_estimate.dtype == torch.float32 and features.maps.dtype == torch.bfloat16
    assert (coarse - exact).abs().mean() < 0.05 * exact.std() and not torch.equal(coarse, exact)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda n: n.encode(torch.zeros(1, 3, 8, 8)), r"\(1, 3, 8, 8\).*\(batch, 1, row, column\)"),
        (lambda n: n.encode(torch.zeros(1, 1, 8, 10)), r"\(1, 1, 8, 10\).*multiples of 4"),
        (lambda n: n.encode(torch.zeros(1, 8, 8)), r"\(1, 8, 8\)"),
        (lambda n: n(torch.zeros(1, 1, 6, 8), 1.0, None), r"\(1, 1, 6, 8\).*multiples of 4"),
        (lambda n: n(torch.zeros(2, 2, 8, 8), 1.0, None), r"the noisy map has shape \(2, 2, 8, 8\)"),
        (lambda n: fresh(parametrisation="velocity")(torch.zeros(1, 1, 8, 8), 1.0, None), '"velocity"'),
    ],
)
def test_bad_shapes_are_named_in_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        wrong(fresh())
    assert "\n" not in str(caught.value)


def test_every_multiple_is_accepted():
    for unshuffle, multipliers, multiple in ((1, (1,), 1), (2, (1,), 2), (2, (1, 2, 2), 8), (4, (1, 1), 8)):
        network = fresh(unshuffle=unshuffle, multipliers=multipliers)
        assert network.architecture.multiple == multiple
        shape = (1, 1, multiple * math.ceil(8 / multiple), 3 * multiple * math.ceil(4 / multiple))
        assert network(noise(*shape), 1.0, network.encode(torch.zeros(shape))).shape == shape


# Work ----------------------------------------------------------------------------------------------------------------


def test_multiply_adds_equal_a_count_by_hand():
    "Two levels of 8 and 16 channels on 8 x 12 and 4 x 6 positions (16 x 24 pixels, unshuffled by 2)."
    fine, coarse = 8 * 12, 4 * 6

    def convolution(incoming, outgoing, positions, side=3):
        return incoming * outgoing * positions * side**2

    def block(incoming, outgoing, positions):
        skip = convolution(incoming, outgoing, positions, side=1) if incoming != outgoing else 0
        return convolution(incoming, outgoing, positions) + convolution(outgoing, outgoing, positions) + skip

    down = block(8, 8, fine) + convolution(8, 8, coarse) + block(8, 16, coarse)  # the strided convolution ends coarse
    middle = block(16, 16, coarse)
    up = block(32, 16, coarse) + convolution(16, 8, fine) + block(16, 8, fine)
    unet = down + middle + up
    encode = convolution(3 * 4, 8, fine) + unet + convolution(8, 4, fine) + convolution(8, 8, fine)
    call = convolution(4, 8, fine) + unet + convolution(8, 4, fine)
    network = fresh(image_channels=3)
    assert multiply_adds(network, (16, 24)) == {"encode": encode, "call": call}
    assert multiply_adds(network, (32, 24))["call"] == 2 * call
    assert not any(part._forward_hooks for part in network.modules())  # the counters are gone


def test_fast_dtype_asks_the_machine(monkeypatch):
    features = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for there in ((True, True), (False, True), (True, False), (False, False)):
        for name, value in zip(features, there):
            monkeypatch.setattr(torch.cpu, name, lambda value=value: value)
        expected = torch.bfloat16 if any(there) else torch.float32
        assert fast_dtype() == fast_dtype("cpu") == fast_dtype(torch.device("cpu")) == expected
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert fast_dtype("cuda") == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert fast_dtype("cuda:0") == torch.float32


@pytest.mark.parametrize(("name", "most"), [("nuclei", 2**-7), ("glands", 2**-9)])  # the step of bfloat16 beside 1
@pytest.mark.parametrize("tissue_columns", [0, 8, 128])
def test_group_normalisation_is_exact_enough_beside_glass(name, most, tissue_columns):
    "In channels_last torch is inexact where a group's mean is many spreads (findings/groupnorm_channels_last.sh)."
    from skimage.data import immunohistochemistry

    network, worst = load_model(name, dtype=torch.float32).network, []

    def look(layer, given, found):
        x = given[0].double()
        mean, spread = (getattr(x.reshape(len(x), 8, -1), what)(2) for what in ("mean", "std"))
        exact = group_norm(x, 8, layer.weight.double(), layer.bias.double(), layer.eps)
        worst.append([(mean.abs() / (spread + 1e-9)).max().item(), (found - exact).abs().max().item()])

    for layer in network.modules():
        if isinstance(layer, torch.nn.GroupNorm):
            layer.register_forward_hook(look)
    image = np.full((3, 128, 128), 0.95, np.float32)
    image[:, :, :tissue_columns] = immunohistochemistry()[:128, :tissue_columns].transpose(2, 0, 1) / 255
    with torch.inference_mode():
        features = network.encode(torch.from_numpy(image)[None].to(memory_format=torch.channels_last))
        noise = torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
        network(5 * noise.to(memory_format=torch.channels_last), torch.full((2,), 5.0), features)
    ratio, error = np.max(worst, axis=0)
    assert len(worst) >= 28 and ratio < 10 and error < most


# Several encoders, P(object), a generator ----------------------------------------------------------------------------

MANY = {"encoders": 3, "probability": True}


def test_several_encoders_answer_with_their_mean():
    network, image = stirred(**MANY), torch.rand(2, 1, 8, 12, generator=seeded())
    together = network.encode(image)
    each = [network.answers(image, which)[1] for which in range(3)]
    assert (each[0].initial_estimate - each[1].initial_estimate).abs().max() > 1e-3  # they do differ
    for name in ("initial_estimate", "probability"):
        mean = sum(getattr(one, name) for one in each) / 3
        assert torch.allclose(getattr(together, name), mean, atol=1e-6)
        assert getattr(together, name).shape == image.shape and getattr(together, name).dtype == torch.float32
    assert 0 < together.probability.min() and together.probability.max() < 1


def test_one_encoder_alone_is_that_of_a_network_with_one():
    "`answers(image, k)` says what encoder k says, and nothing of the others enters."
    network, image = stirred(**MANY), torch.rand(1, 1, 8, 8, generator=seeded())
    before = network.answers(image, 1)
    for parameter in [*network.encoders[0].parameters(), *network.encoders[2].parameters()]:
        parameter.fill_(9.0)
    after = network.answers(image, 1)
    assert torch.equal(before[0], after[0]) and torch.equal(before[1].initial_estimate, after[1].initial_estimate)
    hidden, guess, odds = network.encoders[1](torch.nn.functional.pixel_unshuffle(2 * image - 1, 2))
    assert torch.allclose(after[1].initial_estimate, 0.05 + 0.15 * pixel_shuffle(guess, 2), atol=1e-6)
    assert torch.allclose(after[1].probability, pixel_shuffle(odds, 2).sigmoid(), atol=1e-6)


def test_of_several_encoders_the_rest_sees_their_guesses_only():
    "Distances in deviations up to 3, and log odds, with pixels as channels; of one encoder its hidden maps."
    network, image = stirred(**MANY), torch.rand(1, 1, 8, 8, generator=seeded())
    said, features = network.answers(image)
    assert said.shape == (1, 8, 4, 4)
    distance = ((features.initial_estimate - 0.05) / 0.15).clamp(-3, 3)
    assert torch.allclose(pixel_shuffle(said[:, :4], 2), distance, atol=1e-5)
    assert torch.allclose(pixel_shuffle(said[:, 4:], 2), features.probability.logit(1e-4) / 3, atol=1e-5)
    assert torch.equal(network.encode(image).maps, network.condition(said)) and len(features.maps) == 0
    one = stirred(probability=True)
    hidden = one.encoders[0](torch.nn.functional.pixel_unshuffle(2 * image - 1, 2))[0]
    assert torch.equal(one.answers(image)[0], hidden)


def test_probability_is_there_only_if_it_was_learned():
    image = torch.rand(1, 1, 8, 8, generator=seeded())
    assert fresh().encode(image).probability is None
    assert fresh(probability=True).encode(image).probability.shape == image.shape


@pytest.mark.parametrize("wrong", [{"encoders": 0}, {"encoders": 2}, {"encoders": 0, "probability": True}], ids=str)
def test_encoders_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match=f"^{wrong['encoders']} encoders.*at least one") as caught:
        replace(TINY, **wrong)
    assert "\n" not in str(caught.value)


def test_the_generator_s_members_differ_by_their_noise_and_by_nothing_else():
    network, image = stirred(one_call=(1, 2), **MANY), torch.rand(2, 1, 8, 12, generator=seeded())
    features, maps = network.encode(image), noise(6, 7, 4, 6)
    members = network.generate(maps, features.repeated(3))
    assert members.shape == (6, 1, 8, 12) and members.dtype == torch.float32
    alone = network.generate(maps[3:4], network.encode(image[1:]))  # members of all images, then the next members
    assert torch.allclose(members[3], alone[0], atol=1e-5)
    same = network.generate(maps[[0, 0]], network.encode(image[:1]))
    assert torch.equal(same[0], same[1]) and (members[0] - members[2]).abs().max() > 1e-3
    away = pixel_shuffle(network.generator(maps[:1], features.maps[:1]), 2)
    assert torch.allclose(members[0], features.initial_estimate[0] + 0.15 * away[0], atol=1e-5)


def test_a_network_without_a_generator_refuses_to_generate():
    network = fresh()
    features = network.encode(torch.zeros(1, 1, 8, 8))
    with pytest.raises(ValueError, match="no one-call generator.*draft") as caught:
        network.generate(noise(2, 7, 4, 4), features)
    assert "\n" not in str(caught.value)


def test_features_are_repeated_member_by_member():
    "All images for the first member, then all for the second; what is not there stays away."
    network, image = stirred(probability=True), torch.rand(2, 1, 8, 8, generator=seeded())
    features = network.encode(image)
    repeated = features.repeated(3)
    for one, many in zip(features, repeated, strict=True):
        assert torch.equal(many.unflatten(0, (3, 2)), one[None].expand(3, *one.shape))
    assert stirred().encode(image).repeated(2).probability is None


def test_a_generator_changes_nothing_before_it():
    "The generator comes last: networks with and without it begin with the same weights."
    plain, with_generator = fresh().state_dict(), fresh(one_call=(1,)).state_dict()
    assert all(torch.equal(value, with_generator[name]) for name, value in plain.items())


@pytest.mark.parametrize("wrong", [(1,), (2,), (8, 9), (0,)], ids=str)
def test_cells_of_the_noise_that_cannot_be_made_are_refused(wrong):
    with pytest.raises(ValueError, match=f"cells of {wrong[-1]} px.*multiples of 2 px are possible, from 4 px on"):
        replace(TINY, cells=wrong)


def test_images_fit_the_deeper_of_body_and_generator():
    "A generator of more levels than the score network halves the maps more often."
    network = fresh(one_call=(1, 1, 1, 1))
    assert network.architecture.multiple == 16 and TINY.multiple == 4
    features = network.encode(torch.zeros(1, 1, 16, 32))
    assert network.generate(noise(1, 4 + len(TINY.cells), 8, 16), features).shape == (1, 1, 16, 32)
    with pytest.raises(ValueError, match="multiples of 16"):
        network.encode(torch.zeros(1, 1, 8, 32))
