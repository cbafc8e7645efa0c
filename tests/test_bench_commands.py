"The commands of the benchmarks: their words, their numbers, and what is said when something is wrong."

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
import xarray as xr
from shell import command, files, no_work, sentences, tiny
from small_studies import stopped_at

from benchmarks import benchmark, exports, frontier, table
from benchmarks.__main__ import main
from sdfdiff.diffusion.model import save_weights
from sdfdiff.ensembles.method import untuned
from sdfdiff.files import read_dataset
from sdfdiff.images.preparation import TISSUE
from sdfdiff.study import store
from sdfdiff.study.store import open_study

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(capsys):
    "Type a command; get exit code, what was printed, and the sentences among the progress bars."

    def typed(*words):
        code = main([str(word) for word in words])
        shown = capsys.readouterr()
        return code, shown.out, sentences(shown.err)

    return typed


def refused(outcome, *words):
    "One sentence that names what is wrong, and nothing else."
    code, _, lines = outcome
    assert code == 1 and len(lines) == 1, outcome
    assert lines[0].startswith("benchmarks: ") and lines[0].endswith(".")
    assert not [word for word in words if word not in lines[0]], lines[0]
    assert not re.search(r"Traceback|Error\(|Errno|=True|\.writing-", lines[0]), lines[0]
    return True


# ---- bench


@pytest.fixture
def stub(monkeypatch):
    "A benchmark that takes no time; how often it ran, and how."
    calls = []

    def run_benchmark(quick):
        calls.append(quick)
        return xr.Dataset({"seconds": ("task", [1.0, 2.0], {"units": "s"})}, attrs={"quick": int(quick)})

    monkeypatch.setattr(benchmark, "run_benchmark", run_benchmark)
    monkeypatch.setattr(table, "benchmark_table", lambda dataset: f"{dataset.sizes['task']} tasks")
    return calls


def test_bench(run, place, stub):
    before = files()
    assert run("bench") == (0, "2 tasks\n", []) and files() == before
    assert run("bench", "--quick", "--out", "new/a.nc") == (0, "2 tasks\nnumbers: new/a.nc\n", [])
    assert files("new") == ["a.nc"] and read_dataset("new/a.nc").attrs["quick"] == 1 and stub == [False, True]
    assert refused(run("bench", "--out", "new/a.nc"), "new/a.nc", "--force") and len(stub) == 2
    assert run("bench", "--out", "new/a.nc", "--force")[0] == 0
    assert read_dataset("new/a.nc").attrs["quick"] == 0


@pytest.mark.parametrize(("problem", "expected"), [(KeyboardInterrupt(), 130), (ValueError("no torch here."), 1)])
def test_bench_writes_whole_or_not_at_all(run, place, monkeypatch, problem, expected):
    def stopped(quick):
        raise problem

    before = files()
    monkeypatch.setattr(benchmark, "run_benchmark", stopped)
    code, _, lines = run("bench", "--out", "new/a.nc")
    assert code == expected and len(lines) == 1 and "--resume" not in lines[0] and files() == before


# ---- exports


def test_exports(run, place, monkeypatch):
    calls = []

    def study(*sizes, **options):
        calls.append(sizes)
        return xr.Dataset({"seconds": ("way", [1.0])})

    monkeypatch.setattr(exports, "export_study", study)
    monkeypatch.setattr(exports, "export_table", lambda result: f"{result.sizes['way']} ways")
    assert run("exports") == (0, "1 ways\n", [])
    assert run("exports", "--quick", "--out", "new/a.nc") == (0, "1 ways\nnumbers: new/a.nc\n", [])
    assert calls == [(), (20_000,)] and files("new") == ["a.nc"]
    assert refused(run("exports", "--out", "new/a.nc"), "new/a.nc", "--force") and len(calls) == 2


def test_exports_write_what_they_say(monkeypatch):
    "Labels and given polygons are the same objects; what is measured comes back, and is printed."
    one = exports.patch(100)
    slide, given = exports.Slide(one, 25), exports.given(one, 40)
    assert len(np.unique(one)) == 17 and slide.shape == (2500, 2500)
    labels = slide[:200, :200]
    assert (labels[:100, :100] == one).all() and len(np.unique(labels)) == 65
    shapes = exports.by_shapely(slide[:100, :300])
    for number, ((ring,),) in given:
        if number <= 16:
            assert shapes[number].equals(shapely.Polygon(ring))
    assert exports.in_own_process(exports.WRITE, "polygons", 10, ".geojson")["objects"] == 10
    monkeypatch.setattr(exports, "in_own_process", lambda name, *given: exports.write_alone(*given))
    monkeypatch.setattr(exports, "patch", lambda: one)
    result = exports.export_study(50, patches=1, rounds=1)
    assert result["many_objects"].values.tolist() == [50, 50, 64] and (result["many_size"] > 1000).all()
    text = exports.export_table(result)
    assert "polygons to .geojson.gz" in text and "16 objects to .geojson" in text and len(text.splitlines()) == 8


# ---- frontier


@pytest.fixture
def quick(place, monkeypatch):
    "Two ways to sample instead of ninety, a short long run, a small network; what was asked for."
    whole, asked = frontier.frontier_plan, []

    def frontier_plan(*words, **more):
        asked.append((*words, more))
        plan = whole(*words, **more)
        first, long = plan.methods[0], plan.methods[-1]
        about = {"weights": first.weights, "members": first.members, "seed": first.seed}
        ways = [replace(one, **about) for one in (untuned("dpm", 1, name="one"), untuned("ddim", 2, name="two"))]
        short = replace(long, sampler="dpm_sde", steps=1, members=4)
        return replace(plan, methods=(*ways, short))

    monkeypatch.setattr(frontier, "frontier_plan", frontier_plan)
    save_weights("colour.safetensors", tiny(TISSUE))
    return asked


def measured(run, *words, out="f.zarr"):
    few = ("--weights", "colour.safetensors", "--images", "2", "--members", "3")
    return run("frontier", "tissue", *few, "--out", out, *words)


def test_frontier(run, quick):
    code, out, lines = measured(run, "--numbers", "new/f.nc", out="new/f.zarr")
    assert (code, lines) == (0, []) and quick == [
        ("tissue", "colour.safetensors", 2, {"members": 3, "seed": 0, "only": (), "against": "long run"})
    ]
    result = read_dataset("new/f.nc", "sdfdiff frontier")
    xr.testing.assert_identical(result, frontier.judge(open_study("new/f.zarr")))
    assert dict(result.sizes) == {"way": 2, "case": 2} and result["calls"].values.tolist() == [2, 3]
    assert out == f"{table.frontier_table(result)}\nstudy: new/f.zarr; numbers: new/f.nc\n"


def test_frontier_stop_and_resume(run, quick, monkeypatch):
    "Stopped in the second image and continued: the same numbers as in one go, and nothing drawn twice."
    drawn = stopped_at(monkeypatch, 5)
    code, out, lines = measured(run, "--numbers", "f.nc")
    assert (code, out, len(lines)) == (130, "", 1) and "--resume" in lines[0] and not Path("f.nc").exists()
    assert refused(measured(run), "f.zarr", "--resume to continue it", "--force to start anew")
    assert refused(measured(run, "--resume", "--seed", "1"), "f.zarr", "another plan") and len(drawn) == 5
    assert measured(run, "--resume", "--numbers", "f.nc")[0] == 0 and len(drawn) == 7
    assert measured(run, "--workers", "2", "--numbers", "whole.nc", out="whole.zarr")[0] == 0 and len(drawn) == 13
    xr.testing.assert_identical(read_dataset("f.nc"), read_dataset("whole.nc"))
    assert refused(measured(run, "--resume", "--numbers", "f.nc"), "f.nc exists", "another file")
    assert measured(run, "--force", "--seed", "1", "--numbers", "f.nc")[0] == 0
    assert read_dataset("f.nc").attrs["seed"] == 1


def test_frontier_without_sense(run, quick, monkeypatch):
    monkeypatch.setattr(store, "ensemble", no_work)
    Path("old.nc").write_text("mine")
    Path("old.zarr").mkdir()
    before = files()
    assert refused(run("frontier", "monuseg", "--out", "f.zarr"), "monuseg", "--root")
    there = ("--root", "missing", "--weights", "colour.safetensors")
    assert refused(run("frontier", "glas", "--out", "f.zarr", *there), "missing")
    assert refused(measured(run, "--members", "1"), "--members of at least 2")
    assert refused(measured(run, "--resume", "--force"), "one of the two")
    assert refused(measured(run, out="f.nc"), "f.nc must end in .zarr")
    assert refused(measured(run, "--numbers", "f.zarr"), "f.zarr must end in .nc")
    assert refused(measured(run, "--numbers", "old.nc"), "old.nc", "--force")
    assert refused(measured(run, out="old.zarr"), "old.zarr", "--resume")
    assert refused(measured(run, "--resume", out="old.zarr"), "old.zarr is no store of a study")
    assert refused(measured(run, "--weights", "liver"), "liver")
    assert files() == before and Path("old.nc").read_text() == "mine"
    with pytest.raises(ValueError, match="needs --root"):
        run("--traceback", "frontier", "glas", "--out", "f.zarr")


# ---- as it is typed


def test_the_commands_are_found_in_the_root_of_a_checkout():
    "Help names both; a wrong word is argparse's to refuse."
    typed = [sys.executable, "-m", "benchmarks"]
    shown = subprocess.run([*typed, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert shown.returncode == 0 and "bench | exports | frontier" in shown.stdout
    wrong = subprocess.run([*typed, "race"], capture_output=True, text=True, cwd=ROOT)
    assert wrong.returncode == 2 and "race" in wrong.stderr and "Traceback" not in wrong.stderr


def test_ctrl_c_in_the_frontier(tmp_path):
    "Interrupted once when the store is there, it says one sentence."
    code = "from benchmarks.__main__ import main\nsys.exit(main())"
    running = command(code, "frontier", "tissue", "--out", tmp_path / "f.zarr", "--images", "1", cwd=ROOT)
    until = time.monotonic() + 120
    while not (tmp_path / "f.zarr").exists() and running.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130 and out == "", err
    assert sentences(err) == ["benchmarks: stopped; nothing half-written was left; continue with --resume"]
    assert not any(name.startswith(".writing") for name in files(tmp_path))
