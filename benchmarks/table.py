"The benchmark and the frontier as tables to print, ratios first."

from collections.abc import Iterator

import numpy as np
import xarray as xr

from benchmarks.competitors import OPTIONAL, STATISTICS
from benchmarks.distances import LIBRARIES


def _partly(timed: xr.DataArray) -> str:
    "A note where a time is extrapolated."
    return "" if float(timed) > 0.999 else f"  (extrapolated from {100 * float(timed):.2g} % of the work)"


def _chain_lines(d: xr.Dataset) -> Iterator[str]:
    least, median = (d.sel(statistic=name) for name in STATISTICS)
    total, about = least.chain_seconds.values, d.attrs
    size = f"{about['plan_side']} x {about['plan_side']}"
    yield f"{about['plan_members']} members of a {size} image, weights {about['weights']}, {about['number_format']}"
    yield f"{'factor':>10}  {'time left':>11}   "
    for k, name in enumerate(d.step.values):
        factor = f"{float(least.chain_factor[k]):.2f} x" if k else ""
        yield f"{factor:>10}  {total[k]:>9.2f} s   {name}{_partly(d.chain_timed[k])}"
    whole = f"in all; median of the runs {float(median.chain_seconds[-1]):.2f} s  [goals: 1000 x, 8 s]"
    yield f"{total[0] / total[-1]:>8.0f} x  {total[-1]:>9.2f} s   {whole}"
    yield "Beside the chain, relative to the naive loop:"
    for k, name in enumerate(d.setting.values):
        seconds = float(least.setting_seconds[k])
        yield f"{total[0] / seconds:>8.3g} x  {seconds:>9.2f} s   {name}{_partly(d.setting_timed[k])}"


def _driver_lines(d: xr.Dataset) -> Iterator[str]:
    least = d.sel(statistic="minimum")
    default = float(least.driver_seconds.sel(driver="sdfdiff default"))
    yield (
        f"Drivers of one network on synthetic tissue, {d.attrs['plan_drawn']} members; "
        "time relative to the default; spread against a reference run"
    )
    yield f"{'driver':<30}{'time':>8}{'spread':>9}{'correlation':>13}{'miscalibration':>16}"
    for name in d.driver.values:
        row, numbers = least.sel(driver=name), "  not installed"
        if row.driver_seconds.notnull():
            numbers = f"{float(row.driver_seconds) / default:>7.2f}x{float(row.driver_spread_ratio):>9.2f}"
            numbers += f"{float(row.driver_spread_correlation):>13.3f}{float(row.driver_miscalibration):>16.4f}"
        yield f"{name:<30}{numbers}"


def _tile_lines(d: xr.Dataset) -> Iterator[str]:
    least = d.sel(statistic="minimum")
    yield f"Tiles of {d.attrs['plan_tile']} px; time and spread relative to one piece"
    yield f"{'way':<30}{'time':>8}{'overlaps':>10}{'elsewhere':>11}"
    for name in d.tiling.values:
        row, numbers = least.sel(tiling=name), "  not installed"
        if row.tiling_seconds.notnull():
            numbers = f"{float(row.tiling_seconds / least.tiling_seconds[0]):>7.2f}x"
            numbers += f"{float(row.tiling_spread_overlap):>10.2f}{float(row.tiling_spread_elsewhere):>11.2f}"
        yield f"{name:<30}{numbers}"
    if d.sizes["side"]:
        yield ""
        yield "One member of a large image, one core [goals: 1000 px in 15 s, 4096 px in 3 GB]"
    for name, calls in (("large", "ten calls"), ("large_one_call", "one call")):
        for side in d.side.values if f"{name}_seconds" in d else ():
            seconds, peak = (float(d[f"{name}_{what}"].sel(side=side)) for what in ("seconds", "peak"))
            amount = f"{1e6 * seconds / side**2:.2f} us per pixel, peak {peak / 1024:.2f} GiB"
            yield f"{side:>6} px, {calls}: {seconds:>7.2f} s, {amount}"


def _distance_lines(d: xr.Dataset) -> Iterator[str]:
    least = d.distance_seconds.sel(statistic="minimum")
    ratio = (least / least.sel(library="sdfdiff")).stack(cell=("boundary", "size", "batch", "truncation"))
    yield "Signed distance: their time relative to ours [goal: never below 1]"
    yield f"{'library':<12}{'lowest':>9}{'median':>9}{'highest':>9}{'slower in':>12}"
    for name in LIBRARIES[1:]:
        found, numbers = ratio.sel(library=name).dropna("cell").values, "  not installed"
        if len(found):
            three = "".join(f"{value:>8.2f}x" for value in (found.min(), np.median(found), found.max()))
            numbers = f"{three}{(found >= 1).sum():>6} of {len(found)}"
        yield f"{name:<12}{numbers}"


_PRECISION = ("spread_ratio", "spread_correlation", "f1_mean", "f1_one")


def _last_lines(d: xr.Dataset) -> Iterator[str]:
    "Memory, number format, and who did not take part."
    about = d.attrs
    if d.sizes["members"]:
        peak, counts = d.members_peak.values, d.members.values
        each = ", ".join(f"{count}: {value:.0f}" for count, value in zip(counts, peak))
        yield (
            f"Peak memory, {about['plan_side']} x {about['plan_side']} px: {peak[-1] / peak[0]:.3f} x for {counts[-1]} "
            f"members instead of {counts[0]} ({each} MiB) [goal for 1024 : 16: at most 1.1]"
        )
    for prefix, calls in (("precision", "ten calls"), ("precision_fast", "one call")):
        if f"{prefix}_f1_one" in d:
            ratio, alike, mean, one = (float(d[f"{prefix}_{name}"].mean()) for name in _PRECISION)
            yield (
                f"bfloat16 against float32, same members, {calls}: spread {ratio:.3f} x, correlation {alike:.4f}, "
                f"F1 of the mean {mean:+.4f}, of single members {one:+.4f}"
            )
    if missing := [name for name in OPTIONAL if about[f"version_of_{name}"] == "not installed"]:
        yield f"Not installed, rows without numbers: {', '.join(missing)}; `pip install -e .[bench]` adds them."


def benchmark_table(
    dataset: xr.Dataset,  # From `run_benchmark`
) -> str:  # A table to print
    "The benchmark in some fifty lines, ratios first."
    about = dataset.attrs
    quick = ", quick" * bool(about["quick"])
    machine = f"{about['processor']}, {about['cores']} cores, one thread per worker, torch {about['torch_version']}"
    parts = [line(dataset) for line in (_chain_lines, _driver_lines, _tile_lines, _distance_lines, _last_lines)]
    return "\n\n".join([machine + quick, *("\n".join(part) for part in parts)])


def frontier_table(
    dataset: xr.Dataset,  # From `judge`
) -> str:  # A table to print
    "Means over the images, cheapest way first."
    about, mean = dataset.attrs, dataset.mean("case").sortby("calls")
    lines = [
        f"{dataset.sizes['case']} images, {about['members']} members, weights {about['weights']}; F1 in per cent",
        f"spread and correlation: of the uncertainty, against {about['reference_members']} members of the reference",
        "",
        f"{'way':<22}{'calls':>6}{'F1 one':>9}{'F1 mean':>9}{'spread':>9}{'correlation':>13}",
    ]
    for way in mean["way"].values:
        one = mean.sel(way=way)
        f1 = "".join(f"{100 * float(one[name]):9.2f}" for name in ("f1_one", "f1_mean"))
        spread = f"{float(one['spread_ratio']):9.3f}{float(one['spread_correlation']):13.3f}"
        lines.append(f"{way:<22}{int(one['calls']):6}{f1}{spread}")
    estimate = 100 * float(dataset["f1_initial_estimate"].mean())
    return "\n".join([*lines, "", f"encoder's initial estimate, no diffusion: F1 {estimate:.2f}"])
