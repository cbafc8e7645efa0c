"""`python -m benchmarks bench | frontier`: how fast, and which sampler at which price, in numbers on disk.

Run in the root of a checkout; `make bench` is the first of them.
"""

import argparse
import sys
from pathlib import Path

from sdfdiff.options import (
    add_command,
    add_workers,
    chosen_model,
    chosen_workers,
    prepare_process,
    seed_number,
    whole_number,
)


def _add_bench(commands):
    one = add_command(commands, bench, "measure how fast it is on this machine, and against others")
    one.add_argument("--quick", action="store_true", help="a minute instead of ten, with fewer repeats and sizes")
    one.add_argument("--out", type=Path, help="write the numbers to this .nc file")


def bench(arguments: argparse.Namespace) -> None:
    "Measure speed and memory of everything side by side, ratios first; prints them and, with --out, writes the numbers."
    from benchmarks.benchmark import benchmark
    from benchmarks.table import benchmark_table
    from sdfdiff.files import write_dataset
    from sdfdiff.files import check_writable

    check_writable([] if arguments.out is None else [arguments.out], arguments.force)
    prepare_process()
    result = benchmark(arguments.quick, True)
    if arguments.out is not None:
        write_dataset(result, arguments.out, arguments.force)
    print(benchmark_table(result))
    if arguments.out is not None:
        print(f"numbers: {arguments.out}")


def _add_frontier(commands):
    one = add_command(commands, frontier, "measure every sampler at every price")
    one.add_argument("dataset", choices=("tissue", "monuseg", "glas"))
    one.add_argument("--root", type=Path, help="folder of the data set (tissue needs none)")
    one.add_argument("--out", type=Path, required=True, help=".nc file to write, one way to sample after the other")
    one.add_argument("--weights", help="default: tissue, nuclei for monuseg, glands for glas")
    one.add_argument(
        "--members", type=whole_number, metavar="N", default=24, help="masks to draw per image and way (default 24)"
    )
    one.add_argument(
        "--images",
        type=whole_number,
        metavar="N",
        help="how many images, validation ones (default 8 of tissue, 6 of the others)",
    )
    one.add_argument("--seed", type=seed_number, default=0, help="of the masks (default 0)")
    one.add_argument("--resume", action="store_true", help="continue with the ways that are not in --out yet")
    add_workers(one)


def frontier(arguments: argparse.Namespace) -> None:
    "Draw masks in every way and compare them with the truth and with a long reference run; prints a table, writes the numbers."
    from benchmarks.frontier import examples, measure, ways
    from sdfdiff.files import read_dataset
    from sdfdiff.files import check_writable

    weights, paper = {
        "tissue": ("tissue", ("nuclei", "glands")),
        "monuseg": ("nuclei", ("nuclei",)),
        "glas": ("glands", ("glands",)),
    }[arguments.dataset]
    if arguments.dataset != "tissue" and arguments.root is None:
        raise ValueError(f"frontier {arguments.dataset} needs --root, the folder of the data set.")
    if arguments.members == 1:
        raise ValueError("frontier needs --members of at least 2: one mask has no spread.")
    check_writable([arguments.out], arguments.force or arguments.resume, resume="to continue it")
    prepare_process()
    model = chosen_model(arguments.weights or weights)
    cases = examples(
        arguments.dataset, model, arguments.images or (8 if arguments.dataset == "tissue" else 6), arguments.root
    )
    if arguments.out.exists() and arguments.resume:
        read_dataset(arguments.out)  # or else one sentence says what is wrong with it
    elif arguments.out.exists():
        arguments.out.unlink()
    result = measure(
        model,
        cases,
        ways(paper),
        arguments.members,
        128,
        arguments.seed,
        arguments.out,
        chosen_workers(arguments, model),
    )
    print(frontier_table(result))
    print(f"numbers: {arguments.out}")


def frontier_table(
    result,  # From benchmarks.frontier.measure
) -> str:  # A table to print
    "Means over the images, cheapest way first."
    about, mean = result.attrs, result.mean("case").sortby("calls")
    lines = [
        f"{result.sizes['case']} images, {about['members']} members, weights {about['weights']}; F1 in per cent; "
        f"spread and correlation: of the uncertainty, against {about['reference_members']} members of the reference",
        "",
        f"{'way':<22}{'calls':>6}{'F1 one':>9}{'F1 mean':>9}{'spread':>9}{'correlation':>13}",
    ]
    for k, way in enumerate(mean["way"].values):
        one = mean.isel(way=k)
        f1 = "".join(f"{100 * float(one[name]):9.2f}" for name in ("f1_one", "f1_mean"))
        lines.append(
            f"{way:<22}{int(one['calls']):6}{f1}{float(one['spread_ratio']):9.3f}{float(one['spread_correlation']):13.3f}"
        )
    return "\n".join(
        [*lines, "", f"encoder's guess, no diffusion: F1 {100 * float(result['f1_initial_estimate'].mean()):.2f}"]
    )


def main() -> int:
    "Run the command that was typed; what a user can mend is one sentence."
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    commands = top.add_subparsers(dest="command", required=True)
    for add in (_add_bench, _add_frontier):
        add(commands)
    arguments = top.parse_args()
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
