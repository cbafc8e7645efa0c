"The benchmark: factors that multiply to the total, two ends that do the same, peaks of a process of its own."

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import one_call_network, random_network

from benchmarks import competitors
from benchmarks.benchmark import precision, precision_parts, run_benchmark
from benchmarks.competitors import DRIVERS, OPTIONAL, SCHEDULERS, gathered
from benchmarks.factors import Plain, one_by_one, steps_of_chain
from benchmarks.memory import DRAW, peak_memory
from benchmarks.resident import in_own_process, resident
from benchmarks.plan import FULL, QUICK, Plan, machine, one_thread, slide
from benchmarks.table import benchmark_table, frontier_table
from sdfdiff.diffusion.model import Model, load_model, save_weights
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.members import Denoiser
from sdfdiff.ensembles.method import METHODS, untuned
from sdfdiff.files import read_dataset, write_dataset

ROOT = Path(__file__).resolve().parents[1]
IMAGE = np.random.default_rng(0).random((3, 64, 64), dtype=np.float32)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, Model(one_call_network(3), about={"name": "tiny"}))
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
    "One run without any competitor, whether or not one is installed."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(competitors, "find_spec", lambda name: None)
        return run_benchmark(progress=False, plan=plan)


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
    assert timed["one call"] == 1
    assert ((measured.setting_timed > 0) & (measured.setting_timed <= 1)).all()


def test_the_result_can_be_stored_and_printed(measured, tmp_path):
    write_dataset(measured, tmp_path / "benchmark.nc")
    stored = read_dataset(tmp_path / "benchmark.nc", "sdfdiff benchmark")
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
    lines = benchmark_table(measured).splitlines()
    assert sum(line.endswith("  not installed") for line in lines) == len(SCHEDULERS) + 1 + 3
    assert "diffusers, MONAI, edt, OpenCV" in lines[-1] and ".[bench]" in lines[-1]


def test_the_shipped_numbers_can_be_printed(measured):
    "What was measured with everything installed has the form of what is measured today, or a part of it."
    shipped = read_dataset(ROOT / "data" / "benchmark.nc", "sdfdiff benchmark")
    text = benchmark_table(shipped)
    assert "not installed" not in text.lower() and f"{float(shipped.chain_factor[1, 0]):.2f} x" in text
    dims = {name: one.dims for name, one in measured.variables.items()}
    assert [name for name, one in shipped.variables.items() if one.dims != dims[name]] == []
    assert set(shipped.attrs) == set(measured.attrs)


def test_frontier_table():
    shipped = read_dataset(ROOT / "data" / "frontier_tissue.nc", "sdfdiff frontier")
    lines = frontier_table(shipped).splitlines()
    rows = [line.split() for line in lines if line.startswith(("default ", "reference "))]
    mean = shipped.mean("case")
    assert [row[0] for row in rows] == ["default", "reference"], "the cheapest first"
    for way, calls, *numbers in rows:
        one = mean.sel(way=way)
        names = {"f1_one": 100, "f1_mean": 100, "spread_ratio": 1, "spread_correlation": 1}
        assert int(calls) == one["calls"]
        expected = [scale * float(one[name]) for name, scale in names.items()]
        assert list(map(float, numbers)) == pytest.approx(expected, abs=0.01)
    assert f"{100 * float(shipped['f1_initial_estimate'].mean()):.2f}" in lines[-1] and "8 images" in lines[0]


def test_one_format_compared_with_itself(plan, monkeypatch):
    "The differences are those of the number format, and nothing else."
    model = load_model(plan.scenes, dtype=torch.float32)
    monkeypatch.setattr("benchmarks.benchmark.load_model", lambda name, dtype: model)
    found = precision(plan)
    assert (found.precision_f1_mean == 0).all() and (found.precision_f1_one == 0).all()
    np.testing.assert_allclose([found.precision_spread_ratio, found.precision_spread_correlation], 1)


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
    method = replace(sampling, members=3, seed=4)
    plain, model = load_model(weights, dtype=torch.float32), load_model(weights, dtype=dtype)
    naive = one_by_one(Plain(plain, IMAGE, again=True), plain, method, 3)
    fast = one_by_one(denoiser := Denoiser(model, IMAGE), model, method, 3, batch=3)
    assert float((naive - fast).std()) < within * float(naive.std())
    once = one_by_one(Plain(plain, IMAGE), plain, method, 3)
    torch.testing.assert_close(once, naive, atol=1e-6, rtol=0)
    if dtype == torch.float32:
        whole = ensemble(model, IMAGE, method, keep=3, workers=2, progress=False)
        mine = gathered(plain, denoiser, naive)
        np.testing.assert_allclose(whole["distance"], mine["distance"], atol=1e-2)
        np.testing.assert_allclose(whole["initial_estimate"], mine["initial_estimate"], atol=1e-5)
        assert {"reach_px", "boundary", "threshold_px"} <= set(mine.attrs)


def test_each_step_runs(plan):
    found = steps_of_chain(plan, load_model(plan.weights), slide(load_model(plan.weights), 64))
    assert list(found)[:4] == ["naive loop", "fewer calls", "encoder once", "number format"]
    assert list(found)[4:] == ["members in batches", "fused network", "workers", "the rest", "one call"]
    assert [bool(once) for _, _, once in found.values()] == [False, False, True, True, True, *4 * [False]]


def test_weights_without_a_generator_have_no_one_call(plan, tmp_path):
    "The chain ends with ten calls, nothing is drawn in one; what is left has the form of before."
    save_weights(tmp_path / "ten.safetensors", old := Model(random_network(3), about={"name": "ten"}))
    before = replace(plan, weights=str(tmp_path / "ten.safetensors"), scenes=str(tmp_path / "ten.safetensors"))
    assert list(steps_of_chain(before, old, slide(old, 64)))[-1] == "the rest"
    found = peak_memory(before).merge(precision_parts(before))
    assert not [name for name in found.variables if "one_call" in name or "fast" in name]
    more = peak_memory(plan).merge(precision_parts(plan))
    assert set(more.variables) - set(found.variables) == {
        *(f"large_one_call_{name}" for name in ("peak", "before", "seconds")),
        *(f"precision_fast_{name}" for name in ("f1_mean", "f1_one", "spread_ratio", "spread_correlation")),
    }


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


def test_peak_memory_is_that_of_the_child(weights, monkeypatch):
    "What the parent needed does not count."
    filled = np.ones(2**27)
    monkeypatch.chdir(weights.parent)  # from anywhere
    monkeypatch.delenv("PYTHONPATH", raising=False)
    one = in_own_process(DRAW, str(weights), 64, 2, "draft", 0)
    assert 0 < one["before"] <= one["peak"] < resident() - filled.nbytes / 2 and one["seconds"] > 0
    assert resident("VmRSS") >= filled.nbytes


def test_a_child_that_fails_is_reported():
    with pytest.raises(RuntimeError, match="64, 2, .* failed in its own process(.|\n)*nowhere"):
        in_own_process(DRAW, "nowhere", 64, 2, "draft", 0)
