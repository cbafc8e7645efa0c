"`sdfdiff study` and `sdfdiff report`, typed as in a shell: what they write, how they continue, what they refuse."

import html
import json
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from shell import files, no_work, refused, typist
from small_studies import folder as small_folder

from sdfdiff.ensembles.method import method_of
from sdfdiff.files import Refused
from sdfdiff.study import store as studies
from sdfdiff.study.plan import StudyPlan, from_json, to_json
from sdfdiff.study.page import WORDS
from sdfdiff.study.store import open_study
from sdfdiff.study.verification import headline, read_verified
from sdfdiff.studying import _EXAMPLES, example_plan

PLAN = StudyPlan(
    "tissue",
    tuple(
        method_of("draft", name=name, weights="tissue", members=2, seed=k) for k, name in enumerate(("first", "second"))
    ),
    cases=2,
)
STUDY = ("study", "plan.json", "--out", "t.zarr")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("plan.json").write_text(to_json(PLAN))
    return typist(capsys)


def content(store="t.zarr"):
    return {name: Path(store, name).read_bytes() for name in files(store)}


class Stop:
    "Presses Ctrl-C, or breaks the work in another way, before piece number `after`."

    def __init__(self, monkeypatch, after, error=KeyboardInterrupt):
        work, self.done = studies._work, 0

        def stopped(*task):
            if self.done == after:
                raise error
            self.done += 1
            return work(*task)

        monkeypatch.setattr(studies, "_work", stopped)


@pytest.mark.parametrize("name", _EXAMPLES)
def test_example(run, name):
    "A plan that can be read back, with weights that fit the data."
    before = files()
    code, out, lines = run("study", "--example", name)
    assert code == 0 and files() == before and from_json(out) == example_plan(name)
    assert len(lines) == (name == "raters") and all("placeholder" in one and "train raters" in one for one in lines)
    plan = from_json(out)
    assert (
        plan.dataset == name and len(plan.methods) == 2 and plan.split == ("all" if name == "raters" else "validation")
    )
    assert {one.weights for one in plan.methods} == {
        {"tissue": "tissue", "glas": "glands", "monuseg": "nuclei", "raters": "raters.safetensors"}[name]
    }


def test_study_of_true_objects(run):
    "The folder of label images is handed on; what is no folder is refused before any work."
    small_folder(Path("data"))
    plan = replace(PLAN, dataset="folder", split="all", cases=None)
    Path("folder.json").write_text(to_json(plan))
    words = ("study", "folder.json", "--out", "o.zarr", "--root", "data", "--instances")
    assert refused(run(*words, "nowhere"), "nowhere is not a folder", "label images")
    assert not Path("o.zarr").exists()
    Path("one").mkdir()
    for k in range(3):
        labels = np.asarray(Image.open(f"data/masks/{k}.png")).astype(np.uint16)
        labels[:, 20:] *= 2
        Image.fromarray(labels).save(f"one/{k}.png")
    assert run(*words, "one")[0] == 0 and open_study("o.zarr")["instances"].max() == 2


def test_study_and_report(run, monkeypatch):
    "The whole way, and the numbers in the page are those of the summary."
    code, out, lines = run(*STUDY, "--workers", "2", "--netcdf", "new/s.nc")
    assert (code, lines) == (0, []) and "2 images, 2 ways" in out and "new/s.nc" in out
    assert dict(open_study("t.zarr").sizes)["case"] == 2 and open_study("new/s.nc")["method"].values.tolist() == [
        "first",
        "second",
    ]
    code, out, lines = run("report", "t.zarr", "--out", "new/r.html", "--numbers", "new/n.nc")
    assert (code, lines) == (0, []) and "new/r.html: 2 images" in out and "numbers: new/n.nc" in out
    page = Path("new/r.html").read_text()
    assert "http" not in page and "<script" not in page
    numbers = headline(read_verified("new/n.nc"))
    for name in numbers["quantity"].values:
        words, _, times, digits, _ = WORDS[name]
        shown = re.search(
            re.escape(html.escape(words)) + r"</th><td>[^<]*</td><td>[^<]*</td><td>(-?[\d.]+)[^<]*</td><td>(-?[\d.]+)",
            page,
        )
        assert [float(one) for one in shown.groups()] == pytest.approx(
            (times * numbers.sel(quantity=name, bound="estimate")).round(digits).values, abs=1.1 * 10.0**-digits
        ), name
    monkeypatch.setattr("sdfdiff.study.report.CHARTS", ())  # only the tables are looked at
    assert (
        run("report", "new/n.nc", "--out", "again.html")[0] == 0
        and run("report", "new/s.nc", "--out", "third.html")[0] == 0
    )
    tables = [
        re.findall("<table.*?</table>", Path(name).read_text(), re.S)
        for name in ("new/r.html", "again.html", "third.html")
    ]
    assert tables[0] == tables[1] == tables[2]


def test_stop_and_resume(run, monkeypatch):
    "Ctrl-C in the third of four pieces: one sentence says how to continue, and the bytes come out as in one go."
    assert run("study", "plan.json", "--out", "whole.zarr")[0] == 0
    with monkeypatch.context() as patch:
        Stop(patch, 2)
        code, _, lines = run(*STUDY)
    assert (
        code == 130
        and len(lines) == 1
        and "--resume" in lines[0]
        and studies._opened(Path("t.zarr"))["finished"].values.sum() == 2
    )
    assert refused(run(*STUDY), "t.zarr", "--resume", "--force")
    assert (
        refused(run("report", "t.zarr", "--out", "r.html"), "half-written", "--resume", "--partial")
        and not Path("r.html").exists()
    )
    with monkeypatch.context() as patch:
        rest = Stop(patch, 99)
        assert run(*STUDY, "--resume")[0] == 0 and rest.done == 2
    assert content() == content("whole.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(studies, "_work", no_work)
        assert run(*STUDY, "--resume", "--netcdf", "s.nc")[0] == 0, "nothing is left to do but to write the file"
    assert open_study("s.nc").sizes["case"] == 2


KILLED = """
import os, signal, sys
from sdfdiff.study import store as study
from sdfdiff.command import main
write, marked = study._write, []
def killed(store, opened, values, region):
    marked.extend(["finished"] * ("finished" in values))
    if len(marked) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(store, opened, values, region)
study._write = killed
main(sys.argv[1:])
"""


def test_resume_after_a_kill(run):
    "A process killed when the third piece was written but not marked: the first two are kept, the others done again."
    process = subprocess.run([sys.executable, "-c", KILLED, *STUDY], capture_output=True, timeout=200)
    assert process.returncode == -signal.SIGKILL and open_done() == 2
    assert run(*STUDY, "--resume")[0] == 0 and open_done() == 4
    assert run("study", "plan.json", "--out", "whole.zarr")[0] == 0 and content() == content("whole.zarr")


def open_done():
    return int(studies._opened(Path("t.zarr"))["finished"].values.sum())


def test_partial(run, monkeypatch):
    "The finished images of a study that is not finished."
    with monkeypatch.context() as patch:
        Stop(patch, 3)
        run(*STUDY)
    assert refused(run("report", "t.zarr", "--out", "r.html"), "1 of its 2 cases")
    code, out, _ = run("report", "t.zarr", "--out", "r.html", "--partial")
    assert code == 0 and "1 image," in out and "There is no summary" in Path("r.html").read_text()


def test_cluster(run):
    "Two processes draw the same bytes as one; a scheduler that is not there is one sentence."
    pytest.importorskip("distributed")
    assert run(*STUDY)[0] == 0
    code, out, _ = run("study", "plan.json", "--out", "c.zarr", "--cluster", "2")
    assert code == 0 and "2 images" in out and content("c.zarr") == content()


def test_workers_do_not_hear_ctrl_c():
    "Those that a study starts; what the study itself does with Ctrl-C is as before."
    pytest.importorskip("distributed")
    from sdfdiff.studying import cluster_client

    before = signal.getsignal(signal.SIGINT)
    with cluster_client(3) as client:
        assert signal.getsignal(signal.SIGINT) is before
        assert list(client.run(signal.getsignal, signal.SIGINT).values()) == [signal.SIG_IGN] * 3, (
            "as many as asked for"
        )


def test_no_such_cluster(run, monkeypatch):
    import distributed

    def nobody(address, timeout):
        assert (address, timeout) == ("tcp://127.0.0.1:1", 10)
        raise OSError("Timed out trying to connect")

    monkeypatch.setattr(distributed, "Client", nobody)
    assert (
        refused(run(*STUDY, "--cluster", "tcp://127.0.0.1:1"), "tcp://127.0.0.1:1", "scheduler")
        and not Path("t.zarr").exists()
    )
    for word in ("0", "many", "2.5"):
        assert run(*STUDY, "--cluster", word)[0] == 2


def test_workers_that_die(run, monkeypatch):
    "Workers that die again and again (out of memory, mostly) end in a sentence."
    from distributed import KilledWorker

    Stop(monkeypatch, 0, KilledWorker("piece", None, 3))
    from sdfdiff import studying

    with pytest.raises(OSError, match="--resume"), studying.cluster_client(None):
        raise OSError("--resume")
    with pytest.raises(Refused, match="memory.*resume=True"), studying.cluster_client(1):
        raise KilledWorker("piece", None, 3)


def test_words_without_sense(run, monkeypatch):
    "Seen before any work; nothing is written or changed."
    monkeypatch.setattr(studies, "ensemble", no_work)
    Path("old.nc").write_text("mine")
    Path("empty.zarr").mkdir()
    values = json.loads(to_json(PLAN))
    Path("extra.json").write_text(json.dumps(values | {"colour": 1}))
    Path("weights.json").write_text(json.dumps(values | {"methods": [values["methods"][0] | {"weights": "liver"}]}))
    Path("root.json").write_text(json.dumps(values | {"dataset": "glas"}))
    Path("broken.json").write_text("{")
    before = files()
    for words, expected in [
        ((), ("--example",)),
        (("plan.json",), ("--out",)),
        (("missing.json", "--out", "n.zarr"), ("missing.json",)),
        (("broken.json", "--out", "n.zarr"), ("broken.json", "JSON")),
        (("extra.json", "--out", "n.zarr"), ("extra.json", "colour")),
        (("weights.json", "--out", "n.zarr"), ("liver",)),
        (("root.json", "--out", "n.zarr"), ("--root",)),
        (("plan.json", "--out", "n"), ("n must end in .zarr",)),
        (("plan.json", "--out", "empty.zarr"), ("empty.zarr", "--force")),
        (("plan.json", "--out", "empty.zarr", "--resume"), ("empty.zarr", "no store")),
        (("plan.json", "--out", "n.zarr", "--resume", "--force"), ("--resume", "--force")),
        (("plan.json", "--out", "n.zarr", "--members-too"), ("--netcdf",)),
        (("plan.json", "--out", "n.zarr", "--netcdf", "a.csv"), (".nc",)),
        (("plan.json", "--out", "n.zarr", "--netcdf", "old.nc"), ("old.nc",)),
        (("root.json", "--out", "n.zarr", "--root", "missing"), ("missing",)),
    ]:
        assert refused(run("study", *words), *expected)
    assert files() == before and Path("old.nc").read_text() == "mine" and not Path("n.zarr").exists()


def test_a_store_of_another_plan(run, monkeypatch):
    assert run(*STUDY)[0] == 0
    before = content()
    Path("other.json").write_text(to_json(StudyPlan("tissue", PLAN.methods[:1], cases=2)))
    assert (
        refused(run("study", "other.json", "--out", "t.zarr", "--resume"), "t.zarr", "another plan", "methods")
        and content() == before
    )
    assert (
        run("study", "other.json", "--out", "t.zarr", "--force")[0] == 0 and open_study("t.zarr").sizes["method"] == 1
    )
    for words, expected in [
        (("t.zarr", "--out", "r.pdf"), (".html",)),
        (("plan.json", "--out", "r.html"), ("plan.json", "no store")),
        (("missing.zarr", "--out", "r.html"), ("missing.zarr",)),
        (("missing.nc", "--out", "r.html"), ("missing.nc",)),
        (("t.zarr", "--out", "r.html", "--numbers", "n.csv"), (".nc",)),
        (("t.zarr", "--out", "plan.json"), (".html",)),
    ]:
        assert refused(run("report", *words), *expected) and not Path("r.html").exists()
    assert run("report", "t.zarr")[0] == 2, "--out is needed"
    Path("r.html").write_text("mine")
    monkeypatch.setattr("sdfdiff.study.report.verify", no_work)
    assert (
        refused(run("report", "t.zarr", "--out", "r.html"), "r.html", "--force")
        and Path("r.html").read_text() == "mine"
    )


def test_disk_full(run, monkeypatch):
    "One sentence, what is finished is kept."
    Stop(monkeypatch, 1, OSError(28, "No space left on device", "t.zarr/mean/c/0"))
    assert refused(run(*STUDY), "space", "--resume") and open_done() == 1
