"""Checks and preparations before the first cell of a plan runs."""

from __future__ import annotations

import dataclasses
import errno
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.core.files_folder import files_folder
from benchbd.core.paths import data_folder
from benchbd.errors import UsageError, shown
from benchbd.plan.missing_parts import missing_parts
from benchbd.plugins import registry
from benchbd.plugins.contract import Defense, Model
from benchbd.run.packing_check import refuse_unpackable
from benchbd.run.rerun_policy import run_works_on
from benchbd.storage import records
from benchbd.storage.plugin_places import keep_files_place, keep_plugin_places
from benchbd.storage.record_file import Unusable
from benchbd.storage.results_folder import refuse_shared_place
from benchbd.storage.staleness import InputFiles, changed_inputs_text, changed_sources

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell
    from benchbd.plan.matrix import Plan
    from benchbd.run.settings import RunSettings


def prepare_output(
    plan: Plan, settings: RunSettings, output: Path, damaged: Callable[[Unusable], None] | None = None
) -> RunSettings:
    """Prepare the results folder for a plan.

    Args:
        plan: the plan to run.
        settings: settings of the run.
        output: the results folder, as the user wrote it.
        damaged: called with each record of the plan's cells that cannot be used. Such a cell runs again, and what lies
            in the record's place is kept in ``damaged/``.

    Returns:
        The settings, with the IDs of cells whose record is stale, and the changed inputs of each.

    Raises:
        UsageError: data is missing, the folder cannot be written, a defense packs a model that cannot be packed, or
            stale cells are to run again and data or weights cannot be compared with the records. Nothing has been
            written then.
    """
    existing: dict[str, dict[str, Any]] = {}
    closed: set[str] = set()
    for cell in plan.cells:
        record, problem = records.look_up(output, cell.id)
        if record is not None:
            existing[cell.id] = record
        elif problem is not None and problem.unreadable:
            closed.add(cell.id)
        elif problem is not None and damaged is not None:
            damaged(problem)
    files = InputFiles(settings.data_root)
    changed = {c.id: found for c in plan.cells if c.id in existing and (found := files.changed(c, existing[c.id]))}
    unknown = tuple(files.unknown())
    if settings.rerun == "stale" and unknown:
        raise UsageError(f"--rerun stale: {unknown[0]}; mend that, or run without --rerun stale")
    stale = {c.id for c in plan.cells if c.id in existing and changed_sources(c, existing[c.id])}
    settings = dataclasses.replace(
        settings,
        stale=frozenset(stale | changed.keys()),
        changed_inputs=changed,
        unknown_inputs=unknown,
    )
    left = [c for c in plan.cells if c.id not in closed and run_works_on(c.id, existing.get(c.id), settings)]
    check_cells(left, settings)
    writable(output)
    keep_plugin_places(output, plan.name, settings.plugins)
    if any(_reads_files(cell) for cell in plan.cells):
        keep_files_place(output, plan.name, files_folder())
    _record_skipped(plan, output)
    return settings


def _reads_files(cell: Cell) -> bool:
    """Whether the defense or the model of a cell may read files of the user's."""
    defense: Any = registry.load("defenses", cell.defense.name)
    model: Any = registry.load("models", cell.model.name)
    return defense.input_files is not Defense.input_files or model.input_files is not Model.input_files


def kept_on_other_data(plan: Plan, settings: RunSettings, output: Path) -> list[str]:
    """A line for each input that has changed, or may have, since records were made that the run keeps.

    Args:
        plan: the plan to run.
        settings: what :func:`prepare_output` returned.
        output: the results folder.
    """
    kept = [
        changed
        for cell_id, changed in settings.changed_inputs.items()
        if not run_works_on(cell_id, records.read_record(output, cell_id), settings)
    ]
    advice = "old results are kept, and tables mark them beside new ones; --rerun stale measures them again"
    return [*changed_inputs_text(kept, advice), *settings.unknown_inputs]


def writable(output: Path) -> None:
    """Create the results folder. Raises UsageError, with the reason in one line, if it cannot be written."""
    refuse_shared_place(output)
    try:
        for folder in (output, output / "records", output / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("running", "store", records.DAMAGED, records.FAILED_RERUNS):
            if os.path.lexists(output / name) and not (output / name).is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"{name} is not a folder")
        with tempfile.NamedTemporaryFile(dir=output / "records", prefix=".probe-", suffix=".tmp"):
            pass
    except OSError as error:
        why = error.strerror or error
        hint = "check its permissions and the disk, or name another folder"
        if isinstance(error, (NotADirectoryError, FileExistsError)):
            hint = "remove it, or name another folder"
            why = why if not error.filename else f"{Path(error.filename).name} is not a folder"
        raise UsageError(f"--output {shown(str(output), 200)}: cannot be written ({why}); {hint}") from error


def check_cells(cells: Sequence[Cell], settings: RunSettings) -> None:
    """Check what cells need before any of them runs. Nothing is written to the results folder.

    Raises:
        UsageError: a file or package of a plugin is missing, or a defense packs a model that cannot be packed.
    """
    if settings.executor != "ray":  # Ray's machines have their own files
        for part in missing_parts(cells, data_folder(settings.data_root)):
            raise UsageError(part.line)
    refuse_unpackable(cells)


def _record_skipped(plan: Plan, output: Path) -> None:
    """Write a record, with the reason, for each cell that cannot exist."""
    for skipped in plan.skipped:
        earlier, problem = records.look_up(output, skipped.cell.id)
        if problem is not None and problem.unreadable:
            continue
        # An earlier result of a cell that is impossible by now stays.
        if earlier is None or (
            earlier["status"] != "done" and (earlier["status"], earlier["error"]) != ("skipped", skipped.reason)
        ):
            records.write_record(output, records.blank(skipped.cell, "skipped", skipped.reason))
