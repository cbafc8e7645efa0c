"The benchmark: factors that multiply to the total, two ends of a chain that do the same, peaks of a process of its own."

from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from small_networks import random_network

from benchmarks.benchmark import (
    FULL,
    QUICK,
    Plain,
    Plan,
    alone,
    benchmark,
    machine,
    one_by_one,
    one_thread,
    resident,
    slide,
    steps_of_chain,
)
from benchmarks.competitors import DRIVERS, OPTIONAL, SCHEDULERS, gathered
from sdfdiff.diffusion.model import Model, load_model, save_weights
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.figures import benchmark_table
from sdfdiff.ensembles.members import Denoiser
from sdfdiff.ensembles.method import METHODS, untuned
from sdfdiff.files import write_dataset

IMAGE = np.random.default_rng(0).random((3, 64, 64), dtype=np.float32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, Model(random_network(3), about={"name": "tiny"}))
    return path


@pytest.fixture(scope="module")
def plan(weights):
    few = {"members": 3, "part": 2, "drawn": 2, "reference": 2, "cases": 1, "rounds": 1, "steps": 1, "seconds": 0.01}
    small = {
        "side": 64,
        "tile": 64,
        "sides": (64,),
        "counts": (1, 2),
        "sizes": (32,),
        "truncations": (5, 10),
        "batches": (1, 2),
    }
    return Plan(weights=str(weights), scenes=str(weights), **few, **small)


@pytest.fixture(scope="module")
def measured(plan):
    return benchmark(progress=False, plan=plan)


# ---- one run on next to nothing


def test_factors_multiply_to_the_total(measured):
    seconds = measured.chain_seconds
    total = seconds.isel(step=0) / seconds.isel(step=-1)
    np.testing.assert_allclose(measured.chain_factor.prod("step"), total)
    assert (seconds > 0).all() and (measured.setting_seconds > 0).all()
    assert (measured.chain_factor.isel(step=0) == 1).all()


def test_what_was_timed_is_said(measured, plan):
    timed = dict(zip(measured.step.values, measured.chain_timed.values))
    assert timed["naive loop"] == pytest.approx(3 / 1500 / plan.members) and timed["fewer calls"] == pytest.approx(
        1 / 3
    )
    assert timed["fused network"] == pytest.approx(2 / 3) and timed["workers"] == timed["the rest"] == 1
    assert ((measured.setting_timed > 0) & (measured.setting_timed <= 1)).all()


def test_the_result_can_be_stored_and_printed(measured, tmp_path):
    write_dataset(measured, tmp_path / "benchmark.nc")
    stored = xr.load_dataset(tmp_path / "benchmark.nc", engine="h5netcdf")
    text = benchmark_table(measured)
    assert benchmark_table(stored) == text
    for name in (
        *measured.step.values,
        *measured.setting.values,
        *DRIVERS,
        *measured.tiling.values,
        "bfloat16",
        "Peak memory",
    ):
        assert name in text
    assert "extrapolated from 0.067 % of the work" in text
    assert text.index(" x ") < text.index("Drivers") < text.index("Tiles") < text.index("Signed distance")
    assert not [key for key in measured.attrs if "date" in key] and measured.attrs["plan_seed"] == 0
    assert all(measured[name].attrs.get("units") for name in measured.data_vars)


def test_missing_libraries_are_named(measured):
    without = measured.copy(deep=True)
    for name in SCHEDULERS:
        without.driver_seconds.loc[{"driver": name}] = np.nan
    without.tiling_seconds.loc[{"tiling": "MONAI's sliding window"}] = np.nan
    without.distance_seconds.loc[{"library": ["OpenCV", "edt", "MONAI"]}] = np.nan
    without = without.assign_attrs({f"version_of_{name}": "not installed" for name in OPTIONAL})
    lines = benchmark_table(without).splitlines()
    assert sum(line.endswith("  not installed") for line in lines) == 4 + 1 + 3
    assert "diffusers, MONAI, edt, OpenCV" in lines[-1] and "sdfdiff[bench]" in lines[-1]


def test_machine_and_versions_are_stored(measured):
    keys = {"processor", "cores", "threads_per_worker", "torch_version", "number_format", "weights_checksum"}
    assert keys | {f"version_of_{name}" for name in OPTIONAL} <= set(measured.attrs)
    assert machine()["cores"] >= 1 and machine()["processor"]


# ---- the same at both ends of the chain


FEW, PAPER = untuned("dpm", 4, "geometric", stochasticity=0.25), replace(METHODS["paper-nuclei"], steps=4)


@pytest.mark.parametrize("sampling", [FEW, PAPER], ids=["few calls", "paper"])
@pytest.mark.parametrize("dtype, within", [(torch.float32, 1e-4), (torch.bfloat16, 0.05)], ids=["float32", "bfloat16"])
def test_the_naive_loop_draws_the_same_members(weights, sampling, dtype, within):
    "Same sampler, same seeds: only rounding may differ, relative to the members' own deviation."
    plain, model = load_model(weights, dtype=torch.float32), load_model(weights, dtype=dtype)
    naive = one_by_one(Plain(plain, IMAGE, again=True), plain, sampling, 3, seed=4)
    fast = one_by_one(Denoiser(model, IMAGE), model, sampling, 3, batch=3, seed=4)
    assert float((naive - fast).std()) < within * float(naive.std())
    once = one_by_one(Plain(plain, IMAGE), plain, sampling, 3, seed=4)
    torch.testing.assert_close(once, naive, atol=1e-6, rtol=0)
    if dtype == torch.float32:
        whole = ensemble(model, IMAGE, sampling, members=3, seed=4, keep=3, workers=2, progress=False)
        mine = gathered(plain, naive, (64, 64))
        np.testing.assert_allclose(whole["distance"], mine["distance"], atol=1e-2)


def test_each_step_runs(plan):
    found = steps_of_chain(plan, load_model(plan.weights), slide(load_model(plan.weights), 64))
    assert list(found)[:4] == ["naive loop", "fewer calls", "encoder once", "number format"]
    assert list(found)[4:] == ["members in batches", "fused network", "workers", "the rest"]
    assert [bool(once) for _, _, once in found.values()] == [False, False, True, True, True, False, False, False]


def test_plans():
    assert FULL.members == QUICK.members == 128 and FULL.side == 128 and 4096 in FULL.sides and 1024 in FULL.counts
    assert set(QUICK.sizes) <= set(FULL.sizes) and QUICK.rounds < FULL.rounds


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with pytest.raises(KeyError), one_thread():
        assert torch.get_num_threads() == 1
        raise KeyError
    assert torch.get_num_threads() == before


# ---- images and memory


def test_slide(weights):
    model = load_model(weights)
    small, large = slide(model, 96), slide(model, 700)
    assert small.shape == (3, 96, 96) and large.shape == (3, 700, 700) and small.dtype == np.float32
    assert np.array_equal(large[:, 512:], large[:, 511:323:-1]) and large.min() >= 0 and large.max() <= 1
    assert np.array_equal(large[:, 208:304, 208:304], small)


def test_peak_memory_is_that_of_the_child(weights):
    "What the parent needed does not count."
    filled = np.ones(2**27)
    one = alone(str(weights), 64, 2, "draft")
    assert 0 < one["before"] <= one["peak"] < resident() - filled.nbytes / 2 and one["seconds"] > 0
    assert resident("VmRSS") >= filled.nbytes


def test_a_child_that_fails_is_reported():
    with pytest.raises(RuntimeError, match="64 x 64 px, failed in its own process(.|\n)*nowhere"):
        alone("nowhere", 64, 2)
