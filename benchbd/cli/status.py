"""``benchbd status MATRIX``: show the progress of a matrix."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import (
    DamagedRecords,
    add_matrix_arguments,
    add_results,
    columns,
    load_plan,
    results_place,
    write,
    write_json,
)
from benchbd.errors import one_line

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell

EPILOG = """\
  benchbd status table2
  benchbd status table2 --grid > progress.txt          the grid of a terminal as plain text
  benchbd status table2 --filter 'defense=lfd*' --all
  benchbd status -a bn-g -d lfd --dataset digits       of cells without a matrix
  benchbd status table2 --precision bf16               of the cells of run --precision bf16
  benchbd status cifar10-fast --results leaderboard/results.jsonl   which cells somebody's file has
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "status",
        help="show the states of a matrix's cells",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_matrix_arguments(parser)
    add_results(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON")
    text = "show CA/ASR as a grid of defenses and attacks; in a terminal by default"
    form.add_argument("--grid", action=argparse.BooleanOptionalAction, help=text)
    parser.add_argument("--all", action="store_true", help="also list finished cells")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print how many cells are in each state, the grid, and the cells that are not done."""
    from benchbd.cli.show import cells_with_records
    from benchbd.core.standard_streams import on_terminal
    from benchbd.plan.absent_files import AbsentFiles
    from benchbd.report.leaderboard import not_implanted
    from benchbd.storage.cell_locks import running
    from benchbd.storage.records import failed_rerun, failed_reruns, look_up
    from benchbd.storage.staleness import InputFiles, changed_inputs_text, changed_sources

    absent = AbsentFiles(refuse_mistakes=True)
    plan = load_plan(args, absent)
    lacking = absent.lines()
    output = results_place(args)
    inside = cells_with_records(output) if args.results else None  # a file has records only: nothing runs in it
    busy, failed = (set(), set()) if args.results else (running(output), failed_reruns(output))
    files, changed = InputFiles(args.data, absent), []
    rows: list[dict[str, Any]] = []
    done: list[dict[str, Any]] = []
    damaged = DamagedRecords("benchbd run runs its cell again")
    for cell in plan.cells:
        record, problem = look_up(output, cell.id) if inside is None else (inside.get(cell.id), None)
        if problem is not None:
            damaged(problem)
        missing = "missing" if problem is None else "unreadable" if problem.unreadable else "damaged"
        status = "running" if cell.id in busy else record["status"] if record else missing
        done += [record] if record and status == "done" else []
        changed.append(files.changed(cell, record) if record else [])
        stale = [*(changed_sources(cell, record) if record else []), *changed[-1]]
        error = one_line((record or {}).get("error") or "") if status != "running" else ""
        if status == "done" and cell.id in failed and (rerun := failed_rerun(output, cell.id)):
            error = one_line(f"the last rerun ended as {rerun['status']}: {rerun['error']}; the earlier result stays")
        rows.append({"id": cell.id, "label": cell.label, "status": status, "error": error or None, "stale": stale})
    damaged.count_rest()
    skipped: list[dict[str, Any]] = [
        {"id": s.cell.id, "label": s.cell.label, "status": "skipped", "error": s.reason, "stale": []}
        for s in plan.skipped
    ]
    counts = Counter(str(row["status"]) for row in [*rows, *skipped])
    weak = not_implanted(done, plan.gate)
    if args.json:
        write_json(
            {
                "name": plan.name,
                "counts": dict(counts),
                "stale": sum(bool(r["stale"]) for r in rows),
                "missing_files": lacking,
                "unknown_data": files.unknown(),
                "not_implanted": weak,
                "cells": [*rows, *skipped],
            }
        )
        return 0
    write(f"{plan.name}: " + (", ".join(f"{n} {status}" for status, n in counts.most_common()) or "no cells"))
    grid = on_terminal(sys.stdout) if args.grid is None else args.grid
    if grid and plan.cells:
        _print_grid(plan.cells, rows, done)
        # The grid shows what waits; the list that follows says why the others have no result.
        rows, skipped = (
            [r for r in found if r["status"] != state or args.all]
            for found, state in ((rows, "missing"), (skipped, "skipped"))
        )
    shown = [r for r in [*rows, *skipped] if args.all or r["status"] != "done" or r["stale"] or r["error"]]
    table = []
    for row in shown:
        why = [str(row["error"])] if row["error"] else []
        why += [f"stale: {', '.join(row['stale'])} changed since"] if row["stale"] else []
        table.append((str(row["id"]), str(row["status"]), str(row["label"]), "; ".join(why)))
    write(columns(table, indent="  ")) if table else None
    for line in weak:
        write(f"warning: {line}")
    for line in lacking:
        write(f"missing: {one_line(line)}")
    for line in changed_inputs_text(changed, "benchbd run with --rerun stale measures them again"):
        write(line)
    for line in files.unknown():
        write(line)
    return 0


def _print_grid(cells: Sequence[Cell], rows: list[dict[str, Any]], done: list[dict[str, Any]]) -> None:
    """Print the grids of a plan between empty lines.

    Args:
        cells: the plan's cells.
        rows: ``id`` and ``status`` of each cell.
        done: the records of the cells that are done.
    """
    from benchbd.run.display.grid import Grids, Result
    from benchbd.run.display.grid_view import print_grids

    results = {record["id"]: Result.of(record) for record in done}
    grids = Grids(cells)
    for row in rows:
        grids.settle(row["id"], results.get(row["id"]) or Result(row["status"]))
    write("")
    print_grids(grids, sys.stdout, summary=False)
    write("")
