"The command as a user meets it: exit codes, one sentence per mistake, nothing half-written, nothing overwritten."

import gzip
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import xarray as xr
from PIL import Image
from safetensors.torch import save_file
from small_networks import calibration_file, random_network
from shell import QUICK, command, files, no_work, picture, refused, sentences, tiny

import sdfdiff
from sdfdiff.provenance import OUTPUTS, weights_header
from sdfdiff.command import main
from sdfdiff.diffusion import fitting
from sdfdiff.diffusion.model import save_weights
from sdfdiff.diffusion.sampling import SAMPLERS
from sdfdiff.ensembles import segmentation as segmenting
from sdfdiff.ensembles.method import METHODS, QUALITIES, untuned
from sdfdiff.images.preparation import TISSUE
from sdfdiff.study.plan import StudyPlan, to_json


def results(*stems, out="out"):
    return sorted(f"{out}/{stem}{ending}" for stem in stems for ending in OUTPUTS)


def segment(run, *words, weights="tiny.safetensors", out="out", quick=QUICK):
    return run("segment", "--out", out, "--weights", weights, *quick, *words)


# ---- first steps


def test_help_and_version_are_quick():
    "No word of help needs torch, NumPy or a picture."
    process = command("""
        from contextlib import redirect_stdout
        from io import StringIO
        from sdfdiff.command import main
        names = ("demo", "segment", "explore", "evaluate", "train", "study", "table", "report")
        for words in (["--help"], ["--version"], [], *([name, "--help"] for name in names)):
            with redirect_stdout(StringIO()) as shown:
                try:
                    code = main(words)
                except SystemExit as stop:
                    code = stop.code
            assert code == 0 and shown.getvalue().strip(), words
        print(*sys.modules)
    """)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert {"torch", "numpy", "matplotlib", "xarray", "skimage"}.isdisjoint(out.split()) and "argparse" in out.split()


def test_version(run):
    assert run("--version") == (0, f"sdfdiff {sdfdiff.__version__}\n", [])


@pytest.mark.parametrize("name", ["demo", "segment", "evaluate"])
def test_help_names_every_sampler_and_quality(run, name):
    "And what each quality costs: it is written there by hand."
    code, out, _ = run(name, "--help")
    assert code == 0 and not [sampler for sampler in SAMPLERS if not re.search(rf"\b{sampler}\b", out)]
    help = " ".join(out.split()).replace("- ", "-")  # a line may end in a hyphen
    fast, draft, default, reference = (METHODS[quality].calls for quality in QUALITIES)
    assert f"fast, draft, default or reference, of {fast}, {draft}, {default} and {reference} network calls" in help
    assert (
        f"flow, of {METHODS['flow'].calls}; paper-nuclei or paper-glands, the paper's, of "
        f"{METHODS['paper-nuclei'].calls} and {METHODS['paper-glands'].calls}" in help
    )


@pytest.mark.parametrize(
    "words",
    [
        "nonsense",
        "segment",
        "segment a.png",
        "segment a.png --out x --members 0",
        "segment a.png --out x --steps 1.5",
        "segment a.png --out x --quality best",
        "demo --quality paper",
        "segment a.png --out x --workers 0",
        "demo --workers two",
        "segment a.png --out x --tolerance 0",
        "segment a.png --out x --tolerance -1",
        "demo --tolerance nan",
        "segment a.png --out x --sampler plms",
        "train tissue --out x --workers 2",
        "segment a.png --out x --stain giemsa",
        "segment a.png --out x --seed one",
        "evaluate coco --root .",
        "evaluate glas",
        "evaluate glas --root . --split all",
        "evaluate glas --root . --limit -1",
        "train tissue",
        "train tissue --minutes soon",
    ],
)
def test_words_without_sense_are_code_2(run, place, words):
    "argparse shows the usage, and what is wrong in the last line."
    code, out, lines = run(*words.split())
    assert code == 2 and not out and lines[0].startswith("usage: sdfdiff") and "error:" in lines[-1]
    assert files() == ["photo.png", "tiny.safetensors"]


@pytest.mark.parametrize(
    "words",
    [
        "segment photo.png --out out --weights tiny.safetensors --members 1 --seed 9999999999999999999999999",
        "train tissue --steps 1 --out a.safetensors --seed 9999999999999999999999999",
        "train tissue --out a.safetensors --minutes 0",
        "train tissue --out a.safetensors --minutes -5",
        "train tissue --out a.safetensors --minutes nan",
        "train tissue --out a.safetensors --minutes inf",
    ],
)
def test_numbers_without_sense(run, place, small, monkeypatch, words):
    "Seeds that no generator takes, times that no clock shows: named, and refused before any work."
    monkeypatch.setattr(fitting, "watch", no_work)
    monkeypatch.setattr(segmenting, "ensemble", no_work)
    code, out, lines = run(*words.split())
    assert code in (1, 2) and not out and re.search("seed|minutes", lines[-1]) and "cannot convert" not in lines[-1]
    assert files() == ["photo.png", "tiny.safetensors"]


# ---- segment


def test_segment(run, place):
    code, out, lines = segment(run, "photo.png")
    assert (
        (code, lines) == (0, [])
        and files("out") == files(place / "out")
        and files() == sorted(["photo.png", "tiny.safetensors", *results("photo")])
    )
    assert re.fullmatch(
        r"photo\.png: \d+ objects?, \d+ doubtful \(P < 0\.8\), [\d.]+ % object \([\d.]+ to [\d.]+ in single members\), "
        r"64x48 px at 0\.25 um/px \(assumed\) -> 32x24 px at 0\.5 um/px, "
        r"[\d.]+ s -> out/photo_mask\.png\n",
        out,
    )
    with Image.open("out/photo_mask.png") as mask:
        assert mask.size == (64, 48)
    attributes = xr.load_dataset("out/photo.nc", engine="h5netcdf").attrs
    wanted = {"weights": "tiny", "members": 2, "steps": 2, "seed": 0, "source": "photo.png", "sampler": "dpm_sde"}
    assert {key: attributes[key] for key in wanted} == wanted


def test_the_same_words_give_the_same_masks(run, place):
    for out in ("a", "b"):
        assert segment(run, "photo.png", "--seed", "7", out=out)[0] == 0
    one, two = (xr.load_dataset(f"{out}/photo.nc", engine="h5netcdf") for out in ("a", "b"))
    xr.testing.assert_identical(one, two)
    assert Path("a/photo_mask.png").read_bytes() == Path("b/photo_mask.png").read_bytes() and one.attrs["seed"] == 7


def test_one_member_has_no_uncertainty(run, place):
    code, out, _ = segment(run, "photo.png", "--members", "1")
    assert code == 0 and "how sure they are needs two members" in out and "0.000" not in out
    shown = np.asarray(Image.open("out/photo_uncertainty.png"))[:48, :64]
    assert (shown == 128).all()  # grey: neither bright nor black


def test_an_image_that_the_weights_cannot_know(run, place):
    Image.fromarray(picture() // 8).save("night.png")
    assert refused(segment(run, "night.png"), "night.png", "dark", "--anyway") and files("out") == []
    code, out, lines = segment(run, "night.png", "--anyway")
    assert code == 0 and "% object" in out and len(lines) == 1 and "night.png: the ground is dark" in lines[0]


def dark_case():
    for folder, array in (("images", picture() // 8), ("masks", 255 * (picture()[..., 0] > 128).astype(np.uint8))):
        Path("data", folder).mkdir(parents=True)
        Image.fromarray(array).save(f"data/{folder}/night.png")


def test_evaluate_looks_at_the_images_too(run, place):
    dark_case()
    words = ("evaluate", "folder", "--root", "data", "--weights", "tiny.safetensors", *QUICK)
    assert refused(run(*words), "night", "dark", "--anyway")
    code, out, lines = run(*words, "--anyway")
    assert code == 0 and "F1" in out and any("night: the ground is dark" in line for line in lines)


def test_a_study_looks_at_the_images_too(run, place):
    dark_case()
    method = untuned("dpm_sde", 2, name="quick", weights="tiny.safetensors", members=2)
    Path("plan.json").write_text(to_json(StudyPlan("folder", (method,), "all")))
    words = ("study", "plan.json", "--root", "data", "--out", "study.zarr")
    assert refused(run(*words), "night", "dark", "--anyway") and not Path("study.zarr").exists()
    code, _, lines = run(*words, "--anyway")
    assert code == 0 and any("night: the ground is dark" in line for line in lines)


def test_a_folder_of_images(run, place):
    Path("photos").mkdir()
    for name in ("b.png", "a.jpg", "c.TIF", "notes.txt"):
        Image.fromarray(picture()).save(f"photos/{name}", **({"format": "PNG"} if name == "notes.txt" else {}))
    Path("photos/._a.jpg").write_bytes(b"Mac OS X        ")  # what macOS writes beside a file on foreign disks
    code, out, _ = segment(run, "photos", "photo.png")
    *lines, last = out.splitlines()
    assert code == 0 and [line.split(":")[0] for line in lines] == ["a.jpg", "b.png", "c.TIF", "photo.png"]
    assert re.search(r" \(image 3 of 4(, about \d+ s left)?\)$", lines[2]) and re.fullmatch(r"4 of 4 .* in \d+ s", last)
    assert [f"out/{name}" for name in files("out")] == results("a", "b", "c", "photo")


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (["--sampler", "heun"], {"sampler": "heun", "steps": 2, "spacing": "karras"}),
        (["--sampler", "paper"], {"sampler": "paper", "spacing": "geometric", "corrections": 2, "ratio": 0.35}),
        (["--sampler", "authors"], {"sampler": "authors", "spacing": "geometric", "corrections": 2, "final": 0}),
        (["--scale", "1", "--stain", "none"], {"scale": 1.0, "stain": "none"}),
        (["--tolerance", "0.5"], {"tolerance_px": 0.5, "members": 2}),
    ],
)
def test_options_are_used(run, place, option, expected):
    assert segment(run, "photo.png", *option)[0] == 0
    attributes = xr.load_dataset("out/photo.nc", engine="h5netcdf").attrs
    assert {key: attributes[key] for key in expected} == expected


# ---- how masks are drawn


DRAFT = ("--quality", "draft", "--members")


def stored(name="out/photo.nc"):
    return xr.load_dataset(name, engine="h5netcdf")


def contents(folder):
    return {name: Path(folder, name).read_bytes() for name in files(folder)}


@pytest.mark.parametrize("quality", ["draft", None])
def test_a_quality_is_used(run, place, quality):
    words = ("--quality", quality) if quality else ()
    assert segment(run, "photo.png", quick=("--members", "2", *words))[0] == 0
    expected = METHODS[quality or "default"]
    attributes = stored().attrs
    assert (attributes["calls_per_member"], attributes["sampler"]) == (expected.calls, expected.sampler)
    assert (attributes["steps"], attributes["first"], attributes["growth"]) == (
        expected.steps,
        expected.first,
        expected.growth,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--steps 3", ["--steps", "--sampler"]),
        ("--quality draft --steps 3", ["--steps", "--sampler"]),
        ("--quality draft --sampler heun", ["--quality", "--sampler", "one"]),
    ],
)
def test_two_ways_to_say_how_are_not_mixed(run, place, monkeypatch, words, said):
    monkeypatch.setattr(segmenting, "segment", no_work)
    assert refused(segment(run, "photo.png", quick=words.split()), *said) and not Path("out").exists()


def test_workers_change_nothing_but_the_time(run, place):
    for workers in ("1", "2", "5"):
        assert segment(run, "photo.png", "--workers", workers, quick=(*DRAFT, "5"), out=workers)[0] == 0
    assert contents("1") == contents("2") == contents("5")


def test_as_many_workers_as_cores(run, place, monkeypatch):
    draw, workers = segmenting.ensemble, []

    def noted(*arguments, **options):
        workers.append(options["workers"])
        return draw(*arguments, **options)

    monkeypatch.setattr(segmenting, "ensemble", noted)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 8}, raising=False)
    for number, words in enumerate(((), ("--workers", "2"))):
        assert segment(run, "photo.png", *words, out=str(number))[0] == 0
    assert workers == [3, 2]


def test_tolerance_stops_early(run, place):
    "Twice the members that are looked at first: a generous tolerance needs half of them, a strict one all."
    for pixels, members in (("2.5", 16), ("0.0001", 32)):
        code, out, lines = segment(run, "photo.png", "--tolerance", pixels, quick=(*DRAFT, "32"), out=pixels)
        assert (code, lines) == (0, []) and out.startswith(f"photo.png: {members} members, ")
        assert stored(f"{pixels}/photo.nc").sizes["every_member"] == members
    assert segment(run, "photo.png", quick=(*DRAFT, "16"), out="16")[0] == 0
    one, other = stored("16/photo.nc"), stored("2.5/photo.nc")
    xr.testing.assert_identical(one.drop_attrs(), other.drop_attrs())


# ---- more members


def test_add_gives_what_one_run_would_have_given(run, place):
    "To the bit, in several rounds, beside an image that had no results."
    Image.fromarray(picture()[:, ::-1]).save("second.png")
    assert segment(run, "photo.png", quick=(*DRAFT, "2"))[0] == 0
    code, out, lines = segment(run, "photo.png", "second.png", "--add", quick=(*DRAFT, "3"))
    assert (code, lines) == (0, []) and re.match(r"photo.png: 3 members, .*\nsecond.png: 3 members, .*\n", out)
    assert segment(run, "photo.png", "second.png", "--add", "--workers", "2", quick=(*DRAFT, "7"))[0] == 0
    assert segment(run, "photo.png", "second.png", quick=(*DRAFT, "7"), out="whole")[0] == 0
    assert contents("out") == contents("whole") and len(files("out")) == 2 * len(OUTPUTS)
    xr.testing.assert_identical(stored("out/photo.nc"), stored("whole/photo.nc"))


@pytest.mark.parametrize("members", ["1", "4", "5"])
def test_add_leaves_alone_what_has_enough(run, place, members):
    assert segment(run, "photo.png", quick=(*DRAFT, "5"))[0] == 0
    before = contents("out"), [Path("out", name).stat().st_mtime_ns for name in files("out")]
    code, out, lines = segment(run, "photo.png", "--add", quick=(*DRAFT, members))
    assert (code, lines) == (0, []) and out == "photo.png: 5 members are there, left as they are\n"
    assert (contents("out"), [Path("out", name).stat().st_mtime_ns for name in files("out")]) == before


def test_add_leaves_alone_what_is_certain(run, place):
    "Sixteen members were enough for the tolerance; they still are, and for a stricter one they are not."
    for pixels, members in (("2.5", 16), ("2.5", 16), ("0.0001", 32)):
        assert segment(run, "photo.png", "--tolerance", pixels, "--add", quick=(*DRAFT, "32"))[0] == 0
        assert stored().attrs["members"] == members


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--seed 1", "seed"),
        ("--sampler heun --steps 4", "sampler"),
        ("--quality default", "steps"),
        ("--reach 2", "reach_px"),
        ("--scale 1", "the image"),
        ("--weights other.safetensors", "weights"),
        ("--members 1 --seed 1", "seed"),
    ],
)
def test_add_mixes_nothing(run, place, words, said):
    "Members of another seed, sampler or network, or of another image: refused even where none would be drawn."
    other = tiny(TISSUE)
    save_weights("other.safetensors", other)
    assert segment(run, "photo.png", quick=(*DRAFT, "2"))[0] == 0
    before = contents("out")
    drawn = () if "--sampler" in words or "--quality" in words else ("--quality", "draft")
    assert refused(
        segment(run, "photo.png", "--add", "--members", "4", *drawn, *words.split(), quick=()), "out/photo.nc", said
    )
    assert contents("out") == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--resume", "--resume"),
        ("--force", "--force"),
        ("--sampler authors", "authors"),
    ],
)
def test_add_goes_with_neither_resume_nor_force(run, place, monkeypatch, words, said):
    monkeypatch.setattr(segmenting, "segment", no_work)
    assert (
        refused(segment(run, "photo.png", "--add", *words.split(), quick=()), "--add", said)
        and not Path("out").exists()
    )


def spoil(how):
    path = Path("out/photo.nc")
    if how == "cut":
        path.write_bytes(path.read_bytes()[:3000])
    elif how == "text":
        path.write_text("no dataset")
    else:
        xr.Dataset({"mean": ("row", [1.0])}).to_netcdf(path, engine="h5netcdf")


@pytest.mark.parametrize("how", ["cut", "text", "other"])
def test_add_to_a_damaged_result(run, place, how):
    assert segment(run, "photo.png", quick=(*DRAFT, "2"))[0] == 0
    spoil(how)
    before = contents("out")
    assert refused(segment(run, "photo.png", "--add", quick=(*DRAFT, "4")), "out/photo.nc", "--force")
    assert contents("out") == before


def test_add_does_not_take_half_a_result_for_a_whole(run, place):
    assert segment(run, "photo.png", quick=(*DRAFT, "2"))[0] == 0
    Path("out/photo_overlay.png").unlink()
    assert refused(segment(run, "photo.png", "--add", quick=(*DRAFT, "4")), "out/photo_mask.png", "--force")


def test_add_interrupted(run, place, monkeypatch):
    "The old result is whole, the sentence says how to go on, and the same line does."

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    assert segment(run, "photo.png", quick=(*DRAFT, "2"))[0] == 0
    before = contents("out")
    for name in ("ensemble", "write_dataset"):
        with monkeypatch.context() as patch:
            patch.setattr(segmenting, name, stopped)
            code, _, lines = segment(run, "photo.png", "--add", quick=(*DRAFT, "4"))
        assert code == 130 and len(lines) == 1 and "--add" in lines[0] and contents("out") == before
    assert segment(run, "photo.png", "--add", quick=(*DRAFT, "4"))[0] == 0 and stored().attrs["members"] == 4


# ---- what is refused


@pytest.fixture
def bad(place):
    "Files that are wrong, each in its own way."
    Path("text.png").write_text("no image")
    Path("nothing").mkdir()
    tifffile.imwrite("nan.tif", np.full((40, 40), np.nan, np.float32))
    tifffile.imwrite("stack.tif", np.zeros((5, 40, 40), np.uint8), photometric="minisblack")
    Image.fromarray(picture()[:31]).save("small.png")
    Image.fromarray(np.zeros((4097, 32), np.uint8)).save("long.png")
    whole = Path("photo.png").read_bytes()
    Path("cut.png").write_bytes(whole[: len(whole) // 2])
    return place


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("missing.png", "not exist"),
        ("text.png", "not an image"),
        ("nothing", "no image"),
        ("nan.tif", "NaN"),
        ("stack.tif", "5 pages"),
        ("small.png", "31 x 64"),
        ("long.png", "no tissue"),
        ("cut.png", "damaged"),
    ],
)
def test_what_is_no_image(run, bad, image, words):
    before = files()
    assert refused(segment(run, image), image, words) and files() == before


def test_all_images_are_looked_for_before_work_begins(run, place, monkeypatch):
    "A misspelt name at the end of a long list must not cost an hour."
    monkeypatch.setattr(segmenting, "segment", no_work)
    assert refused(segment(run, "photo.png", "missing.png"), "missing.png")
    Path("out").mkdir()
    Image.fromarray(picture()).save("other.png")
    Path("out/other_mask.png").write_text("mine")
    assert refused(segment(run, "photo.png", "other.png"), "out/other_mask.png", "--force")
    assert files("out") == ["other_mask.png"]


def test_two_images_of_one_name(run, place, monkeypatch):
    monkeypatch.setattr(segmenting, "segment", no_work)
    Path("more").mkdir()
    Image.fromarray(picture()).save("more/photo.tif")
    assert refused(segment(run, "photo.png", "more"), "photo") and not Path("out").exists()


@pytest.fixture
def damaged(place):
    "Weights that are none, or no longer."
    whole = Path("tiny.safetensors").read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 64
    Path("text.safetensors").write_text("no weights")
    Path("empty.safetensors").write_bytes(b"")
    Path("cut.safetensors").write_bytes(whole[:-1000])
    Path("flipped.safetensors").write_bytes(flipped)
    Path("renamed.safetensors").write_bytes(whole.replace(b'\\"stain\\"', b'\\"stein\\"'))
    Path("older.safetensors").write_bytes(whole.replace(b'\\"unshuffle\\"', b'\\"unsnuffle\\"'))
    save_file({"a": torch.zeros(3)}, "other.safetensors")
    Path("folder.safetensors").mkdir()
    return place


@pytest.mark.parametrize("name", ["missing", "missing.safetensors", "folder.safetensors"])
def test_weights_that_are_not_there(run, damaged, name):
    assert refused(segment(run, "photo.png", weights=name), name, "nuclei, glands, tissue") and not Path("out").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("text", "safetensors"),
        ("empty", "safetensors"),
        ("cut", "safetensors"),
        ("flipped", "checksum"),
        ("other", "no sdfdiff model"),
        ("older", "checksum"),
        ("renamed", "checksum"),
    ],
)
def test_damaged_weights(run, damaged, name, words):
    assert refused(segment(run, "photo.png", weights=f"{name}.safetensors"), f"{name}.safetensors", words)
    assert not Path("out").exists()


@pytest.mark.parametrize("scale", ["0", "-1", "nan", "inf", "0.0001"])
def test_a_scale_without_sense(run, place, scale):
    assert refused(segment(run, "photo.png", "--scale", scale), "scale", "photo.png") and not Path("out").exists()


def test_the_folder_for_results_is_a_file(run, place, monkeypatch):
    monkeypatch.setattr(segmenting, "segment", no_work)
    for out in ("tiny.safetensors", "tiny.safetensors/below"):
        assert refused(segment(run, "photo.png", out=out), "tiny.safetensors", "folder")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(run, place, monkeypatch):
    monkeypatch.setattr(segmenting, "segment", no_work)
    Path("closed").mkdir(mode=0o500)
    assert refused(segment(run, "photo.png", out="closed/out"), "closed")


def test_nothing_is_overwritten_without_force(run, place):
    assert segment(run, "photo.png")[0] == 0
    before = {name: Path(name).read_bytes() for name in files()}
    assert refused(segment(run, "photo.png", "--seed", "1"), "out/photo_mask.png", "--force", "--resume")
    assert segment(run, "photo.png", "--resume") == (0, "photo.png: done before, skipped\n", [])
    assert {name: Path(name).read_bytes() for name in files()} == before
    assert segment(run, "photo.png", "--seed", "1", "--force")[0] == 0
    assert xr.load_dataset("out/photo.nc", engine="h5netcdf").attrs["seed"] == 1


def test_resume_does_not_overwrite_a_mask_of_the_users(run, place):
    "A true mask beside the image may bear the name of a result; --resume alone is no leave to replace it."
    Path("photo_mask.png").write_text("drawn by hand for hours")
    assert refused(segment(run, "photo.png", "--resume", out="."), "photo_mask.png", "--force")
    assert Path("photo_mask.png").read_text() == "drawn by hand for hours"


def test_traceback_on_request(run, place):
    with pytest.raises(FileNotFoundError):
        main(["--traceback", "segment", "missing.png", "--out", "out"])


# ---- many images


def test_one_bad_image_does_not_stop_the_others(run, bad):
    "Each failure is told with its reason at the end, the code says that there was one, and --resume goes on as well."
    Path("photos").mkdir()
    for name in ("text.png", "nan.tif", "small.png", "long.png", "cut.png", "photo.png"):
        Path(name).rename(f"photos/{name}")
    Image.fromarray(picture()).save("photos/z.png")
    Image.fromarray(picture()).save(f"photos/{'n' * 245}.png")  # a name to which no ending can be added
    Path("photos/gone.png").symlink_to("nowhere")
    for again in ((), ("--resume",)):
        code, out, lines = segment(run, "photos", *again)
        *reasons, last = lines
        assert code == 1 and last.startswith("sdfdiff: 7 of 9 images failed") and len(reasons) == 7
        said = {"text": "not an image", "nan": "NaN", "small": "31 x 64", "long": "no tissue", "cut": "damaged"}
        for name, words in (said | {"gone": "not exist", "nnn": "too long"}).items():
            assert any(name in one and words in one for one in reasons), name
        assert [f"out/{name}" for name in files("out")] == results("photo", "z")
        assert re.search(r"^2 of 9 images are done, in \d+ s$", out, re.M) and len(out.splitlines()) == 10
    assert "photo.png: done before, skipped (image 6 of 9" in out


def test_an_interruption_does_not_hide_what_failed(run, bad, monkeypatch):
    draw = segmenting.segment_file

    def stopped(path, *arguments, **options):
        if path.name == "photo.png":
            raise KeyboardInterrupt
        return draw(path, *arguments, **options)

    monkeypatch.setattr(segmenting, "segment_file", stopped)
    code, _, lines = segment(run, "cut.png", "photo.png")
    assert code == 130 and len(lines) == 2 and "damaged" in lines[0] and "nothing to continue" in lines[1]


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_names_that_no_console_can_print(run, place):
    "Bytes that are no UTF-8, and a console that knows only ASCII: the work is done, the name is written with escapes."
    Path("photos").mkdir()
    for name in (b"photos/\xff\xe9.png", "photos/\u00fcber.png".encode()):
        Path(os.fsdecode(name)).write_bytes(Path("photo.png").read_bytes())
    words = ["segment", "photos", "--out", "out", "--weights", "tiny.safetensors", *QUICK]
    code = "from sdfdiff.command import main\nsys.exit(main())"
    done = command(code, *words, env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    out, err = done.communicate(timeout=60)
    assert done.returncode == 0 and len(os.listdir(b"out")) == 2 * len(OUTPUTS), err
    assert "\\xfcber.png: " in out and "\\udcff\\udce9.png: " in out
    attributes = xr.load_dataset(os.fsdecode(b"out/\xff\xe9.nc"), engine="h5netcdf").attrs
    assert attributes["source"] == "\\xff\\xe9.png"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--seed 1", "seed 0, now 1"),
        ("--members 3", "members 2, now 3"),
        ("--members 1", "members 2, now 1"),
        ("--steps 4", "steps 2, now 4"),
        ("--sampler heun", "sampler dpm_sde, now heun"),
        ("--reach 2", "reach_px"),
        ("--scale 1", "scale 0.5, now 1.0"),
        ("--stain none", "stain vahadane, now none"),
        ("--tolerance 0.5", "tolerance_px none, now 0.5"),
        ("--weights other.safetensors", "the weights"),
    ],
)
def test_resume_skips_only_what_was_asked_for(run, done_before, monkeypatch, words, said):
    "Other settings are refused before any work, of all images: a folder with two kinds of results helps nobody."
    monkeypatch.setattr(segmenting, "segment", no_work)
    before = contents("out")
    assert refused(segment(run, "photo.png", "new.png", "--resume", *words.split()), "out/photo.nc", said, "--force")
    assert contents("out") == before and segment(run, "photo.png", "--resume")[0] == 0


@pytest.fixture
def done_before(place):
    "A result beside its image, another image, and other weights."
    other = replace(tiny(), network=random_network(1, 1))
    save_weights("other.safetensors", other)
    Image.fromarray(picture()).save("new.png")
    assert main(["segment", "photo.png", "--out", "out", "--weights", "tiny.safetensors", *QUICK]) == 0
    return place


def test_resume_sees_an_image_that_changed(run, done_before, capsys):
    "By its bytes; the images beside it are done all the same."
    capsys.readouterr()
    before = contents("out")
    Image.fromarray(picture()[::-1]).save("photo.png")
    assert refused(segment(run, "photo.png", "--resume"), "out/photo.nc", "the image", "--force")
    code, out, lines = segment(run, "photo.png", "new.png", "--resume")
    assert code == 1 and len(lines) == 2 and "the image" in lines[0] and "out/new_mask.png" in out
    assert {name: Path("out", name).read_bytes() for name in before} == before


def test_resume_accepts_what_an_earlier_version_wrote(run, done_before, capsys):
    "It holds no checksum of the image: one sentence says so."
    with xr.open_dataset("out/photo.nc", engine="h5netcdf") as found:
        found = found.load()
    del found.attrs["image_checksum"]
    found.to_netcdf("out/photo.nc", engine="h5netcdf")
    capsys.readouterr()
    code, out, lines = segment(run, "photo.png", "--resume")
    assert code == 0 and "skipped" in out and len(lines) == 1
    assert all(word in lines[0] for word in ("sdfdiff: out/photo.nc", "earlier version", "the image"))


def test_resume_of_a_damaged_result(run, done_before, capsys):
    capsys.readouterr()
    Path("out/photo.nc").write_text("no dataset")
    assert refused(segment(run, "photo.png", "--resume"), "out/photo.nc", "--force")


def test_resume_with_nothing_to_do_needs_no_torch(run, done_before):
    process = command(
        """
        from sdfdiff.command import main
        code = main()
        print(*sys.modules, sep="\\n")
        sys.exit(code)
    """,
        *["segment", "photo.png", "--out", "out", "--weights", "tiny.safetensors", "--resume", *QUICK],
    )
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and out.startswith("photo.png: done before, skipped\n"), err
    assert {"torch", "xarray", "skimage", "matplotlib"}.isdisjoint(out.split("\n"))


# ---- Ctrl-C


def test_ctrl_c_in_every_command(run, place, monkeypatch):
    "Wherever it comes, the exit code is 130, and there is one sentence."

    def pressed(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(segmenting, "ensemble", pressed)
    monkeypatch.setattr("sdfdiff.study.evaluation.find_cases", pressed)
    monkeypatch.setattr(fitting, "load_training_data", pressed)
    before = files()
    weights = " --weights tiny.safetensors"
    for words in (
        "demo",
        "segment photo.png --out out" + weights,
        "evaluate folder --root . --out a.zarr" + weights,
        "train tissue --out a.safetensors",
    ):
        code, _, lines = run(*words.split())
        assert code == 130 and len(lines) == 1 and lines[0].startswith("sdfdiff: stopped"), lines
        assert "--resume" not in lines[0] and ("nothing to continue" in lines[0]) == (words != "demo")
    assert files() == before


def test_ctrl_c_says_how_to_go_on_where_something_is_there(run, place, small, monkeypatch):
    "A result of one image, a store that is begun, a checkpoint."

    def pressed(*arguments, **options):
        raise KeyboardInterrupt

    Path("a.checkpoint.safetensors").write_text("kept")
    Path("a.zarr").mkdir()
    for ending in OUTPUTS:
        Path(f"photo{ending}").write_text("kept")
    monkeypatch.setattr("sdfdiff.command._asked", pressed)
    monkeypatch.setattr("sdfdiff.study.evaluation.find_cases", pressed)
    monkeypatch.setattr(fitting, "setting_of", pressed)
    monkeypatch.setattr("sdfdiff.studying._checked", pressed)
    for words in (
        "segment photo.png other.png --out . --resume --weights tiny.safetensors",
        "evaluate folder --root . --out a.zarr --resume --weights tiny.safetensors",
        "study plan.json --out a.zarr --resume",
        "train tissue --out a.safetensors --resume",
    ):
        code, _, lines = run(*words.split())
        assert code == 130 and lines == ["sdfdiff: stopped; nothing half-written was left; continue with --resume"]


def test_ctrl_c_in_the_middle(run, place):
    "The first of two images is whole, of the second there is nothing; --resume does the rest."
    Image.fromarray(picture()).save("second.png")
    # the second image is held up, so that the key is pressed in the middle of it on a machine of any speed
    process = command(
        """
        import time
        from sdfdiff.ensembles import segmentation as segmenting
        from sdfdiff.command import main
        draw, drawn = segmenting.ensemble, []

        def ensemble(*arguments, **options):
            dataset = draw(*arguments, **options)
            drawn.append(dataset)
            if len(drawn) == 2:
                print("now", flush=True)
                time.sleep(60)
            return dataset

        segmenting.ensemble = ensemble
        sys.exit(main())
    """,
        "segment",
        "photo.png",
        "second.png",
        "--out",
        "out",
        "--weights",
        "tiny.safetensors",
        *QUICK,
    )
    first, now = process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (first[:9], now) == ("photo.png", "now\n"), err
    lines = sentences(err)
    assert process.returncode == 130 and len(lines) == 1 and lines[0].startswith("sdfdiff: stopped"), err
    assert [f"out/{name}" for name in files("out")] == results("photo")
    before = {name: Path(name).read_bytes() for name in files()}
    code, out, _ = segment(run, "photo.png", "second.png", "--resume")
    assert code == 0 and out.splitlines()[0] == "photo.png: done before, skipped (image 1 of 2)"
    assert [f"out/{name}" for name in files("out")] == results("photo", "second")
    assert {name: Path(name).read_bytes() for name in before} == before


def test_ctrl_c_at_any_time(place):
    "While modules are imported or weights are read: the same code, no traceback."
    for wait in (0.3, 1.0):
        process = command(
            """
            from sdfdiff.command import main
            print("started", flush=True)
            sys.exit(main())
        """,
            "segment",
            "photo.png",
            "--out",
            "out",
            "--weights",
            "tiny.safetensors",
            "--members",
            "100000",
        )
        process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        lines = sentences(err)
        assert process.returncode == 130 and len(lines) == 1 and lines[0].startswith("sdfdiff: stopped"), err
    assert files() == ["photo.png", "tiny.safetensors"]


# ---- a full disk


def small_disks():
    "Command prefix under which a disk can be mounted that nobody else sees; None where that is not allowed."
    for prefix in (["unshare", "--mount"], ["unshare", "--map-root-user", "--mount"]):
        try:
            trial = [*prefix, "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]
            if subprocess.run(trial, capture_output=True).returncode == 0:
                return prefix
        except OSError:
            pass
    return None


FULL = """
    import io, json, os
    from contextlib import redirect_stderr, redirect_stdout
    from sdfdiff.diffusion import fitting
    from sdfdiff.command import main
    from sdfdiff.diffusion.fitting import SETTINGS
    from sdfdiff.diffusion.network import Architecture
    from dataclasses import replace
    small = Architecture(3, width=16, multipliers=(1, 2), encoder_blocks=1)
    recipe = replace(SETTINGS["tissue"].recipe, batch=1)
    SETTINGS["tissue"] = replace(SETTINGS["tissue"], architecture=small, recipe=recipe, crop=32)
    for kilobytes, *words in json.loads(sys.argv[1]):
        state = os.statvfs("disk")
        with open("disk/ballast", "wb") as file:
            file.write(bytes(state.f_bavail * state.f_frsize - 1024 * kilobytes))
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as err:
            code = main(words)
        left = [os.path.join(folder, name) for folder, _, names in os.walk("disk") for name in names]
        print(json.dumps([code, err.getvalue(), left]), flush=True)
        os.remove("disk/ballast")
"""


def test_a_full_disk(place):
    "A real one, of 300 kB, filled up to what is said: the file is named, the process lives on, nothing is left."
    prefix = small_disks()
    if prefix is None:
        pytest.skip("mounting is not allowed here")
    Path("disk").mkdir()
    Path("data/images").mkdir(parents=True)
    Path("data/masks").mkdir()
    Image.fromarray(picture()).save("data/images/1.png")
    Image.fromarray(picture()[..., 0] > 128).save("data/masks/1.png")
    save_weights("colour.safetensors", tiny(TISSUE))
    out = ["segment", "photo.png", "--out", "disk/out", "--weights", "tiny.safetensors", *QUICK]
    tried = [
        (0, "photo_mask.png", out),
        (8, "photo_", out),
        (24, "photo_", out),
        (
            8,
            "a.zarr",
            "evaluate folder --root data --out disk/a.zarr --weights colour.safetensors --quality draft".split(),
        ),
        (100, "a.checkpoint.safetensors", "train tissue --steps 2 --out disk/a.safetensors".split()),
    ]
    script = 'mount -t tmpfs -o size=300k tmpfs disk && exec "$@"'
    code = "import sys\n" + textwrap.dedent(FULL)
    typed = json.dumps([[kilobytes, *words] for kilobytes, _, words in tried])
    inside = [*prefix, "sh", "-c", script, "sh", sys.executable, "-c", code, typed]
    done = subprocess.run(inside, capture_output=True, text=True)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(outcomes) == len(tried), f"{outcomes}, {done.returncode}, {done.stderr[-2000:]}"
    for (code, err, left), (_, name, words) in zip(outcomes, tried):
        assert refused((code, "", sentences(err)), name, "o space left"), words
        assert left == ["disk/ballast"], words


# ---- P(exists), calibrated


def test_a_calibration_is_a_column_of_all_results(run, place, monkeypatch):
    "In CSV, GeoJSON and the page; the other columns stay; --resume asks for the same calibration."
    made = {"members": 2, "sampler": "dpm_sde", "calls_per_member": 3}
    calibration_file("a.nc", weights_header("tiny.safetensors")["checksum"], **made)
    words = ("photo.png", "--calibration", "a.nc")
    assert segment(run, "photo.png", out="plain")[0] == 0 and segment(run, *words)[2] == []
    plain, table = (np.genfromtxt(f"{out}/photo_objects.csv", delimiter=",", names=True) for out in ("plain", "out"))
    assert [*table.dtype.names] == [*plain.dtype.names, "exists_calibrated"]
    assert all(np.array_equal(table[name], plain[name], equal_nan=True) for name in plain.dtype.names)
    odds = np.log((2 * table["exists"] + 0.5) / (2 * (1 - table["exists"]) + 0.5))
    np.testing.assert_allclose(table["exists_calibrated"], 1 / (1 + np.exp(1 - 0.5 * odds)), rtol=1e-6)
    features = json.loads(gzip.decompress(Path("out/photo.geojson.gz").read_bytes()))["features"]
    found = [one["properties"]["measurements"]["exists_calibrated"] for one in features]
    np.testing.assert_allclose(found, np.atleast_1d(table["exists_calibrated"]), rtol=1e-6)
    assert run("explore", "out/photo.nc")[0] == 0 and '"exists_calibrated"' in Path("out/photo.html").read_text()
    monkeypatch.setattr(segmenting, "segment", no_work)
    assert segment(run, *words, "--resume")[0] == 0
    for error, said in ((0.1, "0.100, before 0.090"), (None, "not known")):
        calibration_file(f"{error}.nc", weights_header("tiny.safetensors")["checksum"], **made, error=error)
        lines = segment(run, "photo.png", "--calibration", f"{error}.nc", "--resume")[2]
        assert f"P(exists) may be no better corrected (error on other patients: {said})" in lines[0]
    assert refused(segment(run, "photo.png", "--resume"), "out/photo.nc", "calibration", "--force")
    assert refused(segment(run, *words, "--resume", out="plain"), "plain/photo.nc", "calibration", "--force")


def test_a_calibration_that_does_not_belong_is_refused_before_any_work(run, place, monkeypatch):
    monkeypatch.setattr(segmenting, "segment", no_work)
    calibration_file("a.nc", "of other weights")
    xr.Dataset(attrs={"title": "other"}).to_netcdf("b.nc", engine="h5netcdf")
    Path("c.nc").write_text("no netCDF")
    before = files()
    for name, *said in (
        ("a.nc", "a.nc was measured with other weights (tiny)", "measure with those that draw"),
        ("b.nc", "b.nc holds no calibration of P(exists)", "`sdfdiff evaluate --objects --out` writes one"),
        ("c.nc", "c.nc holds no calibration of P(exists)"),
        ("d.nc", "d.nc does not exist", "`sdfdiff evaluate --objects --out` writes such a file"),
    ):
        assert refused(segment(run, "photo.png", "--calibration", name), *said)
    words = ("--weights", "cells", "--out", "out", "--calibration", "a.nc")
    assert refused(run("segment", "photo.png", *words), "--calibration does not belong to weights of several classes")
    assert files() == before


# ---- explore


def test_explore_makes_a_page_of_what_segment_wrote(run, place):
    assert run("segment", "photo.png", "--out", "results", "--weights", "tiny.safetensors", *QUICK)[0] == 0
    code, out, lines = run("explore", "results/photo.nc")
    assert (code, lines) == (0, []) and "results/photo.html" in out
    page = Path("results/photo.html").read_text(encoding="utf8")
    assert "<title>photo: explore" in page and '"scene": "ensemble"' in page
    assert refused(run("explore", "results/photo.nc"), "results/photo.html", "--force")
    assert run("explore", "results/photo.nc", "--out", "new/page.html")[0] == 0 and files("new") == ["page.html"]


def test_explore_shows_the_part_in_doubt_of_what_is_too_large(run, place):
    assert run("segment", "photo.png", "--out", "results", "--weights", "tiny.safetensors", *QUICK)[0] == 0
    dataset = xr.load_dataset("results/photo.nc", engine="h5netcdf")
    wide = dataset.pad(column=(0, 1200), mode="edge")
    wide["mask_std"][:, :600] = 0
    wide["mask_std"][:, 600:] = 0.5
    wide.to_netcdf("wide.nc", engine="h5netcdf")
    code, out, lines = run("explore", "wide.nc")
    assert (code, lines) == (0, []) and Path("wide.html").exists()
    start, stop = map(int, re.search(r"columns (\d+) to (\d+)", out).groups())
    assert stop - start == 1024 and stop > 1100


def test_explore_names_what_is_wrong(run, place):
    assert refused(run("explore", "none.nc"), "none.nc")
    assert refused(run("explore", "photo.png"), "photo.png", "sdfdiff segment")
    assert segment(run, "photo.png", out="one", quick=("--members", "1", "--quality", "draft"))[0] == 0
    assert refused(run("explore", "one/photo.nc"), "one/photo.nc", "at least 2")
    assert not list(Path().rglob("*.html"))


# ---- demo


def test_demo(run, place):
    "With the shipped weights, on the slide that scikit-image brings; few members and steps only to save time."
    code, out, lines = run("demo", "--out", "new/out", *QUICK)
    assert (code, lines) == (0, []) and files("new") == ["out/demo.nc", "out/demo.png"]
    table = dict(line.split(None, 1) for line in out.splitlines())
    assert {"image", "members", "time", "uncertainty", "picture", "numbers"} <= set(table) and "object area" in out
    assert "512 x 512" in table["image"] and "3 network calls" in table["members"]
    assert table["picture"].endswith("new/out/demo.png") and table["numbers"].endswith("new/out/demo.nc")
    with Image.open("new/out/demo.png") as drawn:
        assert min(drawn.size) >= 500 and np.asarray(drawn.convert("L")).std() > 20
    dataset = xr.load_dataset("new/out/demo.nc", engine="h5netcdf")
    assert dict(dataset.sizes) == {"channel": 3, "row": 512, "column": 512, "member": 2, "every_member": 2}
    assert (dataset.attrs["weights"], dataset.attrs["members"]) == ("nuclei", 2)


@pytest.fixture
def quick_demo(monkeypatch, place):
    "The demo without its large network and its large picture."
    from matplotlib.figure import Figure

    from sdfdiff import provenance
    from sdfdiff.ensembles import figures

    save_weights("nuclei.safetensors", tiny())
    monkeypatch.setattr(provenance, "data_folder", lambda: place)
    monkeypatch.setattr(figures, "summary_figure", lambda dataset, **options: Figure((1, 1)))
    return place


@pytest.mark.parametrize("name", ["demo.png", "demo.nc"])
def test_demo_overwrites_nothing(run, quick_demo, monkeypatch, name):
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(segmenting, "segment", no_work)
        assert refused(run("demo", *QUICK), f"out/{name}", "--force")
    assert files("out") == [name] and Path("out", name).read_text() == "mine"
    assert run("demo", "--members", "1", "--quality", "draft", "--force")[0] == 0
    assert files("out") == ["demo.nc", "demo.png"] and Path("out", name).stat().st_size > 100


def test_one_member_has_no_doubt_to_tell(run, quick_demo):
    code, out, _ = run("demo", "--members", "1", "--quality", "draft")
    assert code == 0 and "nan" not in out


def test_demo_leaves_both_files_or_none(run, quick_demo, monkeypatch):
    from matplotlib.figure import Figure

    def full(self, target, **options):
        Path(target).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    assert refused(run("demo", "--members", "1", "--quality", "draft"), "demo.png", "No space left") and not files(
        "out"
    )


def test_a_reader_that_leaves_is_no_error():
    "As in `sdfdiff study --example tissue | head`, with a pipe whose reader is gone."
    reader, writer = os.pipe()
    os.close(reader)
    command = [
        sys.executable,
        "-c",
        "from sdfdiff.command import main; raise SystemExit(main())",
        "study",
        "--example",
        "tissue",
    ]
    with os.fdopen(writer, "wb") as gone:
        done = subprocess.run(command, stdout=gone, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (141, "")
