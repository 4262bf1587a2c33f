"""``benchbd plan MATRIX``: the cells, what exists, what is shared, what is impossible and why."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
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
    from benchbd.plan.cell import Cell
    from benchbd.plan.matrix import Plan
    from benchbd.plan.trainings import TrainingKey

Records = Mapping[str, Mapping[str, Any]]

FIELDS = ("status", "spec", "trainings", "artifacts")
"""What of a record is kept: a folder may hold ten thousand."""
SETTLED = ("done", "skipped")
"""Statuses of cells that no run takes up again by itself or with ``--rerun failed``."""
EPILOG = """\
Trainings are counted as plugins declare them: each once, however many cells share it, and without those that records in
the output folder show to be stored. The counts are upper bounds. A defense may turn out to need less (where AC removes
nothing, what it trains last is the undefended model), and failed cells are counted as --rerun failed would run them.
Trainings that a defense may begin anew (a parameter such as teacher_tries says how often) are told apart.
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "plan",
        help="what a run would do, without doing it",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_matrix_arguments(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    text = "also the time and idle share of the whole matrix on so many GPUs (gpus=1,8,64), from records' costs"
    parser.add_argument("--simulate", metavar="gpus=N,...", help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tell the plan."""
    from benchbd.errors import BenchbdError
    from benchbd.plan.trainings import shared_trainings
    from benchbd.run import simulate
    from benchbd.run.costs import earlier_records

    gpus = [] if args.simulate is None else simulate.parse_gpus(args.simulate)
    plan, output = load_plan(args), output_folder(args)
    there = set(record_ids(output))
    records = _read(output, [cell.id for cell in plan.cells if cell.id in there])
    status = {cell.id: str(records[cell.id]["status"]) if cell.id in records else "missing" for cell in plan.cells}
    left = [cell for cell in plan.cells if status[cell.id] not in SETTLED]
    wanted = shared_trainings(left)
    artifacts = _artifacts(output / "store")
    stored = _stored(plan.cells, records, artifacts) if artifacts else set()
    if artifacts and not wanted.keys() <= stored:
        # Cells of other matrices, or of this one with other settings, may have left what is wanted. That one of them
        # names a plugin that raises is no matter of this plan.
        others = _read(output, there - status.keys())
        with suppress(BenchbdError):
            stored |= _stored(_akin(others, left), others, artifacts)
    counts = Counter(training.kind for row, training in wanted if (row, training) not in stored)
    retries = _retries({key: cells for key, cells in wanted.items() if key not in stored})
    alone = Counter(training.kind for (_, training), cells in wanted.items() for _ in cells)
    missing = _missing(plan, args.data)
    found = simulate.estimate(plan.cells, earlier_records(output)) if gpus else None
    simulated = [] if found is None else [simulate.simulate(found.jobs, number) for number in gpus]
    if args.json:
        write_json(
            {
                "name": plan.name,
                "cells": [{"id": c.id, "label": c.label, "status": status[c.id]} for c in plan.cells],
                "skipped": [{"id": s.cell.id, "label": s.cell.label, "reason": s.reason} for s in plan.skipped],
                "trainings": dict(counts),
                "trainings_without_sharing": dict(alone),
                "retries": dict(retries),
                "missing_data": missing,
                **({"simulation": simulate.as_json(found, simulated)} if found else {}),
            }
        )
        return 0
    states = ", ".join(f"{n} {s}" for s, n in sorted(Counter(status.values()).items()))
    write(f"{plan.name}: {len(plan.cells)} cells ({states})" if plan.cells else f"{plan.name}: no cells")
    if plan.cells:
        write(columns([(c.id, status[c.id], c.label) for c in plan.cells], indent="  "))
    for skipped in plan.skipped:
        write(f"  skipped {skipped.cell.label}: {skipped.reason}")
    if left:
        told = ", ".join(f"{n} {what}" for what, n in sorted(counts.items())) or "none"
        sharing = f"cell by cell it would be {sum(alone.values())} instead of {sum(counts.values())}"
        write(f"trainings still to do, at most: {told} ({sharing})")
    for what, number in retries.items():
        write(f"plus up to {number} {what} retries, where a training goes nowhere")
    for line in missing:
        write(f"data: {line}")
    if found:
        write("\n".join(simulate.as_lines(found, simulated)))
    return 0


def _retries(wanted: Mapping[TrainingKey, Iterable[Cell]]) -> Counter[str]:
    """How many more trainings there may be where each that may be begun anew is, as often as it may be."""
    found: Counter[str] = Counter()
    for (_, training), cells in wanted.items():
        tries = [cell.defense.params.get(f"{training.kind}_tries") for cell in cells]
        found[training.kind] += max((n for n in tries if isinstance(n, int)), default=1) - 1
    return +found


def _read(output: Path, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The readable ones of some records, by id, with what is needed of them."""
    from benchbd.storage.records import read_record

    read = ((cell_id, read_record(output, cell_id)) for cell_id in ids)
    return {cell_id: {field: record[field] for field in FIELDS} for cell_id, record in read if record is not None}


def _akin(records: Records, cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells of records with the data, model and recipe of some others; not those that no plugin here knows."""
    from benchbd.core.hashing import canonical
    from benchbd.errors import BenchbdError
    from benchbd.plan.cell import Cell

    pairs = {(cell.dataset.json, cell.model.json) for cell in cells}
    recipes = list({id(cell.recipe): cell.recipe for cell in cells}.values())
    for record in records.values():
        spec = record["spec"]
        if spec["recipe"] in recipes and (canonical(spec["dataset"]), canonical(spec["model"])) in pairs:
            with suppress(BenchbdError):
                yield Cell.from_json({"spec": spec})


def _stored(cells: Iterable[Cell], records: Records, artifacts: Collection[str]) -> set[TrainingKey]:
    """The trainings whose results are in the store, as far as records and the names of artifacts tell.

    Which artifact belongs to which training only the stages themselves could say, which need torch and the images. But
    a record counts what its cell trained before it ended, and names every artifact. Where these are all there, so are
    the trainings; where its poisoned set is, so is what the attack had trained for it.
    """

    from benchbd.plan.trainings import planned_trainings

    found: set[TrainingKey] = set()
    for cell, planned in planned_trainings(cell for cell in cells if cell.id in records):
        kept, trained = records[cell.id]["artifacts"], Counter(_numbers(records[cell.id]["trainings"]))
        if str(kept.get("poisoned_set")) in artifacts:
            found.update(planned.attack)
        if not _all_in(kept.get("stages"), artifacts):
            continue
        for key in planned.defense:
            trained[key[1].kind] -= 1
            if trained[key[1].kind] >= 0:
                found.add(key)
    return found


def _numbers(given: Mapping[str, Any]) -> dict[str, int]:
    return {what: n for what, n in given.items() if isinstance(n, int)}


def _all_in(stages: Any, artifacts: Collection[str]) -> bool:
    return isinstance(stages, dict) and all(str(key) in artifacts for key in stages.values())


def _artifacts(store: Path) -> set[str]:
    """Keys of the artifacts that lie in a store, unread: it puts them there whole or not at all."""
    found: set[str] = set()
    for kind in ("model", "array", "poison"):
        with suppress(FileNotFoundError, NotADirectoryError):
            for shelf in (store / kind).iterdir():
                found.update(artifact.name for artifact in shelf.iterdir())
    return found


def _missing(plan: Plan, root: str | None) -> list[str]:
    from benchbd.core.paths import data_folder
    from benchbd.plugins import registry
    from benchbd.plugins.validate import missing_data

    folder = data_folder(root)
    lines = []
    for cell in {c.dataset.json: c for c in plan.cells}.values():
        with registry.blame("datasets", cell.dataset.name):
            line = missing_data(cell.components().dataset, folder)
        if line:
            lines.append(line)
    return lines
