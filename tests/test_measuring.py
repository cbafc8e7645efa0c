"The commands that measure and train: their words, their numbers, and what is said when something is wrong."

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
from PIL import Image
from shell import QUICK, files, no_work, refused, tiny

from benchmarks import frontier
from sdfdiff.command import parser
from sdfdiff.diffusion import fitting
from sdfdiff.diffusion.network import load_weights, save_weights
from sdfdiff.diffusion.sampling import SAMPLERS
from sdfdiff.ensembles import figures
from sdfdiff.ensembles.members import PAPER_GLANDS, PAPER_NUCLEI, QUALITY, Sampling
from sdfdiff.images.preparation import TISSUE
from sdfdiff.images.synthetic import tissue
from sdfdiff.options import QUALITIES, chosen_quality, chosen_workers

# ---- evaluate


@pytest.fixture
def dataset(place):
    "A plain folder of five images with masks, and weights for it."
    for part in ("images", "masks"):
        (place / "data" / part).mkdir(parents=True)
    for k in range(5):
        scene = tissue(k, (40, 48))
        Image.fromarray(np.round(scene.image * 255).astype(np.uint8)).save(f"data/images/{k}.png")
        Image.fromarray(scene.rate(np.random.default_rng(k)) > 0).save(f"data/masks/{k}.png")
    save_weights("colour.safetensors", tiny(TISSUE))
    return place


def evaluate(run, *words, root="data"):
    return run("evaluate", "folder", "--root", root, "--weights", "colour.safetensors", *QUICK, *words)


def test_evaluate(run, dataset):
    code, out, lines = evaluate(run, "--out", "new/a.nc", "--limit", "2")
    assert (code, lines) == (0, []) and files("new") == ["a.nc"] and "2 images" in out and "new/a.nc" in out
    for word in ("one_sample", "mmse", "majority", "paper", "half_pixel", "F1", "IoU", "pooled"):
        assert word in out
    assert evaluate(run, "--limit", "2")[1].strip() == out.rsplit("\n", 2)[0].strip() and files("new") == ["a.nc"]
    assert refused(evaluate(run, "--out", "new/a.nc"), "new/a.nc", "--force", "--resume")
    assert refused(evaluate(run, "--out", "new/a.nc", "--resume", "--seed", "1"), "new/a.nc", "seed")
    assert "5 images" in evaluate(run, "--out", "new/a.nc", "--resume")[1]


def test_evaluate_says_how_masks_are_drawn(run, dataset, monkeypatch):
    words = ("evaluate", "folder", "--root", "data", "--weights", "colour.safetensors", "--limit", "1", "--out", "a.nc")
    assert refused(run(*words, "--steps", "3"), "--sampler") and not Path("a.nc").exists()
    code, out, lines = run(*words, "--quality", "draft", "--members", "48", "--tolerance", "100", "--workers", "2")
    result = xr.load_dataset("a.nc", engine="h5netcdf")
    assert (code, lines) == (0, []) and "16 to 16 members" in out and result["members"].values.tolist() == [16]
    assert (result.attrs["members"], result.attrs["tolerance_px"], result.attrs["steps"]) == (
        48,
        100,
        QUALITY["draft"].steps,
    )
    assert refused(run(*words, "--quality", "draft", "--members", "48", "--resume"), "a.nc", "tolerance_px")


def test_evaluate_without_sense(run, dataset):
    Path("nothing").mkdir()
    before = files()
    assert refused(evaluate(run, root="missing"), "missing", "folder")
    assert refused(evaluate(run, root="nothing"), "nothing", "images/NAME.png")
    assert refused(run("evaluate", "folder", "--root", "data"), "--weights")
    assert refused(evaluate(run, "--sampler", "plms"), "plms")
    assert refused(run("evaluate", "glas", "--root", "data", "--weights", "tiny.safetensors"), "data", "testA")
    assert refused(run("evaluate", "monuseg", "--root", "data", "--weights", "missing"), "missing")
    assert files() == before


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda: Image.fromarray(np.zeros((9, 9), bool)).save("data/masks/1.png"), ["masks/1.png", "9 x 9", "40 x 48"]),
        (lambda: Path("data/masks/1.png").unlink(), ["no annotation", "1"]),
        (lambda: Path("data/masks/1.png").write_text("no mask"), ["masks/1.png", "not an image"]),
        (lambda: tifffile.imwrite("data/images/1.png", np.full((40, 48), np.nan, np.float32)), ["images/1.png", "NaN"]),
    ],
)
def test_evaluate_on_spoilt_data(run, dataset, spoil, words):
    spoil()
    assert refused(evaluate(run), *words)


# ---- train


class Stop:
    "Presses Ctrl-C after some training steps."

    def __init__(self, monkeypatch, after):
        watch = fitting.watch

        def stopped(steps, *arguments):
            def until():
                for step in steps:
                    yield step
                    if step.number == after:
                        steps.close()
                        raise KeyboardInterrupt

            return watch(until(), *arguments)

        monkeypatch.setattr(fitting, "watch", stopped)


def numbers(path):
    return {name: value.clone() for name, value in load_weights(path, dtype=torch.float32).network.state_dict().items()}


def test_train_stop_resume(run, place, small, monkeypatch):
    "Stopped after two of three steps and continued: the same weights, to the bit, as in one go."
    code, out, lines = run("train", "tissue", "--steps", "3", "--out", "new/whole.safetensors")
    assert (code, lines) == (0, []) and files("new") == ["whole.safetensors"]
    assert "3 steps" in out and "new/whole.safetensors" in out
    with monkeypatch.context() as patch:
        Stop(patch, 2)
        code, _, lines = run("train", "tissue", "--steps", "3", "--out", "part.safetensors")
        assert code == 130 and len(lines) == 1 and "--resume" in lines[0]
    assert Path("part.checkpoint.safetensors").exists() and not Path("part.safetensors").exists()
    before = files()
    refusal = run("train", "tissue", "--steps", "3", "--out", "part.safetensors")
    assert refused(refusal, "part.checkpoint.safetensors", "--resume", "--force") and files() == before
    assert run("train", "tissue", "--steps", "3", "--out", "part.safetensors", "--resume")[0] == 0
    assert not Path("part.checkpoint.safetensors").exists()
    whole, part = numbers("new/whole.safetensors"), numbers("part.safetensors")
    assert whole.keys() == part.keys() and all(torch.equal(whole[name], part[name]) for name in whole)
    assert load_weights("part.safetensors").about["recipe"] == load_weights("new/whole.safetensors").about["recipe"]


def test_train_then_evaluate_on_what_was_held_out(run, dataset, small):
    code, _, _ = run("train", "folder", "--root", "data", "--steps", "2", "--out", "own.safetensors", "--seed", "3")
    about = load_weights("own.safetensors").about
    assert code == 0 and about["recipe"]["seed"] == 3 and len(about["held_out"]) == 1 and about["name"] == "own"
    words = ("evaluate", "folder", "--root", "data", "--weights", "own.safetensors", *QUICK, "--out", "a.nc")
    assert run(*words, "--split", "validation")[0] == 0
    result = xr.load_dataset("a.nc", engine="h5netcdf")
    assert result["case"].values.tolist() == about["held_out"] and result["held_out"].all()
    assert run("segment", "photo.png", "--out", "out", "--weights", "own.safetensors", *QUICK)[0] == 0


def test_train_overwrites_nothing(run, place, small, monkeypatch):
    monkeypatch.setattr(fitting, "load_pairs", no_work)
    Path("a.safetensors").write_text("mine")
    for more in ([], ["--resume"]):
        assert refused(run("train", "tissue", "--out", "a.safetensors", *more), "a.safetensors", "--force")
    assert Path("a.safetensors").read_text() == "mine"


def test_train_without_sense(run, place, small):
    Path("nothing").mkdir()
    before = files()
    assert refused(run("train", "monuseg", "--out", "a.safetensors"), "--root")
    assert refused(run("train", "monuseg", "--root", "missing", "--out", "a.safetensors"), "missing")
    assert refused(run("train", "glas", "--root", "nothing", "--out", "a.safetensors"), "nothing", "train_N")
    assert refused(run("train", "tissue", "--out", "a.pt"), "a.pt", ".safetensors")
    assert files() == before


def test_a_checkpoint_of_something_else(run, dataset, small, monkeypatch):
    "No file is continued that another network, or no training at all, has written."
    Path("a.checkpoint.safetensors").write_text("no checkpoint")
    words = ("train", "tissue", "--steps", "2", "--out", "a.safetensors", "--resume")
    assert refused(run(*words), "a.checkpoint.safetensors")
    Path("a.checkpoint.safetensors").write_bytes(Path("tiny.safetensors").read_bytes())
    assert refused(run(*words), "a.checkpoint.safetensors")
    Path("a.checkpoint.safetensors").unlink()
    with monkeypatch.context() as patch:
        Stop(patch, 1)
        run(*words)
    before = Path("a.checkpoint.safetensors").read_bytes()
    wide = replace(fitting.SETTINGS["tissue"].architecture, width=24)
    monkeypatch.setitem(fitting.SETTINGS, "tissue", replace(fitting.SETTINGS["tissue"], architecture=wide))
    assert refused(run(*words), "a.checkpoint.safetensors")
    assert Path("a.checkpoint.safetensors").read_bytes() == before and not Path("a.safetensors").exists()


def test_a_checkpoint_survives_a_mistake(run, place, small):
    "--force replaces it when a new training begins, not when the data could not even be read."
    Path("a.checkpoint.safetensors").write_text("hours of work")
    assert refused(run("train", "monuseg", "--root", "missing", "--out", "a.safetensors", "--force"), "missing")
    assert Path("a.checkpoint.safetensors").exists()


# ---- bench


@pytest.fixture
def stub(monkeypatch):
    "A benchmark that takes no time."
    calls, module = [], ModuleType("benchmarks.benchmark")

    def benchmark(quick, progress):
        calls.append((quick, progress))
        return xr.Dataset({"seconds": ("task", [1.0, 2.0], {"units": "s"})}, attrs={"quick": int(quick)})

    module.benchmark = benchmark
    monkeypatch.setattr(figures, "benchmark_table", lambda dataset: f"{dataset.sizes['task']} tasks")
    monkeypatch.setitem(sys.modules, "benchmarks.benchmark", module)
    return module, calls


def test_bench(run, place, stub):
    before = files()
    assert run("bench")[:2] == (0, "2 tasks\n") and files() == before
    code, out, lines = run("bench", "--quick", "--out", "new/a.nc")
    assert (code, out, lines) == (0, "2 tasks\nnumbers: new/a.nc\n", []) and files("new") == ["a.nc"]
    assert xr.load_dataset("new/a.nc", engine="h5netcdf").attrs["quick"] == 1 and stub[1] == [
        (False, True),
        (True, True),
    ]
    assert refused(run("bench", "--out", "new/a.nc"), "new/a.nc", "--force") and len(stub[1]) == 2
    assert run("bench", "--out", "new/a.nc", "--force")[0] == 0
    assert xr.load_dataset("new/a.nc", engine="h5netcdf").attrs["quick"] == 0


@pytest.mark.parametrize(("problem", "expected"), [(KeyboardInterrupt(), 130), (ValueError("no torch here."), 1)])
def test_bench_writes_whole_or_not_at_all(run, place, stub, problem, expected):
    def stopped(*arguments):
        raise problem

    before = files()
    stub[0].benchmark = stopped
    code, _, lines = run("bench", "--out", "new/a.nc")
    assert code == expected and len(lines) == 1 and "--resume" not in lines[0] and files() == before


# ---- frontier


@pytest.fixture
def quick_ways(place, monkeypatch):
    "Two ways to sample instead of seventy, a short reference, a small network; the paper's settings that were asked for."
    asked = []

    def ways(paper):
        asked.append(paper)
        return {"two": Sampling("ddim", 2), "one": Sampling("dpm", 1)}

    monkeypatch.setattr(frontier, "ways", ways)
    monkeypatch.setitem(QUALITY, "reference", Sampling("dpm_sde", 1))
    save_weights("colour.safetensors", tiny(TISSUE))
    save_weights("grey.safetensors", tiny())
    return asked


def measured(run, *words, out="f.nc"):
    return run(
        "frontier", "tissue", "--weights", "colour.safetensors", "--images", "2", "--members", "3", "--out", out, *words
    )


def test_frontier(run, quick_ways):
    code, out, lines = measured(run, out="new/f.nc")
    assert (code, lines) == (0, []) and files("new") == ["f.nc"] and quick_ways == [("nuclei", "glands")]
    result = xr.load_dataset("new/f.nc", engine="h5netcdf")
    assert dict(result.sizes) == {"way": 2, "case": 2}
    assert (result.attrs["members"], result.attrs["reference_members"], result.attrs["seed"]) == (3, 128, 0)
    model = load_weights("colour.safetensors")
    expected = frontier.measure(model, frontier.examples("tissue", model, 2), frontier.ways(()), 3, 128, progress=False)
    xr.testing.assert_identical(result, expected)
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.startswith(("one", "two"))}
    assert list(rows) == ["one", "two"], "the cheapest first"
    mean = result.mean("case")
    for way, (calls, *numbers) in rows.items():
        row = mean.sel(way=way)
        assert int(calls) == {"one": 2, "two": 3}[way]
        names = {"f1_one": 100, "f1_mean": 100, "spread_ratio": 1, "spread_correlation": 1}
        assert [float(n) for n in numbers] == pytest.approx(
            [scale * float(row[name]) for name, scale in names.items()], abs=0.01
        )
    assert "new/f.nc" in out and "2 images" in out and f"{100 * float(result['f1_initial_estimate'].mean()):.2f}" in out


def test_frontier_stop_resume(run, quick_ways, monkeypatch):
    "Stopped in the second way and continued: the same numbers as in one go."
    judge, judged = frontier.judge, []

    def stopped(*arguments):
        judged.append(1)
        if len(judged) == 4:
            raise KeyboardInterrupt
        return judge(*arguments)

    monkeypatch.setattr(frontier, "judge", stopped)
    code, _, lines = measured(run)
    assert code == 130 and len(lines) == 1 and "--resume" in lines[0]
    assert xr.load_dataset("f.nc", engine="h5netcdf")["way"].values.tolist() == ["one"]
    before = Path("f.nc").read_bytes()
    assert refused(measured(run), "f.nc", "--force", "--resume")
    assert refused(measured(run, "--resume", "--seed", "1"), "f.nc", "seed") and Path("f.nc").read_bytes() == before
    assert measured(run, "--resume")[0] == 0 and len(judged) == 6
    assert measured(run, "--workers", "2", out="whole.nc")[0] == 0
    one, whole = (xr.load_dataset(name, engine="h5netcdf") for name in ("f.nc", "whole.nc"))
    xr.testing.assert_identical(one, whole)
    assert measured(run, "--resume")[0] == 0 and len(judged) == 10, "what is done is not measured again"
    assert measured(run, "--force", "--seed", "1")[0] == 0
    assert xr.load_dataset("f.nc", engine="h5netcdf").attrs["seed"] == 1


def test_frontier_without_sense(run, quick_ways, monkeypatch):
    monkeypatch.setattr(frontier, "ensemble", no_work)
    Path("old.nc").write_text("mine")
    before = files()
    assert refused(run("frontier", "monuseg", "--out", "f.nc"), "monuseg", "--root")
    assert refused(
        run("frontier", "glas", "--out", "f.nc", "--root", "missing", "--weights", "colour.safetensors"), "missing"
    )
    assert refused(measured(run, "--members", "1"), "--members")
    assert refused(measured(run, out="old.nc"), "old.nc", "--resume")
    assert refused(measured(run, "--resume", out="old.nc"), "old.nc", "--force")
    assert refused(measured(run, "--force", "--weights", "liver", out="old.nc"), "liver")
    assert files() == before and Path("old.nc").read_text() == "mine"


@pytest.mark.parametrize(
    ("dataset", "weights", "paper", "count"),
    [
        ("tissue", "tissue", ("nuclei", "glands"), 8),
        ("monuseg", "nuclei", ("nuclei",), 6),
        ("glas", "glands", ("glands",), 6),
    ],
)
def test_frontier_as_the_data_set_asks(run, quick_ways, monkeypatch, dataset, weights, paper, count):
    "Weights, number of images and the paper's setting belong to the data set."
    seen = []

    def examples(name, model, count, root):
        seen.append((name, model.about["name"], count, root))
        raise ValueError("enough seen.")

    def measure(*arguments):
        seen.append(arguments)
        raise ValueError("enough seen.")

    root = () if dataset == "tissue" else ("--root", "there")
    with monkeypatch.context() as patch:
        patch.setattr(frontier, "examples", examples)
        assert refused(run("frontier", dataset, *root, "--out", "f.nc"), "enough")
    assert seen == [(dataset, weights, count, Path("there") if root else None)]
    monkeypatch.setattr(frontier, "examples", lambda *arguments: [])
    monkeypatch.setattr(frontier, "measure", measure)
    assert refused(run("frontier", dataset, *root, "--out", "f.nc"), "enough") and quick_ways == [paper]


# ---- how the words become settings


def chosen(words):
    return chosen_quality(parser().parse_args(["demo", *words.split()]))


def test_qualities_and_samplers():
    assert chosen("") == "default" and chosen("--quality reference") == "reference"
    assert (chosen("--quality paper-nuclei"), chosen("--quality paper-glands")) == (PAPER_NUCLEI, PAPER_GLANDS)
    assert {name for name in QUALITIES if not name.startswith("paper")} == set(QUALITY)
    for name in SAMPLERS:
        paper = name in ("paper", "score_sde", "authors")
        expected = replace(PAPER_NUCLEI, sampler=name) if paper else Sampling(name)
        assert chosen(f"--sampler {name}") == expected
        assert chosen(f"--sampler {name} --steps 7") == replace(expected, steps=7)


@pytest.mark.parametrize(
    ("device", "cores", "threads", "workers"),
    [("cpu", 1, 1, 1), ("cpu", 6, 1, 6), ("cpu", 6, 2, 3), ("cpu", 2, 4, 1), ("cuda", 6, 1, 1)],
)
def test_workers_by_default(monkeypatch, device, cores, threads, workers):
    "Workers times threads is the number of cores that this process may use; an accelerator is not shared."
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model = SimpleNamespace(device=SimpleNamespace(type=device))
    assert chosen_workers(SimpleNamespace(workers=None), model) == workers
    assert chosen_workers(SimpleNamespace(workers=3), model) == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert chosen_workers(SimpleNamespace(workers=None), model) == 1


@pytest.mark.parametrize(("variable", "threads"), [(None, 1), ("2", 2)])
def test_a_prepared_process(variable, threads):
    "In a process of its own, since it cannot be undone: one thread unless the environment says otherwise, and kept memory."
    code = "import torch\nfrom sdfdiff import inference\nfrom sdfdiff.options import prepare_process\nkept = []\n"
    code += "inference.keep_memory = lambda: kept.append(1)\nprepare_process()\nprint(torch.get_num_threads(), kept)"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    environment |= {"OMP_NUM_THREADS": variable} if variable else {}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(threads), "[1]"], done.stderr
