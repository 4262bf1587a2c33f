"""``benchbd plan MATRIX``: lists cells, their status, shared trainings, and impossible cells with the reason."""

from __future__ import annotations

import argparse
import functools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.cli.common import (
    DamagedRecords,
    add_matrix_arguments,
    columns,
    load_plan,
    output_folder,
    say_notes,
    write,
    write_json,
)
from benchbd.errors import BenchbdError, UsageError, counted, one_line, shown
from benchbd.storage.results_folder import record_ids

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell
    from benchbd.plan.matrix import Plan
    from benchbd.plan.missing_parts import MissingPart
    from benchbd.plan.trainings import TrainingKey
    from benchbd.plan.work import Network
    from benchbd.run.settings import RunSettings
    from benchbd.run.simulate import Wish
    from benchbd.storage.record_file import Unusable

Records = Mapping[str, Mapping[str, Any]]

FIELDS = ("status", "spec", "trainings", "artifacts", "data")
"""Fields of a record that are kept in memory; a folder may hold ten thousand records."""
_BROKEN = {False: "damaged", True: "unreadable"}
SETTLED = ("done", "skipped", "unreadable")
"""Statuses of cells that neither a plain run nor ``--rerun failed`` runs again."""
EPILOG = """\
Trainings are counted as plugins declare them. Each counts once, however many cells share it; trainings that are stored
according to the records in the output folder are left out. The counts are upper bounds. A defense may need fewer (if AC
removes nothing, its last training is the undefended model), and failed cells are counted as if run with --rerun failed.
Retries of trainings that fail to learn are counted separately.

Missing files of data sets and attacks are listed; a run refuses them.

Times come from the operations of each model and from the rate at which this machine trains it. Finished cells of the
output folder hold rates; others are measured for 3 s and kept in the user's cache. The estimate says how sure it is.

  benchbd plan table2 --seeds 0
  benchbd plan quickstart --time --jobs 2
  benchbd plan table2 --simulate gpus=1,8,64 --rate 40
  benchbd plan table2 --precision fp32 --threads 4
  benchbd plan -a bn-g -a blend -d none -d lfd --dataset cifar10 --recipe fast --model airbench
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "plan",
        help="show what a run would do, without running it",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_matrix_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    times = parser.add_argument_group("how long it takes")
    times.add_argument("--time", action="store_true", help="estimate the time of what is left on this machine")
    text = "for --time: cells at once (default: one per GPU, or one per core)"
    times.add_argument("-j", "--jobs", metavar="N", type=int, help=text)
    text = "for --time; default: the visible GPUs, else the CPU"
    times.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help=text)
    text = "for --time and cores=N: measure the rate of this machine now, even if records or the cache have it"
    times.add_argument("--measure", action="store_true", help=text)
    text = "estimate the time and idle share of the whole matrix on N GPUs or N cores of this machine (cores=1,8)"
    times.add_argument("--simulate", metavar="gpus=N,...", action="append", help=text)
    text = "for --simulate gpus=N: the speed of a training step on such a GPU, for all models"
    times.add_argument("--rate", metavar="TFLOPS", help=text)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the plan."""
    from benchbd.core.paths import data_folder
    from benchbd.plan.absent_files import AbsentFiles
    from benchbd.plan.missing_parts import missing_parts, with_known_work
    from benchbd.plan.trainings import possible_retries, shared_trainings
    from benchbd.run.packing_check import refuse_unpackable
    from benchbd.storage.staleness import InputFiles, changed_inputs_text

    wishes = _time_wishes(args)
    folder = data_folder(args.data)  # before the matrix, whose attacks look for their files there
    absent = AbsentFiles()
    plan, output = load_plan(args, absent), output_folder(args)
    missing = list(missing_parts(plan.cells, folder, absent))
    _refuse_mistakes(plan, missing)
    say_notes(plan)
    missing_data = [part.line for part in missing if part.kind == "dataset"]
    # A run stops at the files of cells that --filter leaves out, too.
    missing_files = [line for line in absent.lines() if line not in missing_data]
    recorded = set(record_ids(output))
    with DamagedRecords("benchbd run runs its cell again") as damaged:
        records = _read(output, [cell.id for cell in plan.cells if cell.id in recorded], damaged)
    broken = {Path(place).stem: _BROKEN[problem.unreadable] for place, problem in damaged.found.items()}
    status = {
        cell.id: str(records[cell.id]["status"]) if cell.id in records else broken.get(cell.id, "missing")
        for cell in plan.cells
    }
    files = InputFiles(args.data, absent)
    changed = {c.id: names for c in plan.cells if c.id in records and (names := files.changed(c, records[c.id]))}
    unknown = files.unknown()
    unfinished = [cell for cell in plan.cells if status[cell.id] not in SETTLED]
    unbuilt: set[Network] = set()
    refuse_unpackable(with_known_work(unfinished, missing), _say, unbuilt)
    wanted = shared_trainings(unfinished)
    artifacts = _artifacts(output / "store")
    # The trainings of other data, whose keys nothing asks for any more, are not those that a run of today needs.
    current = [cell for cell in plan.cells if cell.id not in changed]
    stored = _stored(current, records, artifacts) if artifacts else set()
    if artifacts and not wanted.keys() <= stored:
        # Cells of other matrices, or of this one with other settings, may have stored the needed trainings. Ignore a
        # plugin of theirs that raises: this plan does not use it.
        others = _read(output, recorded - status.keys())
        with suppress(BenchbdError):
            related = (cell for cell in _related(others, unfinished) if not files.changed(cell, others[cell.id]))
            stored |= _stored(related, others, artifacts)
    counts = Counter(training.kind for row, training in wanted if (row, training) not in stored)
    retries: Counter[str] = Counter()
    for key, number in possible_retries(unfinished).items():
        if key not in stored:
            retries[key[1].kind] += number
    alone = Counter(training.kind for (_, training), cells in wanted.items() for _ in cells)
    times = _times(args, wishes, plan, unfinished, {("training", *key) for key in stored}, unbuilt, missing)
    if args.json:
        write_json(
            {
                "name": plan.name,
                "cells": [{"id": c.id, "label": c.label, "status": status[c.id]} for c in plan.cells],
                "skipped": [{"id": s.cell.id, "label": s.cell.label, "reason": s.reason} for s in plan.skipped],
                "trainings": dict(counts),
                "trainings_without_sharing": dict(alone),
                "retries": dict(retries),
                "missing_data": missing_data,
                "missing_files": missing_files,
                "changed_data": changed,
                "unknown_data": unknown,
                **{name: facts for name, facts, _ in times},
            }
        )
        return 0
    states = ", ".join(f"{n} {s}" for s, n in sorted(Counter(status.values()).items()))
    write(f"{plan.name}: {counted(len(plan.cells), 'cell')} ({states})" if plan.cells else f"{plan.name}: no cells")
    if plan.cells:
        write(columns([(c.id, status[c.id], c.label) for c in plan.cells], indent="  "))
    for skipped in plan.skipped:
        write(f"  skipped {skipped.cell.label}: {one_line(skipped.reason)}")
    if unfinished:
        listed = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items())) or "none"
        sharing = f"{sum(counts.values())} in total; {sum(alone.values())} without sharing"
        write(f"trainings still to do, at most: {listed} ({sharing})")
    for kind, number in retries.items():
        write(f"plus up to {number} {kind} retries if trainings fail to learn")
    for line in missing_data:
        write(f"data: {one_line(line)}")
    for line in missing_files:
        write(f"missing: {one_line(line)}")
    for line in changed_inputs_text(changed.values(), "benchbd run with --rerun stale measures them again"):
        write(line)
    for line in unknown:
        write(one_line(line))
    for _, _, lines in times:
        write("\n".join(lines))
    return 0


def _refuse_mistakes(plan: Plan, missing: Sequence[MissingPart]) -> None:
    """Refuse a model or defense that lacks anything, and a data set that lacks nothing and cannot say its sizes.

    What a model lacks may be a network of that name, and a defense a program among its files: mistakes in the matrix.
    """
    for part in missing:
        if part.kind in ("model", "defense"):
            raise UsageError(f"matrix {plan.source}: {part.line}")
    lacking = {part.json for part in missing if part.kind == "dataset"}
    for cell in {cell.dataset.json: cell for cell in plan.cells}.values():
        if cell.dataset.json not in lacking:
            cell.components().dataset.info()


class _Wishes(NamedTuple):
    """What to estimate: the settings of a run on this machine for ``--time``, and ``--simulate`` and ``--rate``."""

    here: RunSettings | None
    simulate: Wish | None
    rate: float | None


def _time_wishes(args: argparse.Namespace) -> _Wishes:
    """The flags about times. Raises UsageError."""
    from benchbd.run.rates import parse_rate
    from benchbd.run.settings import RunSettings
    from benchbd.run.simulate import parse_simulate
    from benchbd.run.workers.slots import check_numbers

    simulate = args.simulate or []
    if len(simulate) > 1:
        given = " and ".join(shown(text) for text in simulate[:3])
        raise UsageError(
            f"--simulate is given {len(simulate)} times ({given}); one plan simulates either gpus or cores"
        )
    wish = parse_simulate(simulate[0]) if simulate else None
    if args.rate is not None and (wish is None or wish.what != "gpus"):
        raise UsageError("--rate is for --simulate gpus=N; give both, or leave it out")
    if not args.time:
        for flag, is_given in (("--jobs", args.jobs), ("--device", args.device != "auto")):
            if is_given:
                raise UsageError(f"{flag} is for --time; give both, or leave it out")
        if args.measure and (wish is None or wish.what != "cores"):
            raise UsageError("--measure is for --time and --simulate cores=N; give one of them, or leave it out")
        return _Wishes(None, wish, None if args.rate is None else parse_rate(args.rate))
    settings = RunSettings(output=output_folder(args), device=args.device, jobs=args.jobs, threads=args.threads)
    check_numbers(settings)
    return _Wishes(settings, wish, None if args.rate is None else parse_rate(args.rate))


def _times(
    args: argparse.Namespace,
    wishes: _Wishes,
    plan: Plan,
    unfinished: Sequence[Cell],
    stored: Collection[Any],
    unbuilt: set[Network],
    missing: Sequence[MissingPart],
) -> list[tuple[str, dict[str, Any], list[str]]]:
    """The estimates that are asked for: their name in JSON, as JSON types, and as lines."""
    if wishes.here is None and wishes.simulate is None:
        return []
    from benchbd.plan.missing_parts import with_known_work
    from benchbd.run import forecast
    from benchbd.run.measurements import Measurements, this_machine
    from benchbd.run.simulate import simulate
    from benchbd.run.workers.slots import make_slots, visible_gpus

    @functools.cache
    def measurements(gpus: tuple[str, ...]) -> Measurements:
        return Measurements(this_machine(gpus), say=_say, remeasure=args.measure, unbuilt=unbuilt)

    output, found = output_folder(args), []
    if wishes.here is not None:
        slots = make_slots(wishes.here)
        here = measurements(tuple(slot.gpu for slot in slots if slot.gpu is not None))
        cells = with_known_work(unfinished, missing)
        costs = forecast.forecast_here(cells, output, here, stored=stored, from_records=not args.measure)
        left = forecast.time_left(costs._replace(left_out=len(unfinished) - len(cells)), len(slots))
        found.append(("time", forecast.time_as_json(left), forecast.time_as_lines(left)))
    if (wish := wishes.simulate) is not None:
        cells = with_known_work(plan.cells, missing)
        if wish.what == "cores":
            costs = forecast.forecast_here(cells, output, measurements(()), from_records=not args.measure)
        else:
            gpus = visible_gpus() if wishes.rate is None else ()
            gpu = measurements(tuple(gpus)) if gpus else None
            costs = forecast.forecast_gpus(cells, output, measurements(()), gpu, wishes.rate)
        costs = costs._replace(left_out=len(plan.cells) - len(cells))
        runs = [simulate(costs.estimate.jobs, number) for number in wish.numbers]
        lines = forecast.simulation_as_lines(costs, wish, runs)
        found.append(("simulation", forecast.simulation_as_json(costs, runs), lines))
    return found


def _say(line: str) -> None:
    sys.stderr.write(f"benchbd: {line}\n")


def _read(
    output: Path, ids: Iterable[str], damaged: Callable[[Unusable], None] | None = None
) -> dict[str, dict[str, Any]]:
    """The FIELDS of the usable records among ``ids``, by ID; ``damaged`` gets the others."""
    from benchbd.storage import records

    found = {}
    for cell_id in ids:
        record, problem = records.look_up(output, cell_id)
        if record is not None:
            found[cell_id] = {field: record.get(field) for field in FIELDS}
        elif problem is not None and damaged is not None:
            damaged(problem)
    return found


def _related(records: Records, cells: Sequence[Cell]) -> Iterator[Cell]:
    """The cells of records with the data set, model and recipe of one of ``cells``. Unknown plugins are skipped."""
    from benchbd.core.hashing import canonical
    from benchbd.plan.cell import Cell

    pairs = {(cell.dataset.json, cell.model.json) for cell in cells}
    recipes = list({id(cell.recipe): cell.recipe for cell in cells}.values())
    for record in records.values():
        spec = record["spec"]
        if spec["recipe"] in recipes and (canonical(spec["dataset"]), canonical(spec["model"])) in pairs:
            with suppress(BenchbdError):
                yield Cell.from_json({"spec": spec})


def _stored(cells: Iterable[Cell], records: Records, artifacts: Collection[str]) -> set[TrainingKey]:
    """The trainings whose results are in the store, according to records and the names of artifacts.

    The artifact of a training is known only to the stages, which need torch and the images. But a record counts the
    trainings of its cell and names every artifact. If all these artifacts exist, the trainings are stored; if the
    poisoned set exists, so are the attack's trainings for it.
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
    return {kind: n for kind, n in given.items() if isinstance(n, int)}


def _all_in(stages: Any, artifacts: Collection[str]) -> bool:
    return isinstance(stages, dict) and all(str(key) in artifacts for key in stages.values())


def _artifacts(store: Path) -> set[str]:
    """Keys of the artifacts in a store. They are not read, as the store writes an artifact completely or not at all."""
    found: set[str] = set()
    for kind in ("model", "array", "poison"):
        with suppress(FileNotFoundError, NotADirectoryError):
            for folder in (store / kind).iterdir():
                found.update(artifact.name for artifact in folder.iterdir())
    return found
