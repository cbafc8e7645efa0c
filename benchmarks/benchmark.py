"Everything side by side in one run: factors, drivers, tiles, signed distances, number formats, memory."

from dataclasses import asdict
from time import perf_counter

import torch
import xarray as xr
from tqdm.auto import tqdm

from benchmarks.competitors import race_drivers, race_tiles, versions, with_units
from benchmarks.distances import race_distances
from benchmarks.factors import chain
from benchmarks.frontier import REFERENCE, judge_case, made_for_one_call, scenes, side_by_side
from benchmarks.memory import peak_memory
from benchmarks.plan import FULL, QUICK, Plan, machine, one_thread, slide
from sdfdiff.diffusion.model import Model, load_model
from sdfdiff.ensembles.collection import described, ensemble
from sdfdiff.ensembles.method import method_of
from sdfdiff.provenance import plain


def precision(
    plan: Plan,  # How much
    quality: str = "default",  # Method of the members
) -> xr.Dataset:  # By case: difference of F1, ratio and correlation of the spread, bfloat16 against float32
    "The same members in two number formats, on scenes whose posterior is known."
    exact, fast = (load_model(plan.scenes, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    how, rows = {"method": quality, "members": plan.drawn, "seed": plan.seed, "keep": plan.drawn, "progress": False}, []
    cases = scenes(fast, plan.cases)
    for case in cases:
        drawn = {name: ensemble(model, case.image, **how) for name, model in (("fast", fast), (REFERENCE, exact))}
        judged = judge_case(side_by_side(drawn, case))
        one, other = (judged.sel({"method": name}, drop=True) for name in drawn)
        differences = (one - other)[["f1_mean", "f1_one"]]
        rows.append(differences.assign(one[["spread_ratio", "spread_correlation"]]))
    found = xr.concat(rows, "case").assign_coords(case=[case.name for case in cases])
    return _prefixed(with_units(found), "precision" if quality == "default" else f"precision_{quality}")


def run_benchmark(
    quick: bool = False,  # A minute instead of ten, with fewer repeats and sizes
    progress: bool = True,  # Show a progress bar
    plan: Plan | None = None,  # One's own amount; None: FULL or QUICK
) -> xr.Dataset:  # Variables by part: chain_, setting_, driver_, tiling_, large_, distance_, members_, precision_
    "Everything side by side in one run: benchmarks/6_speed.ipynb reads what comes out."
    plan = plan or (QUICK if quick else FULL)
    model = load_model(plan.weights)
    number_format = str(next(model.network.parameters()).dtype).removeprefix("torch.")
    about = {"title": "sdfdiff benchmark", "quick": int(quick), "number_format": number_format}
    about |= {f"version_of_{name}": found for name, found in versions().items()} | machine() | described(model)
    amounts = {key: list(value) if isinstance(value, tuple) else value for key, value in plain(asdict(plan)).items()}
    about |= {f"plan_{key}": value for key, value in amounts.items()}
    about |= {f"default_{key}": value for key, value in plain(method_of("default").sampling).items()}
    parts = {
        "chain of factors": lambda: chain(plan, model),
        "drivers": lambda: _drivers(plan),
        "tiles": lambda: _tiles(plan, model),
        "signed distance": lambda: _distances(plan),
        "precision": lambda: precision_parts(plan),
        "memory": lambda: peak_memory(plan),
    }
    found, spent = [], {}
    with one_thread(), tqdm(parts.items(), unit="part", disable=not progress) as bar:
        for name, part in bar:
            bar.set_description(name)
            start = perf_counter()
            found.append(part())
            spent[name] = perf_counter() - start
    whole = xr.merge(found, combine_attrs="drop_conflicts", join="outer", compat="no_conflicts").assign_attrs(about)
    seconds = ("part", list(spent.values()), {"units": "s", "long_name": "time of the benchmark itself"})
    return whole.assign_coords(part=list(spent)).assign(part_seconds=seconds)


def _prefixed(dataset: xr.Dataset, prefix: str) -> xr.Dataset:
    return dataset.rename({name: f"{prefix}_{name}" for name in dataset.data_vars}).drop_attrs(deep=False)


def precision_parts(
    plan: Plan,  # How much
) -> xr.Dataset:  # As from `precision`
    "Of ten calls, and of one if the weights can."
    return xr.merge(precision(plan, one) for one in ("default", "fast")[: 1 + made_for_one_call(plan.scenes)])


def _drivers(plan: Plan) -> xr.Dataset:
    model, rounds = load_model(plan.scenes), max(1, plan.rounds // 2)
    raced = race_drivers(model, scenes(model, plan.cases), plan.drawn, plan.reference, rounds, plan.seed)
    return _prefixed(raced, "driver")


def _tiles(plan: Plan, model: Model) -> xr.Dataset:
    overlap, method = plan.tile // 4, method_of("default", members=plan.drawn, seed=plan.seed)
    image = slide(model, 2 * plan.tile - overlap)
    tiles = race_tiles(model, image, method, plan.tile, overlap, min(2, plan.rounds))
    return _prefixed(tiles.rename(row="tile_row", column="tile_column"), "tiling")


def _distances(plan: Plan) -> xr.Dataset:
    raced = race_distances(plan.sizes, plan.truncations, plan.batches, seconds=plan.seconds)
    return xr.Dataset({"distance_seconds": raced})
