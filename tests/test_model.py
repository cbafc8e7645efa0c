"Units of a model, and files that were cut, flipped, exchanged or never written."

import json
import os
import struct
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from small_networks import TINY, fresh, stirred

from sdfdiff.diffusion import model as module
from sdfdiff.diffusion.corruption import VE
from sdfdiff.diffusion.model import Model, load_model, save_weights
from sdfdiff.images.preparation import NUCLEI, Preparation
from sdfdiff import provenance
from sdfdiff.provenance import SHIPPED, weights_path

PARAMETRISATIONS = ("preconditioned", "score")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed))


# Model and its units -------------------------------------------------------------------------------------------------


def test_model_units():
    model = Model(fresh(), VE(0.01, 3.0), truncation=8.0, data_scale=0.4, boundary="half_pixel")
    assert torch.allclose(model.to_pixels(torch.tensor([0.4, -0.1])), torch.tensor([8.0, -2.0]))
    assert model.threshold("paper") == pytest.approx(0.6) and model.threshold("half_pixel") == 0
    assert Model(fresh()).threshold("half_pixel") == 0.5 and Model(fresh()).threshold("paper") == pytest.approx(0.15)


def test_reach_is_at_most_the_truncation():
    "A number whatever was said; None means as far as was learned, also when a model is changed."
    model = Model(fresh(), truncation=8.0, reach=3.0)
    assert model.reach == 3.0 and Model(fresh(), truncation=8.0).reach == 8.0
    assert Model(fresh(), truncation=8.0, reach=20.0).reach == 8.0
    assert replace(model, reach=None).reach == 8.0 and replace(model, truncation=2.0).reach == 2.0
    for wrong in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="reach"):
            Model(fresh(), reach=wrong)


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
        load_model(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("parametrisation", PARAMETRISATIONS)
def test_float32_comes_back_to_the_bit(tmp_path, parametrisation):
    network = stirred(parametrisation=parametrisation)
    save_weights(tmp_path / "a.safetensors", Model(network, **MODEL), dtype=torch.float32)
    again = load_model(tmp_path / "a.safetensors", dtype=torch.float32)
    assert again.network.architecture == network.architecture
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.network.state_dict().values()))
    noisy, image = noise(2, 1, 8, 8), torch.rand(1, 1, 8, 8, generator=seeded())
    expected = network(noisy, 0.3, network.encode(image))
    assert torch.allclose(again.network(noisy, 0.3, again.network.encode(image)), expected, atol=1e-6)


def test_float16_comes_back_rounded_and_the_rest_exactly(saved):
    original, again = Model(stirred(), **MODEL), load_model(saved, dtype=torch.float32)
    for name, value in original.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value.half().float())
    for name in ("schedule", "truncation", "data_scale", "boundary", "preparation"):
        assert getattr(again, name) == MODEL[name]
    assert again.reach == original.reach == 8.5
    assert again.about.pop("checksum") and again.about == MODEL["about"]
    assert again.network.architecture == TINY and not again.network.training
    assert not any(parameter.requires_grad for parameter in again.network.parameters())


def test_int8_comes_back_within_half_a_step_and_saves_to_the_same_bytes(tmp_path):
    "Each output channel has steps of its own, a channel of zeros stays zero, and what is no kernel is float16."
    network = stirred(TINY)
    name, kernel = next((name, value) for name, value in network.named_parameters() if value.dim() == 4)
    kernel.data[0], kernel.data[1] = 0, kernel.data[1] * 1000
    save_weights(tmp_path / "a.safetensors", Model(network), dtype=torch.int8)
    found = load_model(tmp_path / "a.safetensors", dtype=torch.float32)
    for key, value in network.state_dict().items():
        back = found.network.state_dict()[key]
        if value.dim() < 2:
            assert torch.equal(back, value.half().float()), key
        else:
            step = value.flatten(1).abs().amax(1) / 127
            assert ((back - value).flatten(1).abs().amax(1) <= 0.5001 * step).all(), key
    assert not found.network.state_dict()[name][0].any()
    save_weights(tmp_path / "b.safetensors", found, dtype=torch.int8)
    assert (tmp_path / "a.safetensors").stat().st_size == (tmp_path / "b.safetensors").stat().st_size
    again = load_model(tmp_path / "b.safetensors", dtype=torch.float32).network.state_dict()
    for key, value in found.network.state_dict().items():
        torch.testing.assert_close(again[key], value, rtol=1e-6, atol=0)
    save_weights(tmp_path / "c.safetensors", Model(network))
    assert (tmp_path / "a.safetensors").stat().st_size < 0.75 * (tmp_path / "c.safetensors").stat().st_size


def test_int8_without_its_steps_is_refused(tmp_path):
    save_weights(tmp_path / "a.safetensors", Model(stirred(TINY)), dtype=torch.int8)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys() if not key.endswith(module._STEP)}
        description = json.loads(file.metadata()["sdfdiff"])
    description["checksum"] = module._checksum(tensors, description)
    save_file(tensors, tmp_path / "a.safetensors", metadata={"sdfdiff": json.dumps(description)})
    with pytest.raises(ValueError, match="another version of sdfdiff and cannot be read"):
        load_model(tmp_path / "a.safetensors")


def test_a_loaded_network_has_the_wanted_number_format(saved, monkeypatch):
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(module, "fast_dtype", lambda device, dtype=dtype: dtype)
        assert {p.dtype for p in load_model(saved).network.parameters()} == {dtype}
    assert {p.dtype for p in load_model(saved, dtype=torch.float64).network.parameters()} == {torch.float64}


@pytest.mark.parametrize("said, reach", [(None, 8.5), (2.5, 2.5)])
def test_files_that_leave_the_reach_open_are_read(saved, said, reach):
    "Older files say null where members are averaged as far as distances were learned."
    with safe_open(saved, framework="pt") as file:
        description = json.loads(file.metadata()["sdfdiff"]) | {"reach": said}
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    description["checksum"] = module._checksum(tensors, description)
    save_file(tensors, saved, metadata={"sdfdiff": json.dumps(description)})
    model = load_model(saved)
    assert model.reach == reach and replace(model, reach=None).reach == 8.5


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
    expected = json.loads(json.dumps(asdict(TINY)))
    assert described["architecture"] == expected and described["schedule"] == {"sigma_min": 0.002, "sigma_max": 7.0}
    assert described["preparation"] == MODEL["preparation"].to_dict() and described["about"] == MODEL["about"]
    assert all(value["dtype"] == "F16" for key, value in head.items() if key != "__metadata__")
    assert set(head) - {"__metadata__"} == set(stirred().state_dict())


def test_the_checksum_names_the_weights(tmp_path):
    "The same weights have the same checksum, whatever the file is called; one number more or less has another."

    def checksum(network):
        save_weights(tmp_path / "a.safetensors", Model(network), force=True)
        return load_model(tmp_path / "a.safetensors").about["checksum"]

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
            load_model(saved)
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
    del network.extra, network.enter
    save_weights(tmp_path / "less.safetensors", Model(network))
    assert "another version" in refused(tmp_path / "more.safetensors")
    assert "another version" in refused(tmp_path / "less.safetensors")


def test_unknown_names_are_refused_with_the_known_ones(tmp_path):
    for name in ("liver", tmp_path, tmp_path / "missing.safetensors", ""):
        with pytest.raises(FileNotFoundError, match="nuclei, glands, tissue") as caught:
            load_model(name)
        assert str(name) in str(caught.value)
    assert SHIPPED == ("nuclei", "glands", "tissue", "tissue_fast", "cells", "glands_paper")


def test_shipped_names_lie_in_the_data_folder(monkeypatch, tmp_path):
    assert provenance.data_folder().name == "data"
    monkeypatch.setattr(provenance, "data_folder", lambda: tmp_path)
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
    assert load_model(saved).preparation == NUCLEI


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
    assert load_model(str(path)).network.architecture == load_model(path).network.architecture == TINY
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_whole_and_say_what_they_are(name):
    model = load_model(name, dtype=torch.float32)
    network, recipe = model.network, model.about["recipe"]
    assert model.about["licence"] not in ("", "unknown") and recipe["steps"] > 100
    assert (model.truncation, model.data_scale) == (recipe["truncation"], recipe["data_scale"])
    channels = network.architecture.image_channels
    assert channels == {"grey": 1, "rgb": 3}[model.preparation.colour]
    assert all(parameter.isfinite().all() for parameter in network.parameters())
    maps = network.architecture.mask_channels
    level = 0.05 if name in ("cells", "glands_paper") else 0.01  # a shorter training, and a small network
    clean = torch.full((1, maps, 32, 32), 0.1)  # a little noise on a map is taken away
    clean[:, :1] *= 1 if maps == 1 else -1  # of several classes, one is here
    noisy = clean + level * noise(1, maps, 32, 32)
    denoised = network(noisy, level, network.encode(torch.full((1, channels, 32, 32), 0.7)))
    assert (denoised - clean).square().mean() < 0.9 * level**2
