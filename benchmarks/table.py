"The benchmark as a table to print, ratios first."

import numpy as np
import xarray as xr

from benchmarks.competitors import LIBRARIES, STATISTICS


def _chain_lines(d: xr.Dataset) -> list[str]:
    least, median = (d.sel(statistic=name) for name in STATISTICS)
    total, about = least.chain_seconds.values, d.attrs
    lines = [
        f"{about['plan_members']} members of a {about['plan_side']} x {about['plan_side']} image, weights {about['weights']}, {about['number_format']}",
        f"{'factor':>10}  {'time left':>11}   ",
    ]
    for k, name in enumerate(d.step.values):
        timed = float(d.chain_timed[k])
        note = "" if timed > 0.999 else f"  (extrapolated from {100 * timed:.2g} % of the work)"
        factor = "" if k == 0 else f"{float(least.chain_factor[k]):.2f} x"
        lines.append(f"{factor:>10}  {total[k]:>9.2f} s   {name}{note}")
    lines.append(
        f"{total[0] / total[-1]:>8.0f} x  {total[-1]:>9.2f} s   in all; median of the runs {float(median.chain_seconds[-1]):.2f} s  [goals: 1000 x, 8 s]"
    )
    lines.append("Beside the chain, relative to the naive loop:")
    for k, name in enumerate(d.setting.values):
        note = (
            ""
            if float(d.setting_timed[k]) > 0.999
            else f"  (extrapolated from {100 * float(d.setting_timed[k]):.2g} % of the work)"
        )
        lines.append(
            f"{total[0] / float(least.setting_seconds[k]):>8.3g} x  {float(least.setting_seconds[k]):>9.2f} s   {name}{note}"
        )
    return lines


def _driver_lines(d: xr.Dataset) -> list[str]:
    least = d.sel(statistic="minimum")
    default = float(least.driver_seconds.sel(driver="sdfdiff default"))
    lines = [
        f"Drivers of one network on synthetic tissue, {d.attrs['plan_drawn']} members; time relative to the default; spread against a reference run",
        f"{'driver':<30}{'time':>8}{'spread':>9}{'correlation':>13}{'miscalibration':>16}",
    ]
    for name in d.driver.values:
        row = least.sel(driver=name)
        numbers = f"{float(row.driver_seconds) / default:>7.2f}x{float(row.driver_spread_ratio):>9.2f}{float(row.driver_spread_correlation):>13.3f}{float(row.driver_miscalibration):>16.4f}"
        lines.append(f"{name:<30}" + (numbers if row.driver_seconds.notnull() else "  not installed"))
    return lines


def _tile_lines(d: xr.Dataset) -> list[str]:
    lines = [
        f"Tiles of {d.attrs['plan_tile']} px; time and spread relative to one piece",
        f"{'way':<30}{'time':>8}{'overlaps':>10}{'elsewhere':>11}",
    ]
    least = d.sel(statistic="minimum")
    for name in d.tiling.values:
        row = least.sel(tiling=name)
        numbers = f"{float(row.tiling_seconds / least.tiling_seconds[0]):>7.2f}x{float(row.tiling_spread_overlap):>10.2f}{float(row.tiling_spread_elsewhere):>11.2f}"
        lines.append(f"{name:<30}" + (numbers if row.tiling_seconds.notnull() else "  not installed"))
    lines += (
        ["", "One member of a large image, one core [goals: 1000 px in 15 s, 4096 px in 3 GB]"]
        if d.sizes["side"]
        else []
    )
    for side in d.side.values:
        one = d.sel(side=side)
        lines.append(
            f"{side:>6} px: {float(one.large_seconds):>7.2f} s, {1e6 * float(one.large_seconds) / side**2:.2f} us per pixel, peak {float(one.large_peak) / 1024:.2f} GiB"
        )
    return lines


def _distance_lines(d: xr.Dataset) -> list[str]:
    least = d.distance_seconds.sel(statistic="minimum")
    ratio = (least / least.sel(library="sdfdiff")).stack(cell=("boundary", "size", "batch", "truncation"))
    lines = [
        "Signed distance: their time relative to ours [goal: never below 1]",
        f"{'library':<12}{'lowest':>9}{'median':>9}{'highest':>9}{'slower in':>12}",
    ]
    for name in LIBRARIES[1:]:
        found = ratio.sel(library=name).dropna("cell").values
        numbers = (
            f"{found.min():>8.2f}x{np.median(found):>8.2f}x{found.max():>8.2f}x{(found >= 1).sum():>6} of {len(found)}"
            if len(found)
            else "  not installed"
        )
        lines.append(f"{name:<12}{numbers}")
    return lines


def benchmark_table(
    dataset: xr.Dataset,  # From `benchmark`
) -> str:  # A table to print
    "The benchmark in some fifty lines, ratios first."
    d, about = dataset, dataset.attrs
    lines = [
        f"{about['processor']}, {about['cores']} cores, one thread per worker, torch {about['torch_version']}"
        + (", quick" if about["quick"] else ""),
        "",
    ]
    lines += [*_chain_lines(d), "", *_driver_lines(d), "", *_tile_lines(d), "", *_distance_lines(d), ""]
    if d.sizes["members"]:
        peak, counts = d.members_peak.values, d.members.values
        lines.append(
            f"Peak memory, {about['plan_side']} x {about['plan_side']} px: {peak[-1] / peak[0]:.3f} x for {counts[-1]} members instead of {counts[0]} "
            f"({', '.join(f'{count}: {value:.0f}' for count, value in zip(counts, peak))} MiB) [goal for 1024 : 16: at most 1.1]"
        )
    mean = d[[name for name in d.data_vars if name.startswith("precision_")]].mean()
    lines.append(
        f"bfloat16 against float32, same members: spread {float(mean.precision_spread_ratio):.3f} x, correlation {float(mean.precision_spread_correlation):.4f}, "
        f"F1 of the mean {float(mean.precision_f1_mean):+.4f}, of single members {float(mean.precision_f1_one):+.4f}"
    )
    missing = [
        name for name in ("diffusers", "MONAI", "edt", "OpenCV") if about[f"version_of_{name}"] == "not installed"
    ]
    return "\n".join(
        lines
        + (
            [f"Not installed, rows without numbers: {', '.join(missing)}; `pip install sdfdiff[bench]` adds them."]
            if missing
            else []
        )
    )
