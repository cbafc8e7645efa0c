"The commands that measure and train: their words, their numbers, and what is said when something is wrong."

import io
import os
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
from PIL import Image
from shell import QUICK, files, no_work, refused, tiny

from sdfdiff import measuring
from sdfdiff.beyond.class_models import CELL_SETTING
from sdfdiff.command import parser
from sdfdiff.diffusion import fitting
from sdfdiff.diffusion.model import load_model, save_weights
from sdfdiff.diffusion.sampling import SAMPLERS
from sdfdiff.ensembles.method import METHODS, Method, method_of, untuned
from sdfdiff.images.downloads import SOURCES
from sdfdiff.images.layouts import LAYOUTS
from sdfdiff.images.preparation import TISSUE
from sdfdiff.images.synthetic import tissue
from sdfdiff.options import chosen_method, chosen_workers
from sdfdiff.provenance import SHIPPED
from sdfdiff.study.plan import from_json
from sdfdiff.study.store import open_study

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
    code, out, lines = evaluate(run, "--out", "new/a.zarr", "--limit", "2")
    assert (code, lines) == (0, []) and Path("new/a.zarr").is_dir() and "2 images" in out and "new/a.zarr" in out
    for word in ("one_sample", "mmse", "majority", "initial_estimate", "paper", "half_pixel", "F1", "IoU", "pooled"):
        assert word in out
    before = files()
    assert evaluate(run, "--limit", "2")[1].strip() == out.rsplit("\n", 2)[0].strip() and files() == before
    assert refused(evaluate(run, "--out", "new/a.zarr", "--limit", "2"), "new/a.zarr", "--force", "--resume")
    assert refused(
        evaluate(run, "--out", "new/a.zarr", "--resume", "--seed", "1", "--limit", "2"), "new/a.zarr", "methods"
    )
    assert refused(evaluate(run, "--resume"), "--out") and refused(evaluate(run, "--out", "a.nc"), "a.nc", ".zarr")
    assert "2 images" in evaluate(run, "--out", "new/a.zarr", "--resume", "--limit", "2")[1] and files() == before
    assert "5 images" in evaluate(run, "--out", "new/a.zarr", "--force")[1]


def test_evaluate_says_how_masks_are_drawn(run, dataset):
    words = (
        "evaluate",
        "folder",
        "--root",
        "data",
        "--weights",
        "colour.safetensors",
        "--limit",
        "1",
        "--out",
        "a.zarr",
    )
    assert refused(run(*words, "--steps", "3"), "--sampler") and not Path("a.zarr").exists()
    assert refused(run(*words, "--tolerance", "100"), "100 px", "at most 2.58 px") and not Path("a.zarr").exists()
    code, out, lines = run(*words, "--quality", "draft", "--members", "48", "--tolerance", "2.5", "--workers", "2")
    study = open_study("a.zarr")
    assert (code, lines) == (0, []) and "method draft, 16 members" in out and study["drawn"].values.tolist() == [[16]]
    (method,) = from_json(study.attrs["plan"]).methods
    assert method == method_of("draft", members=48, tolerance=2.5, weights="colour.safetensors")
    assert refused(run(*words, "--quality", "draft", "--members", "48", "--resume"), "a.zarr", "methods")


def test_evaluate_without_sense(run, dataset):
    Path("nothing").mkdir()
    before = files()
    assert refused(evaluate(run, root="missing"), "missing", "folder")
    assert refused(evaluate(run, root="nothing"), "nothing", "images/NAME.png")
    assert refused(run("evaluate", "folder", "--root", "data"), "--weights")
    assert refused(evaluate(run, "--members", "1"), "1 members", "2")
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


def test_evaluate_objects(run, dataset):
    "A table of objects and one file; words that do not go together are refused before any work."
    Path("one").mkdir()
    labels = np.asarray(Image.open("data/masks/1.png")).astype(np.uint16)
    labels[:, 24:] *= 2
    Image.fromarray(labels).save("one/1.png")
    words = ("--objects", "--instances", "one")
    code, out, lines = evaluate(run, *words, "--out", "o.nc")
    assert (code, lines) == (0, []) and "1 images" in out and "o.nc" in out
    for word in ("AJI", "PQ", "DQ", "SQ", "Dice", "Hausdorff", "P(exists)", "left out", "as one set"):
        assert word in out
    with xr.open_dataset("o.nc") as kept:
        assert kept["case"].values.tolist() == ["1"] and {"intersection", "iou", "exists"} <= {*kept}
    assert refused(evaluate(run, *words, "--out", "o.nc"), "o.nc", "--force")
    assert evaluate(run, *words, "--out", "o.nc", "--force")[0] == 0
    before = files()
    assert refused(evaluate(run, *words, "--out", "o.zarr"), "--out NAME.nc")
    assert refused(evaluate(run, *words, "--out", "p.nc", "--resume"), "--resume")
    assert refused(evaluate(run, "--instances", "one"), "--objects")
    assert refused(evaluate(run, "--calibration", "o.nc"), "--calibration belongs to --objects")
    assert refused(evaluate(run, *words, "--calibration", "o.nc"), "o.nc holds no calibration of P(exists)")
    assert "no calibration of P(exists): it needs right and false objects of 2 patients" in out
    classes = ("evaluate", "classes", "--root", "data", "--calibration", "o.nc")
    assert refused(run(*classes), "--calibration does not belong to evaluate classes")
    assert refused(evaluate(run, "--objects", "--instances", "nowhere"), "nowhere", "folder")
    assert files() == before


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
    return {name: value.clone() for name, value in load_model(path, dtype=torch.float32).network.state_dict().items()}


def test_train_stop_resume(run, place, small, monkeypatch):
    "Stopped after two of three steps and continued: the same weights, to the bit, as in one go."
    words = ("train", "tissue", "--steps", "3", "--out", "new/whole.safetensors")
    code, out, lines = run(*words, "--tensorboard", "events")
    assert [*Path("events").glob("events.*")]
    assert (code, lines) == (0, []) and files("new") == ["whole.csv", "whole.safetensors"]
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
    assert load_model("part.safetensors").about["recipe"] == load_model("new/whole.safetensors").about["recipe"]


def test_train_then_evaluate_on_what_was_held_out(run, dataset, small):
    words = ("train", "folder", "--root", "data", "--steps", "2", "--seed", "3")
    code, out, _ = run(*words, "--out", "own.safetensors", "--best")
    about = load_model("own.safetensors").about
    assert "own.csv" in out and "of step 2" in out and len(about["chosen_on"]) == 1
    assert not set(about["chosen_on"]) & set(about["held_out"])
    assert run(*words, "--out", "all.safetensors", "--no-validation")[0] == 0
    assert load_model("all.safetensors").about["chosen_on"] == []
    assert refused(run(*words, "--out", "b.safetensors", "--no-validation", "--best"), "--best", "--no-validation")
    assert code == 0 and about["recipe"]["seed"] == 3 and len(about["held_out"]) == 1 and about["name"] == "own"
    words = ("evaluate", "folder", "--root", "data", "--weights", "own.safetensors", *QUICK, "--out", "a.zarr")
    assert run(*words, "--split", "validation")[0] == 0
    result = open_study("a.zarr")
    assert result["case"].values.tolist() == about["held_out"] and result["held_out"].all()
    assert run("segment", "photo.png", "--out", "out", "--weights", "own.safetensors", *QUICK)[0] == 0


def test_train_on_instances(run, dataset, small):
    "Label images beside the images; the weights remember the line, and so do ensembles. Bad labels: one sentence."
    Path("one").mkdir()
    for k in range(5):
        labels = np.asarray(Image.open(f"data/masks/{k}.png")).astype(np.uint16)
        labels[:, 24:] *= 2
        Image.fromarray(labels).save(f"one/{k}.png")
    words = ("train", "folder", "--root", "data", "--steps", "2", "--instances", "one", "--no-validation")
    assert run(*words, "--out", "a.safetensors")[::2] == (0, [])
    about = load_model("a.safetensors").about
    assert about["line"] == 2
    assert run(*words, "--out", "b.safetensors", "--line", "0")[0] == 0
    assert load_model("b.safetensors").about["line"] == 0
    assert run("segment", "photo.png", "--out", "out", "--weights", "a.safetensors", *QUICK)[0] == 0
    with xr.open_dataset("out/photo.nc") as kept:
        assert kept.attrs["line_px"] == 2
    known = next(str(k) for k in range(5) if str(k) not in about["held_out"])
    label = Path(f"one/{known}.png")
    whole, before = label.read_bytes(), files()
    words = (*words, "--out", "c.safetensors")
    Image.fromarray(np.ones((9, 9), np.uint16)).save(label)
    assert refused(run(*words), label.name, "9 x 9", "40 x 48")
    label.unlink()
    tifffile.imwrite(label.with_suffix(".tif"), np.linspace(0, 9, 40 * 48, dtype=np.float32).reshape(40, 48))
    assert refused(run(*words), f"{known}.tif", "fractions", "whole numbers")
    label.with_suffix(".tif").unlink()
    code, _, lines = run(*words)
    assert code == 0 and len(lines) == 1 and "1 of 4 images have no label image in one" in lines[0]
    Path("c.safetensors").unlink(), Path("c.csv").unlink(missing_ok=True), label.write_bytes(whole)
    assert refused(run(*words[:-4], "data/images/..", "--out", "c.safetensors"), "none named as an image")
    assert refused(run(*words[:-4], "nowhere", "--out", "c.safetensors"), "nowhere", "not a folder")
    assert refused(run(*words, "--line", "-1"), "--line is -1")
    assert refused(run("train", "tissue", "--out", "c.safetensors", "--line", "1"), "tissue")
    assert files() == before


def test_evaluate_leaves_out_what_the_weights_were_trained_on(run, dataset):
    save_weights("own.safetensors", replace(tiny(TISSUE), about={"name": "own", "held_out": ["2", "4"]}))
    words = ("evaluate", "folder", "--root", "data", "--weights", "own.safetensors", *QUICK, "--limit", "1")
    first = "measured are the images that own.safetensors held out of training; --split train takes all"
    code, out, lines = run(*words, "--out", "a.zarr")
    assert (code, lines, out.splitlines()[0]) == (0, [], first)
    assert open_study("a.zarr")["case"].values.tolist() == ["2"]
    code, out, lines = run(*words, "--out", "b.zarr", "--split", "train")
    assert (code, lines) == (0, []) and out.startswith("folder train: 1 images")
    assert open_study("b.zarr")["case"].values.tolist() == ["0"]


def test_layers_of_annotations_are_chosen(run, dataset, small):
    "A rectangle per layer; one layer alone is the truth that is measured and learned."
    for path in Path("data/masks").iterdir():
        boxes = [(4, 4, 12, 12), (20, 20, 30, 40)]
        layers = (
            f'<Annotation Name="{name}"><Region Type="1"><Vertex X="{left}" Y="{top}"/>'
            f'<Vertex X="{right}" Y="{bottom}"/>'
            "</Region></Annotation>"
            for name, (top, left, bottom, right) in zip(("small", "large"), boxes, strict=True)
        )
        path.with_suffix(".xml").write_text(f"<Annotations>{''.join(layers)}</Annotations>")
        path.unlink()
    assert evaluate(run, "--limit", "1", "--out", "a.zarr", "--layers", "2")[0] == 0
    study = open_study("a.zarr")
    assert int(study["truth"].sum()) == 231 and from_json(study.attrs["plan"]).layers == ("2",)
    assert refused(evaluate(run, "--limit", "1", "--out", "a.zarr", "--resume"), "a.zarr", "layers")
    assert refused(evaluate(run, "--layers", "huge"), "0.xml has no layer 'huge'; there are 1 small, 2 large.")
    assert refused(run("train", "folder", "--root", "data", "--out", "b.safetensors", "--layers", "huge"), "'huge'")
    assert refused(run("train", "tissue", "--out", "b.safetensors", "--layers", "huge"), "scene 1000 has no layers")


def test_train_overwrites_nothing(run, place, small, monkeypatch):
    monkeypatch.setattr(fitting, "load_training_data", no_work)
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


# ---- how the words become settings


def chosen(words, weights="nuclei"):
    return chosen_method(parser().parse_args(["segment", "a.png", "--out", "b", *words.split()]), weights)


def test_qualities_and_samplers():
    for name in METHODS:
        assert chosen(f"--quality {name}") == method_of(name, weights="nuclei")
    for weights in SHIPPED:  # in one call by weights that can
        assert chosen("", weights) == method_of("default" if weights == "tissue" else "fast", weights=weights)
    for name in SAMPLERS:
        paper = name in ("paper", "score_sde", "authors")
        expected = replace(METHODS["paper-nuclei"], sampler=name) if paper else untuned(name)
        expected = replace(expected, name=name, weights="nuclei")
        assert chosen(f"--sampler {name}") == expected
        assert chosen(f"--sampler {name} --steps 7") == replace(expected, steps=7)
    words = "--members 5 --seed 7 --reach 2.5 --tolerance 0.5"
    assert chosen(words, "tissue") == Method(members=5, seed=7, reach=2.5, tolerance=0.5, weights="tissue")


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
    "In a process of its own, as it cannot be undone: one thread unless the environment says otherwise, kept memory."
    code = "import torch\nfrom sdfdiff.ensembles import fused\nfrom sdfdiff.options import prepare_process\nkept = []\n"
    code += "fused.keep_memory = lambda: kept.append(1)\nprepare_process()\nprint(torch.get_num_threads(), kept)"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    }
    environment |= {"OMP_NUM_THREADS": variable} if variable else {}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(threads), "[1]"], done.stderr


# ---- data, and what a folder's training is told


def test_words_of_the_help_are_those_of_the_package():
    assert measuring.FOLDER == LAYOUTS["folder"]
    said = {
        name: int(steps)
        for names, steps in re.findall(r"([a-z_ ]+?) (\d+)", measuring.STEPS)
        for name in names.split(" and ")
    }
    assert {name.strip(): steps for name, steps in said.items()} == {
        name: fitting.setting_of(name).recipe.steps for name in fitting.SETTINGS
    } | {"classes": CELL_SETTING.recipe.steps}
    for words in (["get", name, "--to", "a"] for name in SOURCES):
        assert parser().parse_args(["data", *words]).dataset in SOURCES
    for name in LAYOUTS:
        assert parser().parse_args(["data", "check", "a", "--dataset", name]).dataset == name


def test_data_check_says_all_and_fails(run, dataset, place):
    code, out, lines = run("data", "check", "data")
    assert (code, lines) == (0, []) and "no problem was found" in out
    next(Path("data").rglob("masks/*")).unlink()
    code, out, lines = run("data", "check", "data", "--dataset", "folder")
    assert code == 1 and "has no annotation" in out and lines == ["sdfdiff: data has 1 problem: see above."]


def test_data_get_shows_the_licence_and_unpacks(run, place):
    assert refused(run("data", "get", "monuseg", "--to", "new"), "CC BY-NC-SA 4.0", "--accept to accept it")
    assert refused(run("data", "get", "monuseg", "--to", "new", "--accept"), "log in at https://")
    with zipfile.ZipFile("mine.zip", "w") as file:
        for kind, suffix in (("Tissue Images", "tif"), ("Binary Masks", "png")):
            for k, name in enumerate(("TCGA-AA-1", "TCGA-BB-2")):
                picture = np.full((40, 40, 3), 50 * k, np.uint8) if suffix == "tif" else np.eye(40, dtype=np.uint8)
                with io.BytesIO() as memory:
                    Image.fromarray(picture).save(memory, {"tif": "TIFF", "png": "PNG"}[suffix])
                    file.writestr(f"train/{kind}/{name}.{suffix}", memory.getvalue())
    code, out, lines = run("data", "get", "monuseg", "--to", "new", "--accept", "--archive", "mine.zip")
    assert (code, lines) == (0, []) and "recorded now, compared with nothing" in out and "2 images" in out
    assert refused(run("data", "get", "monuseg", "--to", "new", "--accept", "--archive", "mine.zip"), "not empty")


def test_scale_stain_and_crop_of_a_training(run, dataset, small, place):
    words = ("train", "folder", "--root", "data", "--steps", "2", "--no-validation")
    assert run(*words, "--scale", "0.5", "--stain", "none", "--crop", "32", "--out", "a.safetensors")[0] == 0
    about = load_model("a.safetensors")
    assert about.preparation.scale == 0.5 and about.preparation.stain == "none" and about.about["crop"] == 32
    assert refused(run(*words, "--crop", "40", "--out", "b.safetensors"), "--crop is 40", "multiple of 16")
    assert refused(run("train", "tissue", "--scale", "2", "--out", "b.safetensors"), "scenes of tissue have none")
    assert not Path("b.safetensors").exists()
