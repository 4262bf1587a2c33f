"""``benchbd run MATRIX``: run every cell that has no result yet, then show the leaderboard."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import DamagedRecords, add_matrix_arguments, load_plan, output_folder, say_notes, write
from benchbd.cli.run_arguments import add_run_arguments, display_of, run_settings, same_command
from benchbd.errors import BenchbdError, UsageError

if TYPE_CHECKING:
    from benchbd.plan.matrix import Plan

EPILOG = """\
Finished cells are skipped: after a crash, give the same command again and the run continues. Cells that failed,
diverged, or ran out of memory or time run again only with --rerun failed. Cells that were killed, lost or cancelled run
again by themselves. The first Ctrl-C lets the running cells finish, the second stops them at once.
Exit codes: 0 all cells done, 1 some cells have no result, 2 usage error, 130 interrupted (Ctrl-C, --budget).

  benchbd run quickstart
  benchbd run table2 --data ~/data --seeds 0-2 --timeout 2h --retries 1
  benchbd run table2 --filter 'defense=none|lfd*,attack!=none' --set epochs=2
  benchbd run -a bn-g -d none -d 'lfd(beta=0)' --dataset digits --model 'resnet18(width=8)' --set epochs=8
  benchbd run table2 --log tensorboard                 curves in OUTPUT/tensorboard; also mlflow, wandb (offline)
  benchbd run table2 --precision strict                repeats bit for bit on one kind of GPU; other cell IDs
  benchbd run table2 --shard 2/4 --output part2        then: benchbd merge part1 part2 part3 part4
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "run",
        help="run a matrix and show its leaderboard",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_matrix_arguments(parser)
    parser.add_argument("--rerun", choices=("failed", "stale", "all"), help="also rerun these cells")
    parser.add_argument(
        "--shard", metavar="I/N", help="run only the I-th of N parts, to split a matrix over N machines"
    )
    add_run_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the cells, print a summary, show the leaderboard."""
    from benchbd.core.standard_streams import discard, on_terminal
    from benchbd.run import run_cells
    from benchbd.run.prepare import kept_on_other_data, prepare_output
    from benchbd.run.summary import summary

    plan = load_plan(args)
    if not plan.cells:
        raise UsageError(
            f"{plan.name}: no cell can be run ({plan.skipped[0].reason})" if plan.skipped else f"{plan.name}: no cells"
        )
    say_notes(plan)
    # Check all arguments before writing anything.
    settings = run_settings(args, rerun=args.rerun)
    output = output_folder(args)
    damaged = DamagedRecords("its cell runs again, and the file is kept in damaged/")
    with damaged:
        settings = prepare_output(plan, settings, output, damaged)
    for line in kept_on_other_data(plan, settings, output):
        sys.stderr.write(f"benchbd: {line}\n")
    sys.stderr.flush()
    outcome = run_cells(plan.cells, settings, display_of(args))
    if args.display != "none":
        labels = {cell.id: cell.label for cell in plan.cells}
        kept = settings.stale - set(outcome.ran)
        text = summary(
            outcome,
            labels,
            settings,
            again=same_command(args, "--rerun", "failed"),
            go_on=same_command(args),
            stale=len(kept),
        )
        sys.stderr.write(text)
        sys.stderr.flush()
    try:
        tables = args.display != "plain" and on_terminal(sys.stdout)
        _show_board(plan, output, {problem.where for problem in damaged.found.values()}, tables=tables)
    except BenchbdError as error:
        # The run itself succeeded; an older record must not change its exit code.
        sys.stderr.write(f"benchbd: no leaderboard: {' '.join(str(error).split())}\n")
    except BrokenPipeError:
        discard(sys.stdout)
    return outcome.exit_code


def _show_board(plan: Plan, output: Path, named: Collection[str], *, tables: bool) -> None:
    """Print the results of the matrix, and write the leaderboard of the whole results folder.

    Args:
        plan: the plan that was run.
        output: the results folder.
        named: files whose damage has been reported already.
        tables: print grids and a summary for a terminal instead of the leaderboard in markdown.
    """
    from benchbd.core.files import write_text
    from benchbd.plan.cell import identity
    from benchbd.report import board
    from benchbd.storage import results_file
    from benchbd.storage.records import record_path

    told = {*named, *(str(record_path(output, cell.id)) for cell in plan.cells)}  # the summary names those of the plan
    with DamagedRecords() as damaged:
        everything = results_file.load(
            output, identity, lambda problem: None if problem.where in told else damaged(problem)
        )
    wanted = {cell.id for cell in plan.cells} | {skipped.cell.id for skipped in plan.skipped}
    mine = [record for record in everything if record["id"] in wanted]
    if not any(record["status"] == "done" for record in mine):
        return
    path, page = output / "leaderboard.md", output / "leaderboard.html"
    whole = board(everything, gate=plan.gate)
    write_text(path, whole.render("md"))
    write_text(page, whole.render("html"))
    shown = board(mine, gate=plan.gate, title=plan.name)
    if tables:
        _print_tables(plan, mine)
        write(f"\nleaderboard: {path}\npage:        {page}")
    else:
        write(shown.render("md"))
        write(f"\nleaderboard: {path}")
    for line in shown.not_implanted:
        sys.stderr.write(f"warning: {line}\n")


def _print_tables(plan: Plan, records: list[dict[str, Any]]) -> None:
    """Print the results of a plan as grids with a summary below each."""
    from benchbd.run.display.grid import Grids, Result
    from benchbd.run.display.grid_view import print_grids

    grids = Grids(plan.cells)
    for record in records:
        grids.settle(record["id"], Result.of(record))
    write("")
    print_grids(grids, sys.stdout, summary=True)
