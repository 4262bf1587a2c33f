"""What is found out and written down before the first cell of a plan runs."""

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
    """Make the results folder ready for a plan.

    Args:
        plan: what is to run.
        settings: of the run.
        output: the results folder, by the name that the user knows it by.

    Returns:
        The settings, with the cells whose record is stale.

    Raises:
        UsageError: data is missing, or the folder cannot be written; nothing was written then.
    """
    there = {cell.id: record for cell in plan.cells if (record := records.read_record(output, cell.id))}
    stale = frozenset(cell.id for cell in plan.cells if cell.id in there and changed_sources(cell, there[cell.id]))
    settings = dataclasses.replace(settings, stale=stale)
    _check_data(plan, there, settings)
    writable(output)
    _record_skipped(plan, output)
    return settings


def writable(output: Path) -> None:
    """Make the results folder, or say in one line why that fails. Raises UsageError."""
    try:
        for folder in (output, output / "records", output / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=output / "records", prefix=".probe-", suffix=".tmp"):
            pass
    except OSError as error:
        why = error.strerror or error
        what = "check its permissions and the disk, or name another folder"
        raise UsageError(f"--output {shown(str(output), 200)}: cannot be written ({why}); {what}") from error


def _check_data(plan: Plan, there: Mapping[str, dict[str, Any]], settings: RunSettings) -> None:
    """Find out that data is missing before any worker starts. Ray's machines have data folders of their own."""
    if settings.executor == "ray":
        return
    folder = data_folder(settings.data_root)
    needed: dict[str, Cell] = {}
    for cell in plan.cells:
        if needs_run(
            there.get(cell.id), rerun=settings.rerun, stale=cell.id in settings.stale, retries=settings.retries
        ):
            needed.setdefault(cell.dataset.text, cell)
    for cell in needed.values():
        data = cell.components().dataset
        with registry.blame("datasets", cell.dataset.name):
            line = missing_data(data, folder)
        if line:
            raise UsageError(line)


def _record_skipped(plan: Plan, output: Path) -> None:
    """Cells that cannot exist are rows too, with the reason."""
    for skipped in plan.skipped:
        earlier = records.read_record(output, skipped.cell.id)
        if earlier is None or (earlier["status"], earlier["error"]) != ("skipped", skipped.reason):
            records.write_record(output, records.blank(skipped.cell, "skipped", skipped.reason))
