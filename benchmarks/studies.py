"Make the stored results again: each from the plan that it holds, into a new folder, and compare both."

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

import numpy as np
import xarray as xr

from benchmarks.benchmark import run_benchmark
from benchmarks.competitors import OPTIONAL
from benchmarks.frontier import REFERENCE, judge
from benchmarks.plan import Plan
from sdfdiff.diffusion.model import load_model, weights_path
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.method import SAMPLER_FIELDS
from sdfdiff.files import read_dataset, write_dataset
from sdfdiff.study.plan import StudyPlan, from_json, study_cases
from sdfdiff.study.store import finish, open_study, run_study
from sdfdiff.study.verification import TITLE, verify

ROOT = Path(__file__).resolve().parents[1]
STUDY, FRONTIER, BENCHMARK, LATENCY = "sdfdiff study", "sdfdiff frontier", "sdfdiff benchmark", "latency"
COMMANDS = {  # title of a file: the command of `python -m benchmarks` that makes it
    "sdfdiff means": "means",
    "sdfdiff plain network": "plain",
    "sdfdiff two kinds of uncertainty": "kinds",
}
_TABLE = "sdfdiff table {0} --root DIR --budget 5 --out runs/table_{0}.nc --processes 2 --resume"
ELSEWHERE = {  # title of a file that is not made here: what makes it
    "sdfdiff table": f"`{_TABLE.format('monuseg')}`, and the same with glas, hours of training",
    "sdfdiff levers": "`python -m benchmarks.levers DIR data/levers.nc`, an hour",
    "sdfdiff ablations": "`python -m benchmarks.ablations DIR data/ablations.nc`, 20 minutes",
    "sdfdiff class comparison": "the slow cells of 10.4 blood cells, half an hour of training",
    "sdfdiff source pixels": "`python -m benchmarks.source_pixels DIR data/source_pixels.nc FILE`, five minutes",
    "sdfdiff instances": "`python -m benchmarks.instances DIR data/instances.nc RUNS`, two hours",
    "sdfdiff flow weights": "the slow cell of 10.8 flow matching, three trainings of a minute each",
    "sdfdiff schedules": "the slow cell of 10.9 variance preserving",
    "sdfdiff figure": "the slow cell of 9.8 who wins, from the networks of `" + _TABLE.format("monuseg") + "`",
}
_TISSUE, _OUT = "sdfdiff train tissue --steps 2500", "--out runs/"
TRAINING = {  # weights that are not shipped: the command that trains them, seed 0
    "runs/raters.safetensors": f"sdfdiff train raters --root DIR --steps 700 --no-validation {_OUT}raters.safetensors",
} | {
    f"runs/tissue_{name}.safetensors": f"{_TISSUE} {words} {_OUT}tissue_{name}.safetensors"
    for name, words in {
        "preconditioned_binary": "--target binary",
        "score_distance": "--form raw-score",
        "score_binary": "--form raw-score --target binary",
        "scorehelp_distance": "--form raw-score-helped",
        "scorehelp_binary": "--form raw-score-helped --target binary",
    }.items()
}
EARLIER = {  # weights of earlier versions, beside which today's are judged: the history holds them
    f"runs/{name}_earlier.safetensors": f"git show ef5bfd0:data/{name}.safetensors > runs/{name}_earlier.safetensors"
    for name in ("nuclei", "glands")
}


@dataclass(frozen=True)
class Stored:
    "A result that is stored, and how it was made."

    path: Path  # A .nc or .json file
    title: str  # Kind: STUDY, TITLE (of `verify`), FRONTIER, BENCHMARK, LATENCY, or one of COMMANDS
    plan: StudyPlan | Plan | None  # None: the program that makes it holds all that is to be known
    images: tuple[str, ...] = ()  # Names of the cases that were drawn
    pixels: int = 0  # Of all these images together, those that the network saw

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def calls(self) -> int:  # Network calls of the whole study: cases x members x calls of the sampler
        methods = self.plan.methods if isinstance(self.plan, StudyPlan) else ()
        return len(self.images) * sum(one.members * one.calls for one in methods)


def _stored(path: Path) -> Stored:
    "One file; ValueError, in one sentence, for one that does not say how it was made."
    if path.suffix == ".json":
        return Stored(path, LATENCY, None)
    with read_dataset(path, lazy=True) as found:
        about, title = found.attrs, found.attrs.get("title")
        if title in COMMANDS | ELSEWHERE:
            return Stored(path, title, None)
        if title == BENCHMARK:
            given = {key.removeprefix("plan_"): value for key, value in about.items() if key.startswith("plan_")}
            return Stored(path, title, Plan(**{key: _plain(value) for key, value in given.items()}))
        if title not in (STUDY, TITLE, FRONTIER) or "plan" not in about:
            raise ValueError(f"{path} does not hold the plan from which it was made.")
        plan = from_json(about["plan"], str(path))
        images = tuple(found["case"].values.tolist())
        side = plan.crop or 64  # of a frontier: the scenes of tissue have 64 x 64 pixels
        pixels = int((found["rows"] * found["columns"]).sum()) if "rows" in found else len(images) * side**2
        return Stored(path, title, plan, images, pixels)


def _plain(value):
    "A setting of `Plan` from an attribute of netCDF."
    return tuple(value.tolist()) if isinstance(value, np.ndarray) else value


def stored_results(
    folder: Path | None = None,  # Where they lie; None: data/
    only: tuple[str, ...] = (),  # Names such as study_posterior, or words of them such as posterior; none: all
) -> list[Stored]:  # In alphabetical order
    "The results that can be made again. ValueError for a name that is not there."
    folder = Path(folder or ROOT / "data")
    paths = sorted([*folder.glob("*.nc"), *folder.glob("latency.json")])
    for word in only:
        if not any(word == path.stem or word in path.stem.split("_") for path in paths):
            raise ValueError(f"No stored result {word!r}: choose among {', '.join(path.stem for path in paths)}.")
    chosen = [path for path in paths if not only or {path.stem, *path.stem.split("_")} & set(only)]
    return [_stored(path) for path in chosen]


def lacking(
    one: Stored,  # What is to be made
    roots: dict[str, str],  # Folder of each data set that is here, by its name
) -> str:  # Empty: nothing
    "What is needed and not here, in one sentence that says how to get it."
    if one.title == LATENCY:
        return "" if find_spec("playwright") else "it needs a browser: `make latency` installs what measures it."
    if one.title in ELSEWHERE:
        return f"it is made elsewhere, by {ELSEWHERE[one.title]}."
    if one.title in COMMANDS:
        return ""
    if one.title == BENCHMARK:
        absent = [name for name, module in OPTIONAL.items() if not find_spec(module)]
        return f"it needs {', '.join(absent)}: `make bench` installs them." if absent else ""
    absent = [name for name in dict.fromkeys(each.weights for each in one.plan.methods) if not _there(name)]
    if absent:
        ways = "; ".join((TRAINING | EARLIER).get(name, f"sdfdiff train ... --out {name}") for name in absent)
        return f"the weights {', '.join(absent)} are not here: {ways}"
    name = one.plan.dataset
    if name != "tissue" and not roots.get(name):
        return f"the data set {name} is not here: give its folder, {name.upper()}=DIR."
    try:
        study_cases(one.plan, roots.get(name))
    except (ValueError, OSError) as error:
        return f"the data set {name} is not what was drawn: {' '.join(str(error).split())}"
    return ""


def _there(weights: str) -> bool:
    try:
        return weights_path(weights).is_file()
    except FileNotFoundError:
        return False


@cache
def _seconds_per_pixel(weights: str, workers: int) -> float:
    "Of one network call, measured on this machine: 16 masks of 64 x 64 pixels, the second time."
    model, spent = load_model(weights), []
    image = np.zeros((model.network.architecture.image_channels, 64, 64), np.float32)
    for _ in range(2):
        start = perf_counter()
        calls = ensemble(model, image, "default", members=16, progress=False, workers=workers).attrs["calls_per_member"]
        spent.append(perf_counter() - start)
    return spent[-1] / (16 * calls * 64**2)


def seconds_of(
    one: Stored,  # What is to be made
    workers: int = 1,  # Batches at the same time
) -> float:  # NaN where the plan does not say it: benchmark and latency
    "How long the drawing will take here: a network call is timed, and the plan says how many there are."
    if not one.calls:
        return float("nan")
    here = [each.weights for each in one.plan.methods if each.weights not in TRAINING | EARLIER]
    return one.calls * one.pixels / len(one.images) * _seconds_per_pixel((here or ["nuclei"])[0], workers)


def overview(
    chosen: list[Stored],  # What is to be made
    wanting: dict[str, str],  # What each lacks, from `lacking`, by name
    workers: int = 1,  # Batches at the same time
) -> str:  # A line for each, and one for all
    "What will be made, how long its drawing takes on this machine, and what cannot be made because of what."
    lines, total = [], 0.0
    for one in chosen:
        if wanting[one.name]:
            lines.append(f"{one.name:<18} left out: {wanting[one.name]}")
            continue
        seconds = seconds_of(one, workers)
        total += 0 if np.isnan(seconds) else seconds
        amount = f"{len(one.images)} images, {one.calls:,} network calls, {_duration(seconds)}"
        other = (
            "trains networks of its own: its command says how long"
            if one.title in COMMANDS | ELSEWHERE
            else "some ten minutes"
        )
        lines.append(f"{one.name:<18} {amount if one.calls else other}")
    about = "the maps are then measured: a second or two per image and way to draw"
    return "\n".join([*lines, f"Drawing takes {_duration(total)} on this machine; {about}."])


def _duration(seconds: float) -> str:
    units = (("hours", 3600), ("minutes", 60), ("seconds", 1))
    name, length = next((one for one in units if seconds >= 2 * one[1]), units[-1])
    return f"about {seconds / length:.0f} {name}"


def shortened(
    one: Stored,  # A study
    cases: int | None,  # Its first so many; None: all
) -> Stored:
    "The same study with fewer cases, to try it; of other results, and with None, nothing changes."
    if cases is None or not isinstance(one.plan, StudyPlan) or cases >= len(one.images):
        return one
    images = one.images[:cases]
    return replace(
        one, plan=replace(one.plan, cases=images), images=images, pixels=one.pixels * cases // len(one.images)
    )


def make(
    one: Stored,  # What to make again
    out: Path,  # Folder to write to
    root: str | None = None,  # Folder of the data set; none for tissue
    workers: int = 1,  # Batches at the same time
    progress: bool = True,  # Show progress bars
) -> Path:  # The file; beside it lies the store of a study, with which the work is continued
    "Make one result, or go on where it was interrupted. A file that is there is kept. The numbers are those of today."
    new = Path(out) / one.path.name
    if new.exists():
        return new
    new.parent.mkdir(parents=True, exist_ok=True)
    if one.title == LATENCY:
        part = new.with_suffix(".part")
        subprocess.run([sys.executable, ROOT / "tests" / "benchmark_panels.py", part], check=True)
        part.replace(new)
    elif one.title in COMMANDS:
        words = [sys.executable, "-m", "benchmarks", COMMANDS[one.title], "--out", new.absolute()]
        subprocess.run(words, check=True, cwd=ROOT)
    elif one.title == BENCHMARK:
        write_dataset(run_benchmark(plan=one.plan, progress=progress), new)
    else:
        store = new.with_suffix(".zarr")
        finish(run_study(one.plan, store, root, resume=store.exists(), workers=workers), progress)
        write_dataset(_measured(one, open_study(store), progress), new)
    return new


def _measured(one: Stored, study: xr.Dataset, progress: bool) -> xr.Dataset:
    "What the stored file holds, of a new study: the same variables in the same number formats."
    before = read_dataset(one.path, lazy=True)
    ways = {
        STUDY: lambda: study.compute(),
        TITLE: lambda: verify(study, int(before.attrs["permutations"]), progress),
        FRONTIER: lambda: judge(study, before.attrs.get("reference", REFERENCE)),
    }
    found = ways[one.title]()
    absent = [name for name in before.data_vars if name not in found]
    if absent:
        raise ValueError(f"{one.path} holds {absent[0]}, which a study of today does not measure.")
    found = found[list(before.data_vars)]
    return found.assign({name: found[name].astype(before[name].dtype) for name in before.data_vars})


def differences(
    new: xr.Dataset,  # Made again
    stored: xr.Dataset,  # What it is compared with; it may have more cases
) -> dict[str, float]:  # By variable: inf where numbers are missing or dimensions differ
    "Largest difference of any number, as a part of the largest absolute number of its variable."
    found = {}
    for name in stored.data_vars:
        one, other = new.get(name), stored[name]
        if other.dtype.kind not in "biuf":
            continue
        if one is None or set(one.dims) != set(other.dims):
            found[name] = np.inf
            continue
        same = {dim: one[dim].values for dim in one.dims if dim in ("case", "method", "way")}
        one, other = (each.transpose(*other.dims).values.astype(float) for each in (one, other.sel(same)))
        if one.shape != other.shape or not np.array_equal(np.isnan(one), np.isnan(other)):
            found[name] = np.inf
            continue
        gap, scale = (0 if each.size == 0 else np.nanmax(abs(each), initial=0) for each in (one - other, other))
        found[name] = float(gap / scale) if scale else float(gap)
    return found


def compare(
    new: Path,  # Made by `make`
    one: Stored,  # What it is made from
) -> Iterator[str]:  # Lines to print
    "Is it the same plan, are they the same weights, how far apart are the numbers?"
    if one.title == LATENCY:
        now, before = (json.loads(Path(path).read_text())["latency"] for path in (new, one.path))
        ratios = {row: now[row]["median_ms"] / before[row]["median_ms"] for row in before if row in now}
        yield f"{one.name}: of the stored times, {', '.join(f'{row} {ratio:.2f}' for row, ratio in ratios.items())}"
        return
    now, before = read_dataset(new), read_dataset(one.path)
    if one.plan is None:
        unlike = ["the same plan" if now.attrs.get("plan") == before.attrs.get("plan") else "another plan"]
    else:
        unlike = [_unlike_plan(one, _stored(new))]
    if one.title in COMMANDS:
        unlike += ["the same weights" if _weights(now) == _weights(before) else "other weights"]
    elif one.title == BENCHMARK:
        times = [name for name in before.data_vars if "seconds" in name]
        ratio = np.nanmedian(np.concatenate([(now[name] / before[name]).values.ravel() for name in times]))
        unlike.append(f"the median of all times is {ratio:.2f} of the stored")
        now, before = now.drop_vars(times), before.drop_vars(times)
    else:
        weights, drawn = ([read(each) for each in (now, before)] for read in (_weights, _drawn))
        unlike += ["the same weights" if weights[0] == weights[1] else "other weights"]
        changed = [name for name in drawn[0] if drawn[0][name] != drawn[1].get(name)]
        unlike += [f"drawn in another way: {', '.join(changed)}"] if changed else ["drawn in the same way"]
    yield f"{one.name}: {'; '.join(unlike)}"
    found = sorted(differences(now, before).items(), key=lambda row: -row[1])
    same = sum(gap == 0 for _, gap in found)
    if same == len(found):
        yield f"  all {same} variables are the same, to the bit"
        return
    yield f"  {same} of {len(found)} variables are the same; largest differences, as a part of the largest number:"
    yield f"  of single images {_worst(found)}; of means over the images {_worst(_of_means(now, before))}"


def _of_means(now: xr.Dataset, before: xr.Dataset) -> list[tuple[str, float]]:
    "The same differences of what the notebooks read: means over the images, those that both have."
    if "case" not in before.dims:
        return []
    before = before.sel(case=now["case"].values)
    pairs = [each.drop_vars("case").mean("case") for each in (now, before)]
    return sorted(differences(*pairs).items(), key=lambda row: -row[1])


def _worst(found: list[tuple[str, float]]) -> str:
    "The three largest, in words."
    return ", ".join(f"{name} {gap:.2g}" for name, gap in found[:3] if gap > 0) or "none"


def _weights(result: xr.Dataset) -> set[str]:
    "Checksums of the networks."
    found = result.coords.get("weights_checksum", result.attrs.get("weights_checksum"))
    return set(np.atleast_1d(found).astype(str).tolist())


def _drawn(result: xr.Dataset) -> dict[str, dict]:
    "The sampler's settings by name of the method; earlier versions wrote them as Python writes a call."
    if "way" in result.dims:
        return {
            way: {key: str(result[key].sel(way=way).item()) for key in SAMPLER_FIELDS} for way in result["way"].values
        }
    texts = [str(text) for text in result["sampling"].values]
    trees = [ast.parse(text, mode="eval").body if text.startswith("Sampling(") else None for text in texts]
    settings = [{one.arg: ast.literal_eval(one.value) for one in tree.keywords} if tree else json.loads(text)
                for text, tree in zip(texts, trees)]  # fmt: skip
    return dict(zip(result["method"].values.tolist(), settings))


def _unlike_plan(one: Stored, new: Stored) -> str:
    "What differs between two plans, in words."
    names = one.plan.__dataclass_fields__
    unlike = [name for name in names if getattr(one.plan, name) != getattr(new.plan, name)]
    return f"plans differ in {', '.join(unlike)}" if unlike else "the same plan"


def replace_stored(
    made: list[tuple[Path, Stored]],  # New file, and the stored one that it replaces
) -> None:
    "Put new results in the place of the stored ones."
    for new, one in made:
        part = one.path.with_suffix(".part")
        shutil.copy(new, part)
        os.replace(part, one.path)
