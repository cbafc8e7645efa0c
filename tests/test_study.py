"Studies that are stopped in every way one can think of, and then continued: not a byte may differ."

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from PIL import Image
from small_studies import content, folder, quick, stopped_at, tiny_weights

from sdfdiff.diffusion.model import load_model
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.method import method_of, untuned
from sdfdiff.files import DiskFull
from sdfdiff.images.cases import prepare_case
from sdfdiff.images.preparation import NUCLEI
from sdfdiff.study import store as study
from sdfdiff.study.plan import StudyPlan, case_seed, from_json, study_cases
from sdfdiff.study.schema import NUMBERS, scored
from sdfdiff.study.store import Progress, export_study, finish, open_study, run_study
from sdfdiff.study.verification import verify

HERE = Path(__file__).parent
SCENES = StudyPlan("tissue", (quick("a", "tissue", 4), quick("b", "tissue", 3, seed=1)), cases=2, keep=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A study of two scenes with two methods, done without interruption."
    store = tmp_path_factory.mktemp("whole") / "whole.zarr"
    finish(run_study(SCENES, store), progress=False)
    return store


@pytest.fixture(scope="module")
def ragged(tmp_path_factory):
    "A study of three images of different sizes, the second without an object: folder, store and plan."
    place = tmp_path_factory.mktemp("ragged")
    root = folder(place / "data", empty=(1,))
    plan = StudyPlan("folder", (quick("tiny", tiny_weights(place / "tiny.safetensors")),), "all", keep=1)
    finish(run_study(plan, place / "a.zarr", root), progress=False)
    return root, place / "a.zarr", plan


def copied(store, tmp_path):
    return Path(shutil.copytree(store, tmp_path / "copy.zarr"))


def unfinished(store, *pieces):
    "Take back that some pieces are finished, as if the run had been stopped before."
    for k, j in pieces:
        (store / "finished" / "c" / str(k) / str(j)).unlink()
    return store


def done_pieces(store):
    return (
        sum(path.is_file() for path in (store / "finished" / "c").rglob("*"))
        if (store / "finished" / "c").exists()
        else 0
    )


def no_work(*arguments, **options):
    raise AssertionError("work began")


def sentence(problem, *words):
    "One sentence that holds these words."
    text = str(problem.value)
    assert "\n" not in text and len(text) < 600, text
    for word in words:
        assert str(word) in text, text


# ---- what is in a store


def test_the_numbers_are_those_of_the_ensembles(whole):
    "Drawn and scored again, by the functions of the notebooks before."
    found, paths = open_study(whole).load(), study_cases(SCENES)
    for k, j in ((0, 0), (1, 1)):
        model, method, here = load_model("tissue"), SCENES.methods[j], found.isel(case=k, method=j)
        case = prepare_case(paths[k], model.preparation)
        seed = case_seed(method.seed, paths[k].name)
        drawn = ensemble(model, case.image, method, seed=seed, progress=False)
        np.testing.assert_array_equal(here["truth"], case.truth)
        np.testing.assert_array_equal(here["raters"], case.raters)
        np.testing.assert_array_equal(here["probability"], drawn["probability"])
        np.testing.assert_allclose(here["posterior"], case.posterior, atol=1e-6)
        for name in ("mean", "std", "initial_estimate"):
            gap = here[name].values.astype(float) - drawn[name].values
            assert (gap >= 0).all() and gap.max() <= 1 / 512, name
        np.testing.assert_array_equal(
            here["mean"] <= here["threshold_px"], drawn["mean"] <= drawn.attrs["threshold_px"]
        )
        kept = here["distance"].values[: method.members]
        assert 0 <= (kept - drawn["distance"].values).min() and (kept - drawn["distance"].values).max() <= 1 / 512
        assert np.isnan(here["distance"].values[method.members :]).all()
        quantiles = np.quantile(drawn["distance"].values, SCENES.quantiles, axis=0)
        np.testing.assert_allclose(here["quantiles"], quantiles, atol=1 / 512)
        for name, value in scored(drawn, case.truth, case.raters).items():
            np.testing.assert_array_equal(here[name], value, err_msg=name)


def test_each_case_has_noise_of_its_own(tmp_path):
    "The same picture under two names: other members; alone or beside others: the same."
    weights = tiny_weights(tmp_path / "tiny.safetensors")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for kind, values in (("images", picture), ("masks", 255 * (picture[..., 0] > 128).astype(np.uint8))):
        (tmp_path / kind).mkdir()
        for name in "ab":
            Image.fromarray(values).save(tmp_path / kind / f"{name}.png")
    found = {}
    for names in (("a", "b"), ("b",)):
        plan = StudyPlan("folder", (quick("one", weights, 4),), "all", cases=names, keep=4)
        finish(run_study(plan, tmp_path / f"{''.join(names)}.zarr", tmp_path), progress=False)
        study = open_study(tmp_path / f"{''.join(names)}.zarr").load()
        found |= {(names, name): study["distance"].sel(case=name).values.squeeze() for name in names}
    a, b = (found[("a", "b"), name] for name in "ab")
    np.testing.assert_array_equal(found[("b",), "b"], b)
    assert abs(np.corrcoef((a - a.mean(0)).ravel(), (b - b.mean(0)).ravel())[0, 1]) < 0.1
    assert case_seed(0, "a") != case_seed(1, "a") and 0 <= case_seed(-1, "ä") < 2**32


def test_another_version_is_not_mixed_in(whole, tmp_path, monkeypatch):
    store = unfinished(copied(whole, tmp_path), (1, 0))
    monkeypatch.setattr(study, "__version__", "99.0")
    with pytest.raises(ValueError, match=r"copy.zarr was begun with something else \(sdfdiff .*, now 99.0\)"):
        finish(run_study(SCENES, store, resume=True), progress=False)


def test_a_study_whose_cases_share_noise_is_read_and_not_continued(whole, tmp_path):
    store = unfinished(copied(whole, tmp_path), (1, 0))
    described = json.loads((store / "zarr.json").read_text())
    del described["attributes"]["noise"]
    (store / "zarr.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match="was begun by an earlier version of sdfdiff; it can be read"):
        finish(run_study(SCENES, store, resume=True), progress=False)
    assert open_study(store, partial=True).sizes["case"] == 1


def test_a_store_describes_itself(whole):
    "Whoever finds it can tell what it is, in which units, and do it again."
    found = open_study(whole)
    assert from_json(found.attrs["plan"]) == SCENES
    assert {"title", "conventions", "dataset", "split", "sdfdiff_version", "torch_version", "numpy_version"} <= set(
        found.attrs
    )
    for name, data in found.data_vars.items():
        assert data.attrs.get("units") and data.attrs.get("long_name"), name
    for name, data in found.coords.items():
        texts = data.dtype.kind in "UOb" or name in ("member", "rater", "seed")
        assert texts or (data.attrs.get("units") and data.attrs.get("long_name")), name
    kinds = {name: data.dtype for name, data in found.data_vars.items()}
    assert {
        str(kinds[name])
        for name in (
            "mean",
            "std",
            "probability",
            "initial_estimate",
            "quantiles",
            "distance",
            "image",
            "posterior",
            "raters",
        )
    } == {"float32"}
    assert {str(kinds[name]) for name in ("truth", "inside", "finished")} == {"bool"} and all(
        kinds[name].kind == "f" for name in NUMBERS
    )
    on_disk = {
        array.metadata.data_type.to_native_dtype()
        for name, array in zarr.open_group(whole, mode="r").arrays()
        if name in ("mean", "raters", "image")
    }
    assert on_disk == {np.dtype(np.float32)}, "double the size would be wasted"
    for name in ("mean", "truth", "quantiles", "crps"):
        assert all(
            size == 1
            for chunks, dim in zip(found[name].chunks, found[name].dims)
            if dim in ("case", "method")
            for size in chunks
        )
    again = StudyPlan("tissue", from_json(found.attrs["plan"]).methods, cases=tuple(found["case"].values.tolist()))
    assert [path.name for path in study_cases(again)] == found["case"].values.tolist()


def test_a_store_can_be_read_without_us(whole):
    "By zarr alone."
    arrays = zarr.open_group(whole, mode="r")
    np.testing.assert_array_equal(arrays["mean"][1, 0], open_study(whole)["mean"][1, 0])
    assert arrays.attrs["title"] == "sdfdiff study" and arrays["mean"].attrs["units"] == "px"


def test_images_of_different_sizes(ragged):
    root, store, plan = ragged
    found = open_study(store).load()
    assert (found.sizes["row"], found.sizes["column"]) == (56, 64)
    for k, (rows, columns) in enumerate(((48, 40), (40, 64), (56, 48))):
        one = found.isel(case=k)
        expected = np.zeros((56, 64), bool)
        expected[:rows, :columns] = True
        np.testing.assert_array_equal(one["inside"], expected)
        assert (int(one["rows"]), int(one["columns"])) == (rows, columns)
        for name in ("mean", "std", "probability", "initial_estimate", "quantiles", "distance", "image"):
            known = np.isfinite(one[name].values)
            assert (known == expected).all(), name
        assert not one["truth"].values[~expected].any()
        picture = np.asarray(Image.open(root / "images" / f"{k}.png")).transpose(2, 0, 1) / 255
        assert np.abs(one["image"].values[:, :rows, :columns] - picture).max() <= 1 / 256 + 1e-6
    assert (
        not found["truth"].isel(case=1).any() and found["f1"].notnull().all() and int(found["fragments_truth"][1]) == 0
    )
    assert "ged_u" not in found and "raters" not in found and "posterior" not in found
    verified = verify(open_study(store), 20, progress=False)
    assert (
        np.isnan(verified["needed_margin"].isel(case=1)).all()
        and verified["needed_margin"].isel(case=[0, 2]).notnull().all()
    )


def test_scenes_for_a_network_that_sees_half_the_resolution(tmp_path):
    "The exact posterior follows the pixels."
    weights = tiny_weights(tmp_path / "half.safetensors", preparation=NUCLEI)
    finish(run_study(StudyPlan("tissue", (quick("half", weights, 2),), cases=1), tmp_path / "a.zarr"), progress=False)
    found, full = (
        open_study(tmp_path / "a.zarr"),
        prepare_case(study_cases(SCENES)[0], load_model("tissue").preparation),
    )
    exact, truth = (one.reshape(32, 2, 32, 2) for one in (full.posterior, full.truth))
    np.testing.assert_allclose(found["posterior"][0], exact.mean(axis=(1, 3)), atol=1e-6)
    assert found["truth"].values[0][truth.sum(axis=(1, 3)) > 2].all()


def test_true_objects_are_instances_where_they_are_known(tmp_path, tmp_path_factory):
    "Two nuclei that touch are two objects; a mask without numbers has pieces."
    weights, labels = tiny_weights(tmp_path / "tiny.safetensors"), np.zeros((40, 40), np.uint16)
    labels[5:15, 5:15], labels[5:15, 15:25], labels[25:30, 5:30] = 1, 2, 3
    picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    for kind, values in (("images", (picture, picture)), ("masks", (labels, 255 * (labels > 0).astype(np.uint8)))):
        (tmp_path / kind).mkdir()
        for name, one in zip(("numbers", "mask"), values, strict=True):
            Image.fromarray(one).save(tmp_path / kind / f"{name}.png")
    plan = StudyPlan("folder", (quick("one", weights, 2),), "all", images=False)
    finish(run_study(plan, tmp_path / "a.zarr", tmp_path), progress=False)
    found = verify(open_study(tmp_path / "a.zarr"), 2, progress=False)
    counted = dict(zip(found["case"].values.tolist(), found["objects_true_objects"].values[:, 0].tolist()))
    assert counted == {"numbers": 3, "mask": 2}
    one = tmp_path_factory.mktemp("one")
    Image.fromarray(labels).save(one / "mask.png")
    with pytest.warns(UserWarning, match="1 of 2 images have no label image in .*one.* .numbers."):
        finish(run_study(plan, tmp_path / "b.zarr", tmp_path, instances=one), progress=False)
    found = verify(open_study(tmp_path / "b.zarr"), 2, progress=False)
    assert found["objects_true_objects"].values.ravel().tolist() == [3, 3], "a folder of label images says it, too"
    assert open_study(tmp_path / "b.zarr").attrs["plan"] == open_study(tmp_path / "a.zarr").attrs["plan"]
    with pytest.raises(ValueError, match="b.zarr was begun with something else .the mask of mask"):
        next(run_study(plan, tmp_path / "b.zarr", tmp_path, resume=True))


def test_nothing_but_what_the_plan_asks_for(tmp_path):
    plan = StudyPlan("tissue", (quick("a", "tissue", 2),), cases=1, quantiles=(), images=False)
    finish(run_study(plan, tmp_path / "a.zarr"), progress=False)
    found = open_study(tmp_path / "a.zarr")
    assert not {"quantiles", "image", "distance"} & set(found) and not {"quantile", "channel", "member"} & set(
        found.dims
    )


# ---- the same bytes however it was done


@pytest.mark.parametrize(("batch", "workers"), [(1, 1), (3, 2), (16, None)])
def test_batches_and_workers_leave_no_trace(whole, tmp_path, batch, workers):
    finish(run_study(SCENES, tmp_path / "a.zarr", batch=batch, workers=workers), progress=False)
    assert content(tmp_path / "a.zarr") == content(whole)


def test_threads_leave_no_trace(whole, tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        finish(run_study(SCENES, tmp_path / "a.zarr"), progress=False)
    finally:
        torch.set_num_threads(threads)
    assert content(tmp_path / "a.zarr") == content(whole)


@pytest.mark.parametrize("batch", [1, 3])
def test_float32_networks_leave_no_trace_either(tmp_path, monkeypatch, batch):
    "As on machines without bfloat16."
    monkeypatch.setattr(study, "load_model", lambda path: load_model(path, dtype=torch.float32))
    study._loaded.cache_clear()
    plan = StudyPlan("tissue", (quick("a", "tissue", 4),), cases=1, keep=4)
    for name, size in (("a", 4), ("b", batch)):
        finish(run_study(plan, tmp_path / f"{name}.zarr", batch=size), progress=False)
    study._loaded.cache_clear()
    assert content(tmp_path / "a.zarr") == content(tmp_path / "b.zarr")


def test_images_of_different_sizes_in_other_batches(ragged, tmp_path):
    root, store, plan = ragged
    finish(run_study(plan, tmp_path / "a.zarr", root, batch=1, workers=2), progress=False)
    assert content(tmp_path / "a.zarr") == content(store)


# ---- stopped and continued


def runner(tmp_path, body):
    "A process of its own that runs a study of SCENES."
    code = f"""
import os, sys, time
sys.path.insert(0, {str(HERE)!r})
from test_study import SCENES
from sdfdiff.study import store as study
from sdfdiff.study.store import finish, run_study
{body}
"""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_killed_and_resumed(whole, tmp_path):
    "SIGKILL between two variables of the third piece: not a byte is lost, nothing is done twice."
    store = tmp_path / "a.zarr"
    process = runner(
        tmp_path,
        f"""
pieces, write = [], study._write
def _write(store, opened, values, region):
    if "mean" in values:
        pieces.append(region)
    if len(pieces) == 3:
        write(store, opened, dict(list(values.items())[:2]), region)
        print("now", flush=True)
        time.sleep(60)
    write(store, opened, values, region)
study._write = _write
finish(run_study(SCENES, {str(store)!r}), progress=False)
""",
    )
    assert any(line.strip() == "now" for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert done_pieces(store) == 2 and (store / "mean" / "c" / "1" / "0" / "0" / "0").exists()
    finished = [
        path
        for path in store.rglob("*")
        if path.is_file() and path.relative_to(store).parts[1:4] in {("c", "0", "0"), ("c", "0", "1")}
    ]
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in finished}
    with pytest.raises(
        ValueError,
        match="half-written, 1 of its 2 cases are finished: pass resume=True when running it again, or partial=True",
    ):
        open_study(store)
    partial = open_study(store, partial=True)
    assert partial["case"].values.tolist() == ["scene 1000"] and partial["mean"].notnull().all()
    with pytest.raises(FileExistsError, match="a.zarr exists: pass resume=True to continue it, or force=True"):
        finish(run_study(SCENES, store), progress=False)
    steps = list(run_study(SCENES, store, resume=True))
    assert [(step.done, step.case, step.method) for step in steps] == [
        (2, None, None),
        (3, "scene 1001", "a"),
        (4, "scene 1001", "b"),
    ]
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in finished} == before and len(before) > 25
    assert content(store) == content(whole)


def test_interrupted_in_mid_piece(whole, tmp_path, monkeypatch):
    calls = stopped_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        finish(run_study(SCENES, tmp_path / "a.zarr"), progress=False)
    assert done_pieces(tmp_path / "a.zarr") == 1 and not list(tmp_path.glob(".writing*"))
    assert finish(run_study(SCENES, tmp_path / "a.zarr", resume=True), progress=False).done == 4
    assert len(calls) == 5 and content(tmp_path / "a.zarr") == content(whole)
    assert finish(run_study(SCENES, tmp_path / "a.zarr", resume=True), progress=False) == Progress(4, 4)
    assert len(calls) == 5


def test_interrupted_while_the_store_is_made(tmp_path, monkeypatch):
    "Then there is no store at all, and none is needed to resume."
    with monkeypatch.context() as patch:
        patch.setattr(study, "known", lambda case: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            finish(run_study(SCENES, tmp_path / "a.zarr"), progress=False)
    assert not list(tmp_path.iterdir())
    running = run_study(SCENES, tmp_path / "a.zarr", resume=True)
    assert next(running) == Progress(0, 4)
    running.close()
    with pytest.raises(ValueError, match="0 of its 2 cases are finished: pass resume=True when running it again.$"):
        open_study(tmp_path / "a.zarr", partial=True)


def test_a_full_disk(whole, tmp_path, monkeypatch):
    writer, calls = xr.Dataset.to_zarr, []

    def full(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 8:  # the store, two cases, two pieces with their marks, and then no more
            raise OSError(errno.ENOSPC, "No space left on device")
        return writer(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset, "to_zarr", full)
        with pytest.raises(
            OSError,
            match="no space left for .*a.zarr: what is finished is kept, make room: pass resume=True to go on",
        ) as problem:
            finish(run_study(SCENES, tmp_path / "a.zarr"), progress=False)
    assert isinstance(problem.value, DiskFull) and done_pieces(tmp_path / "a.zarr") == 2
    finish(run_study(SCENES, tmp_path / "a.zarr", resume=True), progress=False)
    assert content(tmp_path / "a.zarr") == content(whole)


@pytest.fixture
def small_disk(tmp_path):
    "A disk of 4 MB; skip where mounting one is not allowed."
    place = tmp_path / "disk"
    place.mkdir()
    if (
        not shutil.which("mount")
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], capture_output=True).returncode
    ):
        pytest.skip("mounting a small disk is not allowed here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_disk_that_is_really_full(whole, small_disk):
    "One sentence; then room is made, and the study continues."
    needed = sum(-(-len(data) // 4096) * 4096 for data in content(whole).values())
    (small_disk / "other").write_bytes(bytes(2**22 - int(0.8 * needed)))
    store = small_disk / "a.zarr"
    with pytest.raises(OSError, match="no space left for .*a.zarr: what is finished is kept") as problem:
        finish(run_study(SCENES, store), progress=False)
    sentence(problem, store)
    assert 0 < done_pieces(store) < 4
    with pytest.raises(OSError, match="no space left"):
        finish(run_study(SCENES, store, resume=True), progress=False)
    (small_disk / "other").unlink()
    finish(run_study(SCENES, store, resume=True), progress=False)
    assert {name: data for name, data in content(store).items() if not name.endswith(".partial")} == content(whole)


# ---- a cluster


def test_a_cluster_that_loses_a_worker(whole, tmp_path):
    "Two processes, one of them killed in the middle: the same bytes as one process alone."
    distributed = pytest.importorskip("distributed")
    plan = SCENES
    with (
        distributed.LocalCluster(
            2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers, killed = client.run(os.getpid), None
        for step in run_study(plan, tmp_path / "a.zarr", client=client):
            if step.done == 1 and killed is None:
                killed = list(workers.values())[0]
                os.kill(killed, signal.SIGKILL)
    assert killed and step.done == step.total == 4
    assert content(tmp_path / "a.zarr") == content(whole)
    assert open_study(tmp_path / "a.zarr")["finished"].all()


def test_half_a_chunk_of_a_killed_process_is_swept_away(whole, tmp_path):
    "zarr writes a chunk under another name first; a kill in between leaves that name."
    store = Path(shutil.copytree(whole, tmp_path / "a.zarr"))
    (store / "finished" / "c" / "0.1f2e.partial").write_bytes(b"half")
    assert [step.done for step in run_study(SCENES, store, resume=True)] == [4]
    assert content(store) == content(whole)


def test_an_error_on_a_cluster_is_the_same_sentence(ragged, tmp_path):
    "And the rest is cancelled."
    distributed = pytest.importorskip("distributed")
    root, _, plan = ragged
    data = Path(shutil.copytree(root, tmp_path / "data"))
    with distributed.Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as client:
        running = run_study(plan, tmp_path / "a.zarr", data, client=client)
        os.remove(data / "images" / "2.png")
        with pytest.raises(ValueError, match="has no image for 2; expected images/NAME.png"):
            next(running)
        shutil.copy(root / "images" / "2.png", data / "images")
        running = run_study(plan, tmp_path / "a.zarr", data, client=client)
        next(running)
        os.remove(data / "images" / "2.png")
        with pytest.raises(FileNotFoundError, match="2.png does not exist"):
            finish(running, progress=False)


# ---- what is not mixed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"keep": 3}, "keep"),
        ({"cases": 3}, "cases"),
        ({"quantiles": (0.5,)}, "quantiles"),
        ({"images": False}, "images"),
        ({"split": "all"}, "split"),
        ({"methods": SCENES.methods[:1]}, "methods"),
        ({"methods": SCENES.methods[::-1]}, "methods"),
        ({"methods": (SCENES.methods[0], quick("b", "tissue", 3))}, "methods"),
    ],
)
def test_another_plan(whole, tmp_path, monkeypatch, change, named):
    store = copied(whole, tmp_path)
    before = content(store)
    monkeypatch.setattr(study, "_work", no_work)
    plan = StudyPlan(**{name: getattr(SCENES, name) for name in SCENES.__dataclass_fields__} | change)
    with pytest.raises(
        ValueError, match=rf"copy.zarr is the store of another plan \({named}.*\): use that plan, or another store"
    ) as problem:
        finish(run_study(plan, store, resume=True), progress=False)
    sentence(problem, store)
    assert content(store) == before


def test_lists_are_the_same_plan(whole, tmp_path):
    store = copied(whole, tmp_path)
    plan = StudyPlan("tissue", list(SCENES.methods), cases=2, keep=4, quantiles=list(SCENES.quantiles))
    assert finish(run_study(plan, store, resume=True), progress=False).done == 4


def test_weights_that_changed(ragged, tmp_path):
    "The same name, other content: in mid-study, that is refused."
    root, store, _ = ragged
    weights = tmp_path / "mine.safetensors"
    plan = StudyPlan("folder", (quick("tiny", tiny_weights(weights)),), "all", keep=1)
    for step in run_study(plan, tmp_path / "a.zarr", root):
        if step.done == 1:
            break
    good = weights.read_bytes()
    tiny_weights(weights, seed=1)
    os.utime(weights, ns=(time.time_ns() + 10**9,) * 2)
    with pytest.raises(
        ValueError,
        match=r"a.zarr was begun with something else \(the weights of tiny\): put it back, or start a new study",
    ) as problem:
        finish(run_study(plan, tmp_path / "a.zarr", root, resume=True), progress=False)
    sentence(problem, tmp_path / "a.zarr")
    assert done_pieces(tmp_path / "a.zarr") == 1
    weights.write_bytes(good[:-5])
    os.utime(weights, ns=(time.time_ns() + 2 * 10**9,) * 2)
    with pytest.raises(ValueError, match="mine.safetensors") as problem:
        finish(run_study(plan, tmp_path / "a.zarr", root, resume=True), progress=False)
    weights.write_bytes(good)
    os.utime(weights, ns=(time.time_ns() + 3 * 10**9,) * 2)
    finish(run_study(plan, tmp_path / "a.zarr", root, resume=True), progress=False)
    one, other = (open_study(place).drop_vars("weights").load() for place in (tmp_path / "a.zarr", store))
    one.attrs, other.attrs = {}, {}
    xr.testing.assert_equal(one.drop_vars("weights_checksum"), other.drop_vars("weights_checksum"))


def test_methods_that_see_different_images(tmp_path):
    weights = tiny_weights(tmp_path / "half.safetensors", preparation=NUCLEI)
    plan = StudyPlan("tissue", (quick("a", "tissue"), quick("half", weights)), cases=1)
    with pytest.raises(ValueError, match="'a' and 'half' prepare images in different ways") as problem:
        finish(run_study(plan, tmp_path / "a.zarr"), progress=False)
    sentence(problem)
    assert [path.name for path in tmp_path.iterdir()] == ["half.safetensors"]


def test_methods_that_see_the_same_images_by_other_words(tmp_path):
    "Weights with and without micrometres: what counts is how they prepare the images of this study."
    named = [(one, replace(NUCLEI, microns=microns)) for one, microns in (("old", None), ("new", 0.5), ("odd", 0.4))]
    weights = {one: tiny_weights(tmp_path / f"{one}.safetensors", preparation=how) for one, how in named}
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name, one in (("a.png", picture), ("a_mask.png", np.eye(64, dtype=np.uint8))):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.fromarray(one).save(tmp_path / "data" / name)

    def made(dataset, *names):
        plan = StudyPlan(dataset, tuple(quick(one, weights[one], 2) for one in names), "all", images=False)
        finish(run_study(plan, tmp_path / f"{dataset}_{'_'.join(names)}.zarr", tmp_path / "data"), progress=False)

    made("monuseg", "old", "new")
    made("folder", "old", "new", "odd")
    with pytest.raises(ValueError, match="'old' and 'odd' prepare images in different ways"):
        made("monuseg", "old", "new", "odd")


def test_a_case_more_or_less(ragged, tmp_path):
    root, store, plan = ragged
    data, store = Path(shutil.copytree(root, tmp_path / "data")), unfinished(copied(store, tmp_path), (2, 0))
    for part in ("images", "masks"):
        os.remove(data / part / "0.png")
    with pytest.raises(
        ValueError,
        match=r"copy.zarr was begun with other cases \(3, now 2\): the data set has changed; start a new study",
    ):
        finish(run_study(plan, store, data, resume=True), progress=False)


@pytest.mark.parametrize("change", ["other", "larger", "smaller"])
def test_a_mask_that_changed(ragged, tmp_path, change):
    "Or an image of another size."
    root, store, plan = ragged
    data, store = Path(shutil.copytree(root, tmp_path / "data")), unfinished(copied(store, tmp_path), (2, 0))
    mask = np.asarray(Image.open(data / "masks" / "2.png"))
    rows = {"other": 56, "larger": 80, "smaller": 48}[change]
    mask = np.resize(~mask if change == "other" else mask, (rows, mask.shape[1]))
    Image.fromarray(mask).save(data / "masks" / "2.png")
    if change != "other":
        Image.fromarray(np.zeros((rows, mask.shape[1], 3), np.uint8)).save(data / "images" / "2.png")
    with pytest.raises(
        ValueError,
        match=r"copy.zarr was begun with something else \((the image of 2, )?the mask of 2\): put it back, or start",
    ):
        finish(run_study(plan, store, data, resume=True), progress=False)


def test_a_mask_of_another_shape(ragged, tmp_path):
    root, _, plan = ragged
    data = Path(shutil.copytree(root, tmp_path / "data"))
    Image.fromarray(np.zeros((9, 9), bool)).save(data / "masks" / "1.png")
    with pytest.raises(ValueError, match="1.png has 9 x 9 pixels, but 1.png 40 x 64; expected one size") as problem:
        finish(run_study(plan, tmp_path / "a.zarr", data), progress=False)
    sentence(problem, data / "masks" / "1.png")
    assert not list(tmp_path.glob("*.zarr")) and not list(tmp_path.glob(".writing*"))


def test_files_may_change_between_two_runs_of_one_process(tmp_path):
    "What was read for the last run is not used for the next."
    root = folder(tmp_path / "data", shapes=((40, 40),))
    plan = StudyPlan("folder", (quick("tiny", tiny_weights(tmp_path / "tiny.safetensors")),), "all")
    finish(run_study(plan, tmp_path / "a.zarr", root), progress=False)
    folder(tmp_path / "data", shapes=((40, 40),), empty=(0,))
    finish(run_study(plan, tmp_path / "a.zarr", root, force=True), progress=False)
    found = open_study(tmp_path / "a.zarr")
    assert not found["truth"].any() and (found["f1"] == 0).all(), "the mask of the first run was used again"


# ---- places and files that are something else


@pytest.mark.parametrize(
    ("members", "out", "words"),
    [(3, "a", "a must end in .zarr"), (3, "a.nc", "a.nc must end in .zarr"), (1, "a.zarr", "at least 2")],
)
def test_refused_before_any_work(tmp_path, monkeypatch, members, out, words):
    monkeypatch.setattr(study, "_begin", no_work)
    with pytest.raises(ValueError, match=words):
        finish(
            run_study(
                StudyPlan("tissue", (method_of("default", name="a", weights="tissue", members=members),), cases=1),
                tmp_path / out,
            ),
            progress=False,
        )


def test_data_sets_need_a_folder(tmp_path):
    plan = StudyPlan("folder", SCENES.methods, "all")
    with pytest.raises(ValueError, match="The data set folder needs its folder: give it as root"):
        finish(run_study(plan, tmp_path / "a.zarr"), progress=False)
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        finish(run_study(plan, tmp_path / "a.zarr", tmp_path / "nowhere"), progress=False)


FOREIGN = {
    "file": lambda path: path.write_text("mine"),
    "empty folder": lambda path: path.mkdir(),
    "garbage": lambda path: (path.mkdir(), (path / "zarr.json").write_text("{")),
    "other zarr": lambda path: xr.Dataset({"a": ("b", [1, 2])}).to_zarr(path, consolidated=False),
    "same title": lambda path: xr.Dataset({"a": ("b", [1, 2])}, attrs={"title": "sdfdiff study"}).to_zarr(
        path, consolidated=False
    ),
    "no plan": lambda path: xr.Dataset(
        {"finished": (("case", "method"), [[True]])}, attrs={"title": "sdfdiff study"}
    ).to_zarr(path, consolidated=False),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_store_that_is_something_else(tmp_path, kind):
    path = tmp_path / "a.zarr"
    FOREIGN[kind](path)
    for action in (lambda: open_study(path), lambda: finish(run_study(SCENES, path, resume=True), progress=False)):
        with pytest.raises(ValueError, match="a.zarr is no store of a study") as problem:
            action()
        sentence(problem, path, "make one with run_study")
    assert path.exists()


def test_no_store_at_all(tmp_path):
    for name in ("a.zarr", "a.nc"):
        with pytest.raises(FileNotFoundError, match=f"{name} does not exist; check the spelling and the folder."):
            open_study(tmp_path / name)


def test_a_store_of_another_version(whole, tmp_path):
    "Its plan has settings that this version does not know."
    store = copied(whole, tmp_path)
    about = json.loads((store / "zarr.json").read_text())
    about["attributes"]["plan"] = json.dumps(json.loads(about["attributes"]["plan"]) | {"colours": 7})
    (store / "zarr.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match="copy.zarr has 'colours', which is no setting of a StudyPlan") as problem:
        finish(run_study(SCENES, store, resume=True), progress=False)
    sentence(problem, store)


# ---- damage


@pytest.mark.parametrize(
    "name",
    [
        "mean",
        "std",
        "probability",
        "initial_estimate",
        "f1",
        "ranks",
        "crps",
        "ged_u",
        "raters",
        "posterior",
        "inside",
        "truth",
    ],
)
def test_a_missing_chunk_of_a_finished_piece(whole, tmp_path, name):
    "Nothing is averaged over it: the case is named."
    store = copied(whole, tmp_path)
    chunk = next(path for path in (store / name / "c" / "0").rglob("*") if path.is_file())
    chunk.unlink()
    damaged = open_study(store)
    if name not in ("inside", "truth"):
        assert damaged[name].isel(case=0).isnull().any()
    with pytest.raises(ValueError, match="case scene 1000: ") as problem:
        verify(damaged, 20, progress=False)
    sentence(problem)


def test_a_damaged_chunk(whole, tmp_path):
    "Half of a file, as after a crash of the disk."
    store = copied(whole, tmp_path)
    chunk = store / "mean" / "c" / "0" / "0" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(ValueError, match="case scene 1000: "):
        verify(open_study(store), 20, progress=False)


def test_a_lost_mark_is_done_again(whole, tmp_path):
    store = unfinished(copied(whole, tmp_path), (0, 1), (1, 0))
    assert [(step.case, step.method) for step in run_study(SCENES, store, resume=True)] == [
        (None, None),
        ("scene 1000", "b"),
        ("scene 1001", "a"),
    ]
    assert content(store) == content(whole)


# ---- netCDF


@pytest.mark.parametrize("members", [False, True])
def test_one_file_holds_it_all(whole, tmp_path, members):
    export_study(whole, tmp_path / "a.nc", members)
    found, expected = open_study(tmp_path / "a.nc"), open_study(whole)
    expected = expected if members else expected.drop_dims("member")
    assert ("distance" in found) == members and found["mean"].chunks is not None
    xr.testing.assert_identical(found.load(), expected.load())
    assert {name: data.dtype for name, data in found.data_vars.items()} == {
        name: data.dtype for name, data in expected.data_vars.items()
    }
    assert from_json(found.attrs["plan"]) == SCENES
    if not members:
        one, other = (verify(which.isel(case=[1]), 20, progress=False) for which in (found, expected))
        xr.testing.assert_equal(one, other)


def test_exports_are_whole_or_not_there(whole, tmp_path, monkeypatch):
    (tmp_path / "a.nc").write_text("mine")
    with pytest.raises(FileExistsError, match="a.nc exists: pass force=True"):
        export_study(whole, tmp_path / "a.nc")
    with pytest.raises(ValueError, match="a.txt must end in .nc"):
        export_study(whole, tmp_path / "a.txt")
    with monkeypatch.context() as patch:
        patch.setattr(
            study.shutil, "disk_usage", lambda place: os.statvfs_result and type("Usage", (), {"free": 1000})()
        )
        with pytest.raises(OSError, match="b.nc may need . MiB and 0 MiB are free on its disk"):
            export_study(whole, tmp_path / "b.nc")
    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset, "to_netcdf", lambda *arguments, **options: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            export_study(whole, tmp_path / "a.nc", force=True)
    assert (tmp_path / "a.nc").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(ValueError, match="a.nc is no netCDF file that can be read"):
        open_study(tmp_path / "a.nc")
    xr.Dataset({"a": ("b", [1, 2])}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match="a.nc is not what is needed here"):
        open_study(tmp_path / "a.nc")
    half = unfinished(copied(whole, tmp_path), (0, 1))
    with pytest.raises(ValueError, match="half-written, 1 of its 2"):
        export_study(half, tmp_path / "b.nc")


def test_the_same_seed_needs_the_same_sampling(whole):
    "The settings of each method stand beside its numbers, too."
    found = open_study(whole)
    assert found["sampling"].values.tolist() == [json.dumps(untuned("dpm_sde", 2).sampling)] * 2 and found[
        "seed"
    ].values.tolist() == [
        0,
        1,
    ]
    assert found["calls"].values.tolist() == [method.calls for method in SCENES.methods] and found[
        "members"
    ].values.tolist() == [4, 3]
    assert set(found["weights_checksum"].values.tolist()) == {load_model("tissue").about["checksum"]}


# ---- what has changed since


def repainted(path):
    "Another image or mask of the same size under the same name."
    Image.fromarray(np.ascontiguousarray(np.asarray(Image.open(path))[::-1])).save(path)


@pytest.mark.parametrize("part", ["images", "masks"])
@pytest.mark.parametrize("finished", [True, False])
def test_a_file_that_changed_is_seen(ragged, tmp_path, part, finished):
    "Of a study that is finished, too: its old numbers are not those of the files that are there now."
    root, store, plan = ragged
    data, store = Path(shutil.copytree(root, tmp_path / "data")), copied(store, tmp_path)
    store = store if finished else unfinished(store, (0, 0))
    before = content(store)
    repainted(data / part / "2.png")
    said = rf"copy.zarr was begun with something else \(the {part[:-1]} of 2\): put it back, or start a new study"
    with pytest.raises(ValueError, match=said) as problem:
        finish(run_study(plan, store, data, resume=True), progress=False)
    sentence(problem)
    assert content(store) == before
    shutil.copy(root / part / "2.png", data / part / "2.png")
    assert finish(run_study(plan, store, data, resume=True), progress=False).done == 3


def test_an_image_that_changes_in_mid_study(ragged, tmp_path):
    root, _, plan = ragged
    data = Path(shutil.copytree(root, tmp_path / "data"))
    running = run_study(plan, tmp_path / "a.zarr", data)
    assert [next(running).done, next(running).done] == [0, 1]
    repainted(data / "images" / "1.png")
    with pytest.raises(ValueError, match=r"a.zarr was begun with something else \(the image of 1\)"):
        next(running)
    assert done_pieces(tmp_path / "a.zarr") == 1


def test_weights_that_changed_after_the_end(tmp_path):
    weights = tmp_path / "mine.safetensors"
    plan = StudyPlan("tissue", (quick("tiny", tiny_weights(weights)),), cases=1)
    finish(run_study(plan, tmp_path / "a.zarr"), progress=False)
    tiny_weights(weights, seed=1)
    with pytest.raises(ValueError, match=r"begun with something else \(the weights of tiny\)"):
        finish(run_study(plan, tmp_path / "a.zarr", resume=True), progress=False)


def test_a_store_without_checksums_is_continued_with_a_warning(ragged, tmp_path):
    "As earlier versions wrote them; a mask that changed is still seen by its pixels."
    root, store, plan = ragged
    data, store = Path(shutil.copytree(root, tmp_path / "data")), unfinished(copied(store, tmp_path), (2, 0))
    for name in ("image_checksum", "mask_checksum"):
        shutil.rmtree(store / name)
    with pytest.warns(UserWarning, match="copy.zarr was written by an earlier version: .*the image of 0") as said:
        assert finish(run_study(plan, store, data, resume=True), progress=False).done == 3
    assert len(said) == 1
    unfinished(store, (2, 0))
    repainted(data / "masks" / "2.png")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match=r"something else \(the mask of 2\)"):
        finish(run_study(plan, store, data, resume=True), progress=False)


# ---- two processes, one store


def test_two_processes_begin_one_study(whole, tmp_path, monkeypatch):
    "The later one is refused in one sentence; the earlier one goes on in its store."
    place, known = tmp_path / "a.zarr", study.known
    first = run_study(SCENES, place)

    def overtaken(case):
        patch.setattr(study, "known", known)
        assert next(first).done == 0
        return known(case)

    with monkeypatch.context() as patch:
        patch.setattr(study, "known", overtaken)
        with pytest.raises(FileExistsError, match="a.zarr was made by another program in the meantime: pass .*resume="):
            next(run_study(SCENES, place))
    assert [step.done for step in first] == [1, 2, 3, 4] and content(place) == content(whole)


@pytest.mark.parametrize("how", ["removed", "of another plan"])
def test_a_store_that_another_process_takes_away(tmp_path, how):
    "One sentence, and not a piece in a store where it does not belong."
    place, plan = tmp_path / "a.zarr", StudyPlan("tissue", (quick("a", "tissue", 2),), cases=2)
    running = run_study(plan, place)
    assert [next(running).done, next(running).done] == [0, 1]
    if how == "removed":
        shutil.rmtree(place)
    else:
        next(run_study(StudyPlan("tissue", (quick("a", "tissue", 2, seed=1),), cases=2), place, force=True))
    with pytest.raises(
        (ValueError, OSError), match="a.zarr (does not exist|was begun with something else .*the plan)"
    ) as problem:
        next(running)
    sentence(problem)
    assert how == "removed" or done_pieces(place) == 0


def test_names_with_two_colons(tmp_path, monkeypatch):
    'Which xarray and zarr take for a chain of addresses, where they are given as texts: "a::b.zarr" is a folder here.'
    monkeypatch.chdir(tmp_path)
    plan = StudyPlan("tissue", (quick("a", "tissue", 2),), cases=1)
    finish(run_study(plan, "a::b.zarr"), progress=False)
    finish(run_study(plan, "a::b.zarr", resume=True), progress=False)
    export_study("a::b.zarr", "c::d.nc")
    assert sorted(os.listdir()) == ["a::b.zarr", "c::d.nc"]
    assert (open_study("a::b.zarr")["f1"].values == open_study("c::d.nc")["f1"].values).all()


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text")
def test_names_that_are_no_text(tmp_path):
    "Bytes that are no UTF-8 in a file's name: the case has a name that every format can hold."
    root = folder(tmp_path / "data", shapes=((40, 40),))
    for part in ("images", "masks"):
        (root / part / "0.png").rename(os.fsdecode(bytes(root / part) + b"/\xff0.png"))
    plan = StudyPlan("folder", (quick("tiny", tiny_weights(tmp_path / "tiny.safetensors")),), "all")
    for resume in (False, True):
        finish(run_study(plan, tmp_path / "a.zarr", root, resume=resume), progress=False)
    assert open_study(tmp_path / "a.zarr")["case"].values.tolist() == ["\\xff0"]
