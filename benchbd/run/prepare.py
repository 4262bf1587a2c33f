"""Checks and preparations before the first cell of a plan runs."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.core.paths import data_folder
from benchbd.errors import UsageError, shown
from benchbd.plugins import registry
from benchbd.plugins.validate import missing_data
from benchbd.run.rerun_policy import needs_run
from benchbd.storage import records
from benchbd.storage.staleness import changed_sources

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell
    from benchbd.plan.matrix import Plan
    from benchbd.run.settings import RunSettings


def prepare_output(plan: Plan, settings: RunSettings, output: Path) -> RunSettings:
    """Prepare the results folder for a plan.

    Args:
        plan: the plan to run.
        settings: settings of the run.
        output: the results folder, as the user wrote it.

    Returns:
        The settings, with the IDs of cells whose record is stale.

    Raises:
        UsageError: data is missing, or the folder cannot be written. Nothing has been written then.
    """
    existing = {cell.id: record for cell in plan.cells if (record := records.read_record(output, cell.id))}
    stale = frozenset(
        cell.id for cell in plan.cells if cell.id in existing and changed_sources(cell, existing[cell.id])
    )
    settings = dataclasses.replace(settings, stale=stale)
    _check_data(plan, existing, settings)
    writable(output)
    _record_skipped(plan, output)
    return settings


def writable(output: Path) -> None:
    """Create the results folder. Raises UsageError, with the reason in one line, if it cannot be written."""
    try:
        for folder in (output, output / "records", output / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=output / "records", prefix=".probe-", suffix=".tmp"):
            pass
    except OSError as error:
        why = error.strerror or error
        hint = "check its permissions and the disk, or name another folder"
        raise UsageError(f"--output {shown(str(output), 200)}: cannot be written ({why}); {hint}") from error


def _check_data(plan: Plan, existing: Mapping[str, dict[str, Any]], settings: RunSettings) -> None:
    """Raise UsageError for missing data before any worker starts. Ray's machines have their own data folders."""
    if settings.executor == "ray":
        return
    folder = data_folder(settings.data_root)
    needed: dict[str, Cell] = {}
    for cell in plan.cells:
        if needs_run(
            existing.get(cell.id), rerun=settings.rerun, stale=cell.id in settings.stale, retries=settings.retries
        ):
            needed.setdefault(cell.dataset.text, cell)
    for cell in needed.values():
        data = cell.components().dataset
        with registry.blame("datasets", cell.dataset.name):
            line = missing_data(data, folder)
        if line:
            raise UsageError(line)


def _record_skipped(plan: Plan, output: Path) -> None:
    """Write a record, with the reason, for each cell that cannot exist."""
    for skipped in plan.skipped:
        earlier = records.read_record(output, skipped.cell.id)
        if earlier is None or (earlier["status"], earlier["error"]) != ("skipped", skipped.reason):
            records.write_record(output, records.blank(skipped.cell, "skipped", skipped.reason))
