"""``benchbd plan MATRIX``: the cells, what exists, what is shared, what is impossible and why."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import (
    add_matrix_arguments,
    columns,
    load_plan,
    output_folder,
    record_ids,
    write,
    write_json,
)

if TYPE_CHECKING:
    from benchbd.matrix import Plan


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("plan", help="what a run would do, without doing it")
    add_matrix_arguments(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tell the plan."""
    from benchbd import matrix

    plan = load_plan(args)
    status = _status(plan, output_folder(args))
    shared = matrix.trainings(tuple(c for c in plan.cells if status[c.id] != "done"))
    counts = Counter(training.what for _, training in shared)
    alone = Counter(training.what for (_, training), cells in shared.items() for _ in cells)
    missing = _missing(plan, args.data)
    if args.json:
        write_json(
            {
                "name": plan.name,
                "cells": [{"id": c.id, "label": c.label, "status": status[c.id]} for c in plan.cells],
                "skipped": [{"id": s.cell.id, "label": s.cell.label, "reason": s.reason} for s in plan.skipped],
                "trainings": dict(counts),
                "trainings_without_sharing": dict(alone),
                "missing_data": missing,
            }
        )
        return 0
    states = ", ".join(f"{n} {s}" for s, n in sorted(Counter(status.values()).items()))
    write(f"{plan.name}: {len(plan.cells)} cells ({states})" if plan.cells else f"{plan.name}: no cells")
    if plan.cells:
        write(columns([(c.id, status[c.id], c.label) for c in plan.cells], indent="  "))
    for skipped in plan.skipped:
        write(f"  skipped {skipped.cell.label}: {skipped.reason}")
    if counts:
        told = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
        sharing = f"cell by cell it would be {sum(alone.values())} instead of {sum(counts.values())}"
        write(f"trainings still to do: {told} ({sharing})")
    for line in missing:
        write(f"data: {line}")
    return 0


def _status(plan: Plan, output: Path) -> dict[str, str]:
    """Each cell's status; only records that lie there are opened."""
    from benchbd.records import read_record

    there = set(record_ids(output))
    found = {cell.id: read_record(output, cell.id) if cell.id in there else None for cell in plan.cells}
    return {cell_id: record["status"] if record else "missing" for cell_id, record in found.items()}


def _missing(plan: Plan, root: str | None) -> list[str]:
    from benchbd import registry
    from benchbd.datafolder import data_folder

    folder = data_folder(root)
    lines = []
    for cell in {c.dataset.json: c for c in plan.cells}.values():
        with registry.blame("datasets", cell.dataset.name):
            line = cell.made().dataset.missing(folder)
        if line:
            lines.append(line)
    return lines
