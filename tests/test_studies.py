"Stored results made again: from the plan that each of them holds, to the same numbers, through interruptions."

import json
import re
import shlex
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from shell import files, sentences
from small_studies import quick, stopped_at, tiny_weights

from benchmarks import studies
from benchmarks.__main__ import main
from benchmarks.__main__ import parser as benchmarks_parser
from benchmarks.frontier import REFERENCE, frontier_plan, judge
from sdfdiff.command import parser
from sdfdiff.files import read_dataset, write_dataset
from sdfdiff.study.plan import StudyPlan
from sdfdiff.study.store import finish, open_study, run_study
from sdfdiff.study.verification import verify

KINDS = ("study_small", "study_whole", "frontier_small")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    "A project whose data/ holds a table of a study, a whole study and a frontier, all of small networks."
    root = tmp_path_factory.mktemp("project")
    (root / "data").mkdir()
    weights = tiny_weights(root / "small.safetensors")
    ways = (quick("one", weights), quick("two", weights, seed=1))
    plan = StudyPlan("tissue", ways, cases=2, quantiles=(), images=False, crop=32)
    long = StudyPlan(
        "tissue", (*ways, quick(REFERENCE, weights, members=5)), cases=("scene 1003", "scene 1001"), crop=32
    )
    finish(run_study(plan, root / "small.zarr"), progress=False)
    finish(run_study(long, root / "long.zarr"), progress=False)
    small, whole = (open_study(root / name) for name in ("small.zarr", "long.zarr"))
    table = verify(small, 3, progress=False)
    parts = table[["needed_margin", "missed", "disputed"]].astype(np.float32)
    write_dataset(parts, root / "data" / "study_small.nc")
    write_dataset(whole.compute().drop_vars("initial_estimate"), root / "data" / "study_whole.nc")
    write_dataset(judge(whole), root / "data" / "frontier_small.nc")
    return root


@pytest.fixture
def project(results, monkeypatch):
    monkeypatch.setattr(studies, "ROOT", results)
    monkeypatch.chdir(results)
    return results


def stored(name) -> studies.Stored:
    (one,) = studies.stored_results(only=(name,))
    return one


@pytest.fixture
def run(capsys):
    "Type the command; get exit code, what was printed, and the sentences among the progress bars."

    def typed(*words):
        code = main(["studies", *map(str, words)])
        shown = capsys.readouterr()
        return code, shown.out, sentences(shown.err)

    return typed


@pytest.mark.parametrize("name", KINDS)
def test_the_same_plan_gives_the_same_numbers(project, tmp_path, name):
    "To the bit, on one machine: variables, number formats, labels, plan."
    one = stored(name)
    new = studies.make(one, tmp_path / "new", progress=False)
    xr.testing.assert_equal(read_dataset(new), read_dataset(one.path))
    assert {key: each.dtype for key, each in read_dataset(new).data_vars.items()} == {
        key: each.dtype for key, each in read_dataset(one.path).data_vars.items()
    }
    first, second = studies.compare(new, one)
    assert first == f"{name}: the same plan; the same weights; drawn in the same way"
    assert second == f"  all {len(read_dataset(one.path).data_vars)} variables are the same, to the bit"


def test_an_interrupted_study_goes_on(project, tmp_path, monkeypatch):
    "Stopped in the third of four pieces: what is finished is not drawn again, and the numbers are the same."
    drawn = stopped_at(monkeypatch, 3)
    one = stored("study_small")
    with pytest.raises(KeyboardInterrupt):
        studies.make(one, tmp_path, progress=False)
    assert not (tmp_path / "study_small.nc").exists()
    new = studies.make(one, tmp_path, progress=False)
    assert len(drawn) == 5
    xr.testing.assert_equal(read_dataset(new), read_dataset(one.path))
    studies.make(one, tmp_path, progress=False)
    assert len(drawn) == 5, "a file that is there is kept"


def test_what_differs_is_said(project, tmp_path, monkeypatch):
    "Another way to draw under the same name, other weights, another number, one that is missing."
    one = stored("study_small")
    changed = replace(one.plan, methods=(replace(one.plan.methods[0], steps=3), one.plan.methods[1]))
    new = studies.make(replace(one, plan=changed), tmp_path, progress=False)
    first, second, third = studies.compare(new, one)
    assert first == "study_small: plans differ in methods; the same weights; drawn in another way: one"
    assert "of 3 variables are the same; largest differences" in second
    assert re.fullmatch(
        r"  of single images ((\w+ [\d.e-]+(, )?)+); of means over the images (\w+ [\d.e-]+(, )?)+", third
    )
    table = read_dataset(one.path)
    shifted = table.assign(missed=table["missed"].where(table["missed"] < table["missed"].max()) + 0.5)
    assert studies.differences(shifted, table)["missed"] == np.inf
    gaps = studies.differences(table.assign(missed=table["missed"] + 0.5), table)
    assert gaps["missed"] == pytest.approx(0.5 / float(abs(table["missed"]).max()), rel=1e-5) and gaps["disputed"] == 0


def test_a_part_of_a_study(project, tmp_path, run):
    "The first image of each study, compared with the same image of the stored one; it replaces nothing."
    code, out, lines = run("--only", "small", "--cases", 1, "--out", tmp_path)
    assert (code, lines) == (0, []) and "study_small: the same plan; the same weights; drawn in the same way" in out
    assert out.count("to the bit") == 2 and "2 of 2 results were made" in out
    code, _, lines = run("--cases", 1, "--replace", "--out", tmp_path)
    assert code == 1 and "--cases" in lines[0]


def test_numbers_of_another_length_differ():
    "A list of margins that has grown is not subtracted from the old one."
    old = xr.Dataset({"missed": ("margin", np.zeros(41)), "f1": ("case", [0.5])})
    new = xr.Dataset({"missed": ("margin", np.zeros(65)), "f1": ("case", [0.5])})
    assert studies.differences(new, old) == {"missed": np.inf, "f1": 0.0}


def test_cost_and_list(project, tmp_path, run):
    "Cases x members x calls; nothing is drawn."
    one = stored("study_small")
    assert one.calls == 2 * (3 + 3) * 3 and one.pixels == 2 * 32 * 32
    assert studies.shortened(one, 1).calls == one.calls / 2
    assert studies.seconds_of(one) == pytest.approx(2 * studies.seconds_of(studies.shortened(one, 1)))
    code, out, _ = run("--list", "--out", tmp_path / "new")
    assert code == 0 and not (tmp_path / "new").exists()
    assert [line.split()[0] for line in out.splitlines()] == [*sorted(KINDS), "Drawing"]
    assert "2 images, 36 network calls, about" in out


def test_replaced_when_all_is_there(project, tmp_path, run):
    before = {path.name: path.read_bytes() for path in (project / "data").iterdir()}
    code, out, lines = run("--replace", "--out", tmp_path)
    assert (code, lines) == (0, []) and "stand in data/ now" in out
    after = {path.name: path.read_bytes() for path in (project / "data").iterdir()}
    assert after.keys() == before.keys() and after == {name: (tmp_path / name).read_bytes() for name in after}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "monuseg"}, ("the data set monuseg is not here", "MONUSEG=DIR")),
        ({"weights": "runs/raters.safetensors"}, ("runs/raters.safetensors", "sdfdiff train raters", "--steps 700")),
        ({"weights": "runs/mine.safetensors"}, ("runs/mine.safetensors", "sdfdiff train")),
    ],
)
def test_what_is_missing_is_named(project, run, monkeypatch, change, words):
    "In one line that says how to get it."
    one = stored("study_small")
    ways = tuple(replace(each, weights=change.get("weights", each.weights)) for each in one.plan.methods)
    one = replace(one, plan=replace(one.plan, methods=ways, dataset=change.get("dataset", one.plan.dataset)))
    said = studies.lacking(one, {})
    assert not [word for word in words if word not in said], said
    assert f"left out: {said}" in studies.overview([one], {one.name: said}) and "\n" not in said
    if "dataset" in change:
        assert "is not what was drawn" in studies.lacking(one, {"monuseg": str(project)}), "a folder without images"


def test_what_cannot_be_made_is_left_out(project, tmp_path, run, monkeypatch):
    "The others are made; nothing is replaced."
    before = {path.name: path.read_bytes() for path in (project / "data").iterdir()}
    monkeypatch.setattr(studies, "lacking", lambda one, roots: "it is raining." * (one.name == "study_small"))
    code, out, lines = run("--only", "study_small", "frontier_small", "--replace", "--out", tmp_path)
    assert code == 1 and lines[0].startswith("benchmarks: Nothing was replaced")
    assert re.search("study_small +left out: it is raining", out) and "1 of 2 results were made" in out
    assert [path.name for path in tmp_path.glob("*.nc")] == ["frontier_small.nc"]
    assert before == {path.name: path.read_bytes() for path in (project / "data").iterdir()}


def test_data_sets_are_found_where_the_environment_says(project, run, monkeypatch):
    asked = []
    monkeypatch.setattr(studies, "lacking", lambda one, roots: asked.append(roots) or "")
    monkeypatch.setenv("GLAS", "a")
    monkeypatch.setenv("MONUSEG", "b")
    assert run("--list", "--only", "study_small", "--root", "monuseg=c", "raters=d")[0] == 0
    assert asked == [{"glas": "a", "monuseg": "c", "raters": "d"}]


def test_without_sense(project, run, tmp_path):
    code, _, lines = run("--only", "liver")
    assert code == 1 and "'liver'" in lines[0] and "study_small" in lines[0]
    code, _, lines = run("--root", "folder")
    assert code == 1 and "monuseg=folder" in lines[0]
    write_dataset(xr.Dataset({"a": 1}, attrs={"title": "sdfdiff frontier"}), tmp_path / "bare.nc")
    with pytest.raises(ValueError, match="does not hold the plan"):
        studies.stored_results(tmp_path)


def test_benchmark_and_latency(tmp_path, monkeypatch):
    "The benchmark is measured with the amounts of the stored one; both say how the times compare."
    asked = []

    def measured(plan, progress):
        asked.append(plan)
        about = {f"plan_{key}": list(value) if isinstance(value, tuple) else value for key, value in vars(plan).items()}
        return xr.Dataset(
            {"part_seconds": ("part", [2.0, 4.0]), "ratio": 1.0}, attrs={"title": studies.BENCHMARK} | about
        )

    plan = studies.Plan(members=7, sides=(8, 16), seconds=0.5)
    data, new = tmp_path / "data", tmp_path / "new"
    data.mkdir()
    write_dataset(measured(plan, False).assign(part_seconds=("part", [1.0, 2.0])), data / "benchmark.nc")
    times = {"latency": {"a panel": {"median_ms": 8.0}, "a redraw": {"median_ms": 100.0}}}
    (data / "latency.json").write_text(json.dumps(times))
    monkeypatch.setattr(studies, "run_benchmark", measured)
    monkeypatch.setattr(studies.subprocess, "run", lambda words, check: Path(words[-1]).write_text(json.dumps(times)))
    benchmark, latency = studies.stored_results(data)
    (first, second) = studies.compare(studies.make(benchmark, new), benchmark)
    assert asked == [plan, plan] and first == "benchmark: the same plan; the median of all times is 2.00 of the stored"
    assert second == "  all 1 variables are the same, to the bit"
    (line,) = studies.compare(studies.make(latency, new), latency)
    assert line == "latency: of the stored times, a panel 1.00, a redraw 1.00" and files(new) == [
        "benchmark.nc",
        "latency.json",
    ]


def test_a_result_with_a_command_of_its_own(tmp_path, monkeypatch):
    "Its command writes the new file, which is compared."
    about = {"title": "sdfdiff plain network", "plan": "{}"}
    table = xr.Dataset({"f1": ("case", [0.5, 0.75])}, {"case": ["a", "b"]}, about)
    write_dataset(table, tmp_path / "study_plain.nc")

    def typed(words, check, cwd):
        assert words[2:5] == ["benchmarks", "plain", "--out"] and cwd == studies.ROOT
        write_dataset((table + 0.25).assign_attrs(plan="other"), words[5])

    monkeypatch.setattr(studies.subprocess, "run", typed)
    (plain,) = studies.stored_results(tmp_path)
    assert studies.lacking(plain, {}) == ""
    lines = [*studies.compare(studies.make(plain, tmp_path / "new"), plain)]
    assert lines[0] == "study_plain: another plan; the same weights"
    assert lines[2] == "  of single images f1 0.33; of means over the images f1 0.4"


# ---- what this project stores

HERE = cache(studies.stored_results)  # not read while the tests are collected: each worker collects them all


def test_every_stored_result_can_be_made_again():
    "Each holds its plan; weights are shipped, or their training command is known."
    assert len(HERE()) == len([*studies.ROOT.glob("data/*.nc"), studies.ROOT / "data/latency.json"]) > 10
    for one in HERE():
        if one.title == studies.LATENCY:
            assert (studies.ROOT / "tests" / "benchmark_panels.py").exists()
            continue
        if one.title in studies.ELSEWHERE:
            assert studies.ELSEWHERE[one.title] in studies.lacking(one, {})
            continue
        if one.title in studies.COMMANDS:
            typed = benchmarks_parser().parse_args([studies.COMMANDS[one.title], "--out", "a.nc"])
            assert typed.out == Path("a.nc") and {"plan", "seed"} & set(read_dataset(one.path).attrs)
            continue
        if one.title == studies.BENCHMARK:
            amounts = replace(one.plan, scenes=studies.Plan().scenes)  # earlier versions drew the scenes with `tissue`
            assert amounts == studies.Plan(), "the benchmark of `make bench`"
            continue
        found = read_dataset(one.path, lazy=True)
        names = found["way" if "way" in found.dims else "method"].values.tolist()
        drawn = [each.name for each in one.plan.methods]
        long = "way" in found.dims and REFERENCE in drawn
        assert drawn == names + [REFERENCE] * long
        assert "way" not in found.dims or long or found.attrs["reference"] in drawn
        for each in one.plan.methods:
            shipped = (studies.ROOT / "data" / f"{each.weights}.safetensors").exists()
            assert shipped or each.weights in studies.TRAINING | studies.EARLIER, each.weights


@pytest.mark.parametrize("weights", studies.TRAINING)
def test_training_commands_are_typed_right(weights):
    words = shlex.split(studies.TRAINING[weights])
    typed = parser().parse_args(words[1:])
    assert words[0] == "sdfdiff" and str(typed.out) == weights and typed.seed == 0


@pytest.mark.parametrize("weights", studies.EARLIER)
def test_history_holds_earlier_weights(weights):
    kind = Path(weights).stem.removesuffix("_earlier")
    assert studies.EARLIER[weights] == f"git show ef5bfd0:data/{kind}.safetensors > {weights}"
    held = subprocess.run(
        ["git", "cat-file", "-s", f"ef5bfd0:data/{kind}.safetensors"], cwd=studies.ROOT, text=True, capture_output=True
    )
    if "unknown" in held.stderr or "Not a valid" in held.stderr:
        pytest.skip("a clone without its history")
    assert held.returncode == 0 and int(held.stdout) == 4769448 + 104 * (kind == "glands")


@pytest.mark.parametrize(("name", "dataset"), [("tissue", "tissue"), ("nuclei", "monuseg"), ("glands", "glas")])
def test_frontiers_are_those_of_the_command(name, dataset):
    "The ways that the stored file and the command share are drawn in the same way."
    (one,) = [each for each in HERE() if each.name == f"frontier_{name}"]
    usual = frontier_plan(dataset)
    theirs = {each.name: each for each in usual.methods}
    drawn = one.plan.methods[0].weights
    assert drawn in ("tissue", f"runs/{name}_earlier.safetensors", usual.methods[0].weights)
    assert [each for each in one.plan.methods if replace(theirs[each.name], weights=drawn) != each] == []
    assert one.plan.crop == usual.crop and len(one.images) == usual.cases
    before = [each for each in theirs if not each.startswith("flow ")]  # these ways came later
    assert len(before) - len(one.plan.methods) <= 4 + ("fast" in theirs)
