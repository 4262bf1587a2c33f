"""Records: one JSON file per cell, written atomically. They are the only source of truth about past runs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchbd.core.files import atomic_write
from benchbd.core.kinds import KINDS
from benchbd.errors import UsageError, shown
from benchbd.plan.cell import Cell, identity
from benchbd.storage import record_schema


def record_path(output: Path, cell_id: str) -> Path:
    """Path of a cell's record. Raises UsageError unless the ID is 16 hex digits."""
    if not record_schema.is_id(cell_id):
        raise UsageError(f"{shown(cell_id)} is not a cell ID (16 hex digits)")
    return output / "records" / f"{cell_id}.json"


def blank(cell: Cell, status: str, error: str | None = None) -> dict[str, Any]:
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
    }


def _plain(value: Any) -> Any:
    """Convert a value to JSON types: NaN and infinity become null, arrays become lists, unknown objects their text.

    An unusual note from a plugin must not fail its cell.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy and torch, scalars as well
        return _plain(value.tolist())
    return str(value)


def write_record(output: Path, record: dict[str, Any]) -> None:
    """Write a record atomically."""
    text = json.dumps(_plain(record), sort_keys=True, indent=1) + "\n"
    atomic_write(record_path(output, record["id"]), text.encode())


def read_record(output: Path, cell_id: str) -> dict[str, Any] | None:
    """A cell's record, or None if it has no valid one.

    A record is invalid if it cannot be read, is a symbolic link, belongs to another cell, or violates
    :mod:`benchbd.storage.record_schema`.
    """
    path = record_path(output, cell_id)
    try:
        if path.is_symlink():
            return None
        record = record_schema.decode(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if record_schema.fault(record, identity) is not None or record["id"] != cell_id:
        return None
    return record  # type: ignore[no-any-return]
