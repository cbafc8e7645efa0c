"""`python -m benchmarks bench | exports | frontier | means | plain | kinds | studies`: what is measured and made again.

Run it in the root of a checkout; `make bench` is the first of them.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sdfdiff.options import (
    add_command,
    add_workers,
    chosen_workers,
    prepare_process,
    run_command,
    seed_number,
    whole_number,
)

if TYPE_CHECKING:
    import xarray as xr

    from sdfdiff.diffusion.model import Model


def _add_bench(commands: argparse._SubParsersAction) -> None:
    one = add_command(commands, bench, "measure how fast it is on this machine, and against others")
    one.add_argument("--quick", action="store_true", help="a minute instead of ten, with fewer repeats and sizes")
    one.add_argument("--out", type=Path, metavar="FILE.nc", help="write the numbers to this file")


def bench(arguments: argparse.Namespace) -> None:
    "Measure speed and memory of everything side by side; prints ratios first and, with --out, writes the numbers."
    from benchmarks.benchmark import run_benchmark
    from benchmarks.table import benchmark_table
    from sdfdiff.files import check_writable, write_dataset

    check_writable([arguments.out] if arguments.out else [], arguments.force)
    prepare_process()
    result = run_benchmark(arguments.quick)
    if arguments.out is not None:
        write_dataset(result, arguments.out, arguments.force)
    print(benchmark_table(result))
    if arguments.out is not None:
        print(f"numbers: {arguments.out}")


def _add_exports(commands: argparse._SubParsersAction) -> None:
    one = add_command(commands, exports, "write a million objects as GeoJSON, and some beside shapely (five minutes)")
    one.add_argument("--quick", action="store_true", help="twenty thousand objects, and a shorter race")
    one.add_argument("--out", type=Path, metavar="FILE.nc", help="write the numbers to this file")


def exports(arguments: argparse.Namespace) -> None:
    "Measure time and memory of GeoJSON; prints a table and, with --out, writes the numbers."
    from benchmarks.exports import export_study, export_table
    from sdfdiff.files import check_writable, write_dataset

    check_writable([arguments.out] if arguments.out else [], arguments.force)
    prepare_process()
    result = export_study(20_000, patches=2, rounds=1) if arguments.quick else export_study()
    print(export_table(result))
    if arguments.out is not None:
        write_dataset(result, arguments.out, arguments.force)
        print(f"numbers: {arguments.out}")


def _add_frontier(commands: argparse._SubParsersAction) -> None:
    one = add_command(commands, frontier, "measure every sampler at every price")
    one.add_argument("dataset", choices=("tissue", "monuseg", "glas"))
    one.add_argument("--root", type=Path, metavar="DIR", help="folder of the data set (tissue needs none)")
    one.add_argument("--out", type=Path, required=True, metavar="STORE.zarr", help="folder of the study to write")
    one.add_argument("--numbers", type=Path, metavar="FILE.nc", help="write what was measured to this file")
    one.add_argument("--weights", help="default: tissue, nuclei for monuseg, glands for glas")
    draws = "masks to draw per image and way (default 24)"
    one.add_argument("--members", type=whole_number, metavar="N", default=24, help=draws)
    one.add_argument("--only", nargs="+", default=[], metavar="WAY", help="such as fast, 'ddim 3'; default: all")
    one.add_argument("--against", default=None, metavar="WAY", help="compare with this way, without a long run")
    which = "how many images, validation ones (default 8 of tissue, 6 of the others)"
    one.add_argument("--images", type=whole_number, metavar="N", help=which)
    one.add_argument("--seed", type=seed_number, default=0, help="of the masks (default 0)")
    one.add_argument("--resume", action="store_true", help="continue a store that is there")
    add_workers(one)


def _checked(arguments: argparse.Namespace) -> None:
    "ValueError or FileExistsError, before any work, for words that make no sense together."
    from sdfdiff.files import check_writable

    if arguments.dataset != "tissue" and arguments.root is None:
        raise ValueError(f"frontier {arguments.dataset} needs --root, the folder of the data set.")
    if arguments.members < 2:
        raise ValueError("frontier needs --members of at least 2: one mask has no spread.")
    if arguments.resume and arguments.force:
        raise ValueError("--resume continues what is there and --force replaces it: give one of the two.")
    if arguments.numbers is not None and arguments.numbers.suffix != ".nc":
        raise ValueError(f"{arguments.numbers} must end in .nc.")
    if arguments.resume and arguments.numbers is not None and arguments.numbers.exists():
        raise FileExistsError(f"{arguments.numbers} exists: name another file, or move it away.")
    check_writable([arguments.numbers] if arguments.numbers else [], arguments.force)


def frontier(arguments: argparse.Namespace) -> None:
    "A study that draws masks in every way; compares them with the truth and with a long run, and prints a table."
    _checked(arguments)
    from benchmarks.frontier import REFERENCE, frontier_plan, judge
    from benchmarks.table import frontier_table
    from sdfdiff.diffusion.model import load_model
    from sdfdiff.files import write_dataset
    from sdfdiff.study.store import finish, open_study, run_study

    how = {"members": arguments.members, "seed": arguments.seed, "only": tuple(arguments.only)}
    how["against"] = against = arguments.against or REFERENCE
    plan = frontier_plan(arguments.dataset, arguments.weights, arguments.images, **how)
    prepare_process()
    workers = chosen_workers(arguments, load_model(plan.methods[0].weights))
    finish(run_study(plan, arguments.out, arguments.root, arguments.resume, arguments.force, workers=workers))
    result = judge(open_study(arguments.out), against)
    if arguments.numbers is not None:
        write_dataset(result, arguments.numbers, arguments.force)
    print(frontier_table(result))
    print(f"study: {arguments.out}" + (f"; numbers: {arguments.numbers}" if arguments.numbers else ""))


def _add_studies(commands: argparse._SubParsersAction) -> None:
    one = add_command(commands, studies, "make the results in data/ again, each from the plan that it holds")
    one.add_argument("--only", nargs="+", default=[], metavar="NAME", help="such as posterior, margin, frontier_tissue")
    one.add_argument("--out", type=Path, default=Path("runs/studies"), metavar="DIR", help="default: %(default)s")
    where = "folder of a data set, such as monuseg=DIR (or the environment variable MONUSEG); others are left out"
    one.add_argument("--root", nargs="+", default=[], metavar="NAME=DIR", help=where)
    one.add_argument("--list", action="store_true", help="say what would be made, and do nothing else")
    one.add_argument("--cases", type=whole_number, metavar="N", help="of each study the first N images, to try it")
    one.add_argument("--replace", action="store_true", help="when all is made, put it in the place of what is stored")
    add_workers(one)


def studies(arguments: argparse.Namespace) -> None:
    "Make stored results again in a new folder, and compare. An interrupted one goes on when this is called again."
    from benchmarks import studies as again
    from sdfdiff.diffusion.model import load_model

    roots = {name.lower(): place for name, place in os.environ.items() if name in ("MONUSEG", "GLAS", "RATERS")}
    for word in arguments.root:
        if "=" not in word:
            raise ValueError(f"--root {word} names no data set: write for example monuseg={word}.")
        roots |= [word.split("=", 1)]
    if arguments.replace and arguments.cases:
        raise ValueError("--cases tries a part of each study, which --replace cannot put in the place of all of it.")
    prepare_process()
    workers = chosen_workers(arguments, load_model("tissue"))
    chosen = [again.shortened(one, arguments.cases) for one in again.stored_results(only=tuple(arguments.only))]
    wanting = {one.name: again.lacking(one, roots) for one in chosen}
    print(again.overview(chosen, wanting, workers))
    if arguments.list:
        return
    made = []
    for one in chosen:
        if not wanting[one.name]:
            root = roots.get(one.plan.dataset) if one.calls else None
            made.append((again.make(one, arguments.out, root, workers), one))
            print(*again.compare(*made[-1]), sep="\n")
    print(f"{len(made)} of {len(chosen)} results were made; they are in {arguments.out}")
    if arguments.replace and len(made) < len(chosen):
        raise ValueError("Nothing was replaced, since not all was made: leave out with --only what cannot be made.")
    if arguments.replace:
        again.replace_stored(made)
        print("They stand in data/ now; the notebooks that read them are to be run again.")


def _add_means(commands: argparse._SubParsersAction) -> None:
    one = add_command(commands, means, "draw tissue in four ways and keep sums over the members (ten minutes)")
    one.add_argument("--out", type=Path, required=True, metavar="FILE.nc", help="write the numbers to this file")


def means(arguments: argparse.Namespace) -> None:
    "Sums over the members of four ways to draw, pixel by pixel, of the scenes of the frontier."
    from benchmarks.means import means_study

    _measured(means_study, arguments)


def _add_plain(commands: argparse._SubParsersAction) -> None:
    one = add_command(
        commands, plain, "train a plain segmentation network and judge it beside an ensemble (half an hour)"
    )
    _add_amount(one)


def _add_kinds(commands: argparse._SubParsersAction) -> None:
    one = add_command(commands, kinds, "measure aleatoric and epistemic uncertainty (half an hour)")
    _add_amount(one)


def _add_amount(one: argparse.ArgumentParser) -> None:
    one.add_argument("--quick", action="store_true", help="a minute: hardly trained, so the numbers mean nothing")
    one.add_argument("--out", type=Path, required=True, metavar="FILE.nc", help="write the numbers to this file")


def _measured(measure: Callable[["Model"], "xr.Dataset"], arguments: argparse.Namespace) -> None:
    "Write what is measured beside the `tissue` weights in float32."
    import torch

    from sdfdiff.diffusion.model import load_model
    from sdfdiff.files import check_writable, write_dataset

    check_writable([arguments.out], arguments.force)
    prepare_process()
    result = measure(load_model("tissue", dtype=torch.float32))
    write_dataset(result, arguments.out, arguments.force)
    print(f"numbers: {arguments.out}")


def plain(arguments: argparse.Namespace) -> None:
    "Train plain networks on synthetic tissue and judge them beside an ensemble; choose epochs on the wrong images."
    from benchmarks import epoch_choice, plain_network

    judged, chosen = plain_network.PlainPlan(), epoch_choice.EpochPlan()
    if arguments.quick:
        judged, chosen = plain_network.QUICK, epoch_choice.QUICK

    def measure(model):
        networks = plain_network.train_networks(judged)
        found = plain_network.judge_networks(networks, model, judged)
        return found.merge(epoch_choice.epoch_study(chosen), combine_attrs="no_conflicts")

    _measured(measure, arguments)


def kinds(arguments: argparse.Namespace) -> None:
    "Train plain networks on few and many scenes: where do raters disagree, and where do networks?"
    from benchmarks import two_kinds

    plan = two_kinds.QUICK if arguments.quick else two_kinds.KindsPlan()
    _measured(lambda model: two_kinds.kinds_study(plan, model), arguments)


def parser() -> argparse.ArgumentParser:
    "All commands and their options."
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    top.add_argument("--traceback", action="store_true", help="show where an error came from")
    commands = top.add_subparsers(
        dest="command", required=True, metavar="bench | exports | frontier | means | plain | kinds | studies"
    )
    for add in (_add_bench, _add_exports, _add_frontier, _add_means, _add_plain, _add_kinds, _add_studies):
        add(commands)
    return top


def main(
    words: list[str] | None = None,  # What was typed; None: sys.argv
) -> int:  # Exit code: 0, 1 for an error, 130 when interrupted
    "Run the command that was typed. Every error that a user can mend is one sentence on standard error."
    return run_command(parser().parse_args(words), "benchmarks")


if __name__ == "__main__":
    sys.exit(main())
