"The network against its own formula, a count by hand, and files that were cut, flipped, exchanged or never written."

import json
import math
import os
import struct
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch.nn.functional import pixel_shuffle

from sdfdiff.diffusion import network as module
from sdfdiff.diffusion.corruption import VE
from sdfdiff.diffusion.network import (
    SHIPPED,
    Architecture,
    Model,
    NoiseEmbedding,
    ScoreNetwork,
    data_folder,
    fast_dtype,
    load_weights,
    multiply_adds,
    save_weights,
    scalings,
    weights_path,
)
from sdfdiff.images.preparation import NUCLEI, Preparation

TINY = Architecture(width=8, multipliers=(1, 2), encoder_blocks=1, mean=0.05, deviation=0.15)
LEVELS = torch.tensor([1e-3, 0.02, 0.15, 1.0, 5.0])
PARAMETRISATIONS = ("preconditioned", "score")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


def fresh(architecture=TINY, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return ScoreNetwork(replace(architecture, **changes)).eval().requires_grad_(False)


def stirred(architecture=TINY, **changes):
    "A network in which no weight is zero: as after training, nothing is hidden by a zero."
    network, generator = fresh(architecture, **changes), seeded(1)
    for parameter in network.parameters():
        spread = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.1
        parameter += spread * torch.randn(parameter.shape, generator=generator)
    return network


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
    embedding, levels = NoiseEmbedding(32), torch.logspace(-3, 1, 30)
    waves = embedding.waves(levels)
    assert waves.shape == (30, 32) and embedding(levels).shape == (30, 32)
    assert torch.allclose(waves[:, :16] ** 2 + waves[:, 16:] ** 2, torch.ones(30, 16), atol=1e-5)
    assert torch.allclose(waves[:, 0], (levels.log() / 4).sin(), atol=1e-6)  # lowest frequency 1, highest 64
    assert torch.allclose(waves[:, 31], (16 * levels.log()).cos(), atol=1e-4)
    assert torch.cdist(waves, waves).fill_diagonal_(9).min() > 1


def test_noise_embedding_keeps_its_frequencies_in_any_number_format():
    "In bfloat16 a frequency of 50 would be off by up to 0.125: another embedding than the one that was trained."
    levels = torch.logspace(-3, 0.7, 20)
    exact = NoiseEmbedding(32).waves(levels)
    assert torch.allclose(NoiseEmbedding(32).to(torch.bfloat16).waves(levels), exact, atol=1e-5)


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
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert fast_dtype() == fast_dtype(torch.device("cpu")) == torch.bfloat16
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert fast_dtype("cpu") == torch.float32
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert fast_dtype("cuda") == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert fast_dtype("cuda:0") == torch.float32


# Model and its units -------------------------------------------------------------------------------------------------


def test_model_units():
    model = Model(fresh(), VE(0.01, 3.0), truncation=8.0, data_scale=0.4, boundary="half_pixel")
    assert torch.allclose(model.to_pixels(torch.tensor([0.4, -0.1])), torch.tensor([8.0, -2.0]))
    assert model.threshold("paper") == pytest.approx(0.6) and model.threshold("half_pixel") == 0
    assert Model(fresh()).threshold("half_pixel") == 0.5 and Model(fresh()).threshold("paper") == pytest.approx(0.15)


# On disk -------------------------------------------------------------------------------------------------------------


MODEL = {
    "schedule": VE(0.002, 7.0),
    "truncation": 8.5,
    "data_scale": 0.3,
    "boundary": "half_pixel",
    "preparation": Preparation("haematoxylin", "grey", size=(96, 64)),
    "about": {"name": "tiny", "licence": "none", "recipe": {"steps": 3}, "held_out": ["ä", "b"]},
}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_weights(path, Model(stirred(), **MODEL))
    return path


def header(path):
    "The header of a safetensors file, parsed with nothing but struct and json."
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def without_checks(thing, **values):
    "Put values into a frozen dataclass, also impossible ones: what a file of another origin may hold."
    for name, value in values.items():
        object.__setattr__(thing, name, value)
    return thing


def refused(path):
    "The one sentence with which a file is refused."
    with pytest.raises(ValueError) as caught:
        load_weights(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_float32_comes_back_to_the_bit(tmp_path, parametrisation):
    network = stirred(parametrisation=parametrisation)
    save_weights(tmp_path / "a.safetensors", Model(network, **MODEL), dtype=torch.float32)
    again = load_weights(tmp_path / "a.safetensors", dtype=torch.float32)
    assert again.network.architecture == network.architecture
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.network.state_dict().values()))
    noisy, image = noise(2, 1, 8, 8), torch.rand(1, 1, 8, 8, generator=seeded())
    expected = network(noisy, 0.3, network.encode(image))
    assert torch.allclose(again.network(noisy, 0.3, again.network.encode(image)), expected, atol=1e-6)


def test_float16_comes_back_rounded_and_the_rest_exactly(saved):
    original, again = Model(stirred(), **MODEL), load_weights(saved, dtype=torch.float32)
    for name, value in original.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value.half().float())
    for name in ("schedule", "truncation", "data_scale", "boundary", "preparation"):
        assert getattr(again, name) == MODEL[name]
    assert again.about.pop("checksum") and again.about == MODEL["about"]
    assert again.network.architecture == TINY and not again.network.training
    assert not any(parameter.requires_grad for parameter in again.network.parameters())


def test_a_loaded_network_has_the_wanted_number_format(saved, monkeypatch):
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(module, "fast_dtype", lambda device, dtype=dtype: dtype)
        assert {p.dtype for p in load_weights(saved).network.parameters()} == {dtype}
    assert {p.dtype for p in load_weights(saved, dtype=torch.float64).network.parameters()} == {torch.float64}


def test_saving_leaves_the_model_alone_and_is_repeatable(tmp_path):
    model = Model(stirred(), **MODEL)
    before = [p.clone() for p in model.network.parameters()]
    for name in ("a", "b"):
        save_weights(tmp_path / f"{name}.safetensors", model)
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(before, model.network.parameters()))
    assert model.about == MODEL["about"] and "checksum" not in model.about
    assert header(tmp_path / "a.safetensors") == header(tmp_path / "b.safetensors")


def test_the_layout_in_memory_does_not_matter(tmp_path):
    "channels_last and contiguous weights are the same numbers, so the same file."
    for name, layout in (("a", torch.contiguous_format), ("b", torch.channels_last)):
        save_weights(tmp_path / f"{name}.safetensors", Model(stirred().to(memory_format=layout), **MODEL))
    assert header(tmp_path / "a.safetensors") == header(tmp_path / "b.safetensors")


def test_what_the_file_says_can_be_read_without_this_package(saved):
    head, _ = header(saved)
    described = json.loads(head["__metadata__"]["sdfdiff"])
    expected = asdict(TINY) | {"multipliers": [1, 2]}
    assert described["architecture"] == expected and described["schedule"] == {"sigma_min": 0.002, "sigma_max": 7.0}
    assert described["preparation"] == MODEL["preparation"].to_dict() and described["about"] == MODEL["about"]
    assert all(value["dtype"] == "F16" for key, value in head.items() if key != "__metadata__")
    assert set(head) - {"__metadata__"} == set(stirred().state_dict())


def test_the_checksum_names_the_weights(tmp_path):
    "The same weights have the same checksum, whatever the file is called; one number more or less has another."

    def checksum(network):
        save_weights(tmp_path / "a.safetensors", Model(network), force=True)
        return load_weights(tmp_path / "a.safetensors").about["checksum"]

    first, other = checksum(stirred()), stirred()
    other.leave.bias[3] += 0.01
    assert first == checksum(stirred()) != checksum(other) and len(first) == 64


def test_any_flipped_bit_of_the_numbers_is_noticed(saved):
    content = saved.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    for place in np.random.default_rng(0).integers(8 * (8 + length), 8 * len(content), 20):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        saved.write_bytes(flipped)
        assert "damaged" in refused(saved)


def test_any_flipped_bit_of_the_description_is_noticed(saved):
    "One bit makes 0.3 out of 0.2, or another boundary: units must be as certain as weights."
    content, wrong = saved.read_bytes(), []
    start, stop = content.index(b"architecture"), content.index(b"checksum")
    for place in np.random.default_rng(0).integers(8 * start, 8 * stop, 60):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        saved.write_bytes(flipped)
        try:
            load_weights(saved)
        except ValueError as error:
            wrong += [] if str(saved) in str(error) else [f"not named: {error}"]
        else:
            wrong.append(f"not noticed: {bytes(flipped[place // 8 - 20 : place // 8 + 9])}")
    assert not wrong, f"{len(wrong)} of 60, such as {wrong[:3]}"


@settings(max_examples=25)
@given(share=st.floats(0, 0.9999))
def test_a_truncated_file_is_refused(share, tmp_path_factory):
    path = tmp_path_factory.mktemp("cut") / "cut.safetensors"
    save_weights(path, Model(SMALL, about={"name": "cut"}))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refused(path)


SMALL = fresh(multipliers=(1,))


@settings(max_examples=30)
@given(content=st.binary(max_size=300))
def test_random_bytes_are_refused(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    path.write_bytes(content)
    refused(path)


def test_foreign_files_are_refused(tmp_path):
    path, tensors = tmp_path / "other.safetensors", {"weight": torch.ones(3)}
    for metadata in (None, {"format": "pt"}, *({"sdfdiff": text} for text in ("null", "[]", "{}", "3"))):
        save_file(tensors, path, metadata=metadata)
        assert "holds no sdfdiff model" in refused(path)
    save_file(tensors, path, metadata={"sdfdiff": "{not json"})
    refused(path)
    torch.save(tensors, path)
    refused(path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 16},
        {"width": 12},
        {"width": -8},
        {"multipliers": [1]},
        {"multipliers": 3},
        {"image_channels": 3},
        {"parametrisation": "velocity"},
        {"mean": "low"},
    ],
    ids=str,
)
def test_weights_of_another_architecture_are_refused(tmp_path, wrong):
    network = stirred()
    without_checks(network.architecture, **wrong)
    save_weights(tmp_path / "a.safetensors", Model(network))
    refused(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": without_checks(VE(), sigma_min=9.0)},
        {"schedule": TINY},
        {"preparation": without_checks(Preparation(), stain="gold")},
        {"preparation": SimpleNamespace(to_dict=lambda: {"rotation": 3})},
        {"truncation": "ten"},
        {"truncation": -1.0},
        {"truncation": None},
        {"data_scale": 0.0},
        {"boundary": "outer"},
        {"about": None},
        {"about": ["name"]},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_impossible_descriptions_are_refused(tmp_path, wrong):
    save_weights(tmp_path / "a.safetensors", without_checks(Model(fresh()), **wrong))
    refused(tmp_path / "a.safetensors")


def test_weights_under_other_names_are_refused(tmp_path):
    network = stirred()
    network.register_parameter("extra", torch.nn.Parameter(torch.ones(2)))
    save_weights(tmp_path / "more.safetensors", Model(network))
    del network.extra, network.read
    save_weights(tmp_path / "less.safetensors", Model(network))
    assert "another version" in refused(tmp_path / "more.safetensors")
    assert "another version" in refused(tmp_path / "less.safetensors")


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    for name in ("liver", tmp_path, tmp_path / "missing.safetensors", ""):
        with pytest.raises(FileNotFoundError, match="nuclei, glands, tissue") as caught:
            load_weights(name)
        assert str(name) in str(caught.value)
    assert SHIPPED == ("nuclei", "glands", "tissue")


def test_shipped_names_lie_in_the_data_folder(monkeypatch, tmp_path):
    assert data_folder().name == "data"
    monkeypatch.setattr(module, "data_folder", lambda: tmp_path)
    (tmp_path / "glands.safetensors").touch()
    assert weights_path("glands") == tmp_path / "glands.safetensors"
    with pytest.raises(FileNotFoundError, match="nuclei"):
        weights_path("nuclei")


def test_a_file_is_not_replaced_without_force(saved):
    before = saved.read_bytes()
    with pytest.raises(FileExistsError, match="tiny.safetensors exists"):
        save_weights(saved, Model(fresh()))
    assert saved.read_bytes() == before
    save_weights(saved, Model(fresh(), preparation=NUCLEI), force=True)
    assert load_weights(saved).preparation == NUCLEI


@pytest.mark.parametrize("problem", [RuntimeError("disk full"), KeyboardInterrupt(), None], ids=["full", "key", "json"])
def test_nothing_half_written_when_saving_fails(saved, monkeypatch, problem):
    before, model = saved.read_bytes(), Model(fresh(), about={} if problem else {"path": object()})

    def fails(path, content):
        path.open("wb").write(content[: len(content) // 2])
        raise problem

    if problem:
        monkeypatch.setattr(Path, "write_bytes", fails)
    for path in (saved, saved.with_name("new.safetensors")):
        with pytest.raises(type(problem) if problem else TypeError):
            save_weights(path, model, force=True)
    assert os.listdir(saved.parent) == [saved.name] and saved.read_bytes() == before


def test_folders_are_made_and_both_kinds_of_path_work(tmp_path):
    path = tmp_path / "runs" / "deep" / "tiny.safetensors"
    save_weights(str(path), Model(fresh()))
    assert load_weights(str(path)).network.architecture == load_weights(path).network.architecture == TINY
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_whole_and_say_what_they_are(name):
    model = load_weights(name, dtype=torch.float32)
    network, recipe = model.network, model.about["recipe"]
    assert model.about["licence"] not in ("", "unknown") and recipe["steps"] > 100
    assert (model.truncation, model.data_scale) == (recipe["truncation"], recipe["data_scale"])
    channels = network.architecture.image_channels
    assert channels == {"grey": 1, "rgb": 3}[model.preparation.colour]
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    clean = torch.full((1, 1, 32, 32), 0.1)  # a little noise on a map is taken away
    noisy = clean + 0.01 * noise(1, 1, 32, 32)
    denoised = network(noisy, 0.01, network.encode(torch.full((1, channels, 32, 32), 0.7)))
    assert (denoised - clean).square().mean() < 0.9 * 0.01**2
