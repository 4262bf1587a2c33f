"""``benchbd plan MATRIX``: the cells, what exists, what is shared, what is impossible and why."""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from benchbd.cli.common import add_matrix_arguments, columns, load_plan, output_folder, write, write_json


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("plan", help="what a run would do, without doing it")
    add_matrix_arguments(parser)
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tell the plan."""
    from benchbd import matrix, registry
    from benchbd.records import read_record

    plan = load_plan(args)
    output = output_folder(args)
    there = output.is_dir()
    status = {c.id: (read_record(output, c.id) or {}).get("status", "missing") if there else "missing" for c in plan.cells}
    open_cells = tuple(c for c in plan.cells if status[c.id] != "done")
    shared = matrix.trainings(open_cells)
    counts = Counter(training.what for _, training in shared)
    alone = Counter(training.what for (_, training), cells in shared.items() for _ in cells)
    missing = _missing(plan, args.data, registry)
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
    done = Counter(status.values())
    write(f"{plan.name}: {len(plan.cells)} cells ({', '.join(f'{n} {s}' for s, n in sorted(done.items()))})" if plan.cells else f"{plan.name}: no cells")
    write(columns([(c.id, status[c.id], c.label) for c in plan.cells], indent="  "))
    for skipped in plan.skipped:
        write(f"  skipped {skipped.cell.label}: {skipped.reason}")
    if open_cells:
        told = ", ".join(f"{n} {w}" for w, n in sorted(counts.items()))
        write(f"trainings still to do: {told} (cell by cell it would be {sum(alone.values())} instead of {sum(counts.values())})")
    for line in missing:
        write(f"data: {line}")
    return 0


def _missing(plan: Any, root: str | None, registry: Any) -> list[str]:
    from benchbd.datafolder import data_folder

    folder = data_folder(root)
    lines = []
    for _, part in {c.dataset.text: c.dataset for c in plan.cells}.items():
        line = registry.make("datasets", part.name, **part.params).missing(folder)
        if line:
            lines.append(line)
    return lines
