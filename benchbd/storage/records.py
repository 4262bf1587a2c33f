"""Records: one JSON file per cell, written atomically. They are the only source of truth about past runs.

One damaged record costs one record: it is named, moved to ``damaged/`` when its cell has run again, and never
overwritten. A finished record is replaced only by a finished one: the record of a rerun without a result goes to
``failed_reruns/``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from pathlib import Path
from typing import Any

from benchbd.core.files import atomic_write, results_disk
from benchbd.core.kinds import KINDS
from benchbd.core.plain import plain, printable
from benchbd.errors import UsageError, shown
from benchbd.plan.cell import Cell, identity
from benchbd.storage import record_file, record_schema
from benchbd.storage.record_file import Unusable
from benchbd.storage.record_schema import Record

DAMAGED, FAILED_RERUNS = "damaged", "failed_reruns"
"""Folders, in a results folder, of records that could not be read, and of reruns without a result."""

_VERBATIM = frozenset({"id", "label", "matrix", *KINDS, "params", "recipe", "spec"})
"""Fields that identify the cell; escaping a character in them would give the record another ID."""


def record_path(output: Path, cell_id: str) -> Path:
    """Path of a cell's record. Raises UsageError unless the ID is 16 hex digits."""
    if not record_schema.is_id(cell_id):
        raise UsageError(f"{shown(cell_id)} is not a cell ID (16 hex digits)")
    return output / "records" / f"{cell_id}.json"


def blank(cell: Cell, status: str, error: str | None = None) -> Record:
    """A record with every field, for a cell without results."""
    defense = cell.components().defense
    return {
        "id": cell.id,
        "label": cell.label,
        "matrix": cell.matrix,
        "dataset": cell.dataset.name,
        "attack": cell.attack.name,
        "defense": cell.defense.name,
        "model": cell.model.name,
        "seed": cell.seed,
        "params": {k: getattr(cell, k).params for k in KINDS},
        "recipe": cell.recipe,
        "status": status,
        "error": error,
        "ca": None,
        "asr": None,
        "ra": None,
        "clean_asr": None,
        "triggered": None,
        "asr_all": None,
        "ca_non_target": None,
        "data": None,
        "test_transform": None,
        "detection": None,
        "poison": None,
        "time": {"total": None, "own": None, "stages": {}},
        "peak_memory_bytes": None,
        "epochs_trained": None,
        "trainings": {},
        "env": {},
        "artifacts": {},
        "notes": {},
        "needs": list(defense.needs),
        "control": defense.control,
        "spec": cell.spec(),
        "sources": {},
        record_schema.OTHER_SOURCES: None,
    }


def _text(record: Record) -> bytes:
    try:
        return _json(record)
    except RecursionError:
        notes = record["notes"]
        return _json({**record, "notes": {key: _shallow(note) for key, note in notes.items()}})


def _json(record: Record) -> bytes:
    written = {key: value if key in _VERBATIM else printable(value) for key, value in plain(record).items()}
    return (json.dumps(written, sort_keys=True, indent=1) + "\n").encode()


def _shallow(note: Any) -> Any:
    """A note, or how it begins if it is nested too deeply for a file."""
    try:
        json.dumps([[printable(plain(note))]], sort_keys=True, indent=1)
    except RecursionError:
        return shown(note)
    return note


def write_record(output: Path, record: Record) -> bool:
    """Write a record atomically.

    A record without a result never replaces a finished one: it goes to ``failed_reruns/``. Whatever else lies in the
    record's place is moved to ``damaged/``.

    Returns:
        Whether the record is in its place; False if an earlier result stays there.

    Raises:
        OSError: the record cannot be written, or the one in its place cannot be read.
    """
    with results_disk(output):
        return _write_record(output, record)


def _write_record(output: Path, record: Record) -> bool:
    path = record_path(output, record["id"])
    found, problem = look_up(output, record["id"])
    if problem is not None and problem.unreadable:
        raise OSError(errno.EACCES, f"the record in its place is not replaced ({problem.reason})", str(path))
    failed = _failed_path(output, record["id"])
    if found is not None and found["status"] == "done" and record["status"] != "done":
        if failed.is_dir():
            set_aside(output, failed)
        atomic_write(failed, _text(record))
        return False
    if problem is not None:
        set_aside(output, path)
    atomic_write(path, _text(record))
    if record["status"] == "done" and os.path.lexists(failed):
        # The record is in its place: what cannot be cleared away must not look like a failed write.
        with contextlib.suppress(OSError):
            set_aside(output, failed) if failed.is_dir() else failed.unlink()
    return True


def set_aside(output: Path, path: Path) -> None:
    """Move what lies in a record's place to ``damaged/``, whatever it is."""
    folder = output / DAMAGED
    folder.mkdir(parents=True, exist_ok=True)
    path.rename(folder / f"{path.stem}-{secrets.token_hex(4)}{path.suffix}")


def look_up(output: Path, cell_id: str) -> tuple[Record | None, Unusable | None]:
    """A cell's record, or what makes it unusable; (None, None) if there is nothing.

    A record is unusable if it cannot be read, is not a plain file (a link, a folder, a pipe), belongs to another cell,
    or violates :mod:`benchbd.storage.record_schema`. The call never waits for a pipe.
    """
    return _read(record_path(output, cell_id), cell_id)


def _read(path: Path, cell_id: str) -> tuple[Record | None, Unusable | None]:
    try:
        return record_file.read(str(path), identity, cell_id), None
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except Unusable as error:
        return None, error


def read_record(output: Path, cell_id: str) -> Record | None:
    """A cell's record, or None if it has no valid one (see :func:`look_up`)."""
    return look_up(output, cell_id)[0]


def _failed_path(output: Path, cell_id: str) -> Path:
    return output / FAILED_RERUNS / record_path(output, cell_id).name


def _time_of(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def last_change(output: Path, cell_id: str) -> int:
    """When a cell's record or that of a failed rerun was last written, in nanoseconds; 0 if there is none."""
    return max(_time_of(record_path(output, cell_id)), _time_of(_failed_path(output, cell_id)))


def last_attempt(output: Path, cell_id: str) -> Record | None:
    """The record of a cell's last attempt: that of a failed rerun if it is newer than the result that stays."""
    failed = failed_rerun(output, cell_id)
    if failed is not None and _time_of(_failed_path(output, cell_id)) >= _time_of(record_path(output, cell_id)):
        return failed
    return read_record(output, cell_id)


def failed_reruns(output: Path) -> set[str]:
    """IDs of the cells whose last rerun has no result, while an earlier result stays."""
    with contextlib.suppress(OSError), os.scandir(output / FAILED_RERUNS) as entries:
        return {entry.name[:-5] for entry in entries if entry.name.endswith(".json")}
    return set()


def failed_rerun(output: Path, cell_id: str) -> Record | None:
    """The record of a cell's last rerun without a result, if an earlier result stays in its place."""
    return _read(_failed_path(output, cell_id), cell_id)[0]
