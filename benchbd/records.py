"""Records: one JSON file a cell, written atomically; the only truth about what was run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchbd.cell import Cell, identity
from benchbd.errors import UsageError
from benchbd.store import atomic_write

STATUSES = ("done", "failed", "diverged", "oom", "timeout", "killed", "lost", "cancelled", "skipped")


def record_path(output: Path, cell_id: str) -> Path:
    """Where a cell's record lies. Refuses ids that are not 16 hex digits."""
    if len(cell_id) != 16 or any(c not in "0123456789abcdef" for c in cell_id):
        raise UsageError(f"{cell_id[:60]!r} is no cell id (16 hex digits)")
    return output / "records" / f"{cell_id}.json"


def blank(cell: Cell, status: str, error: str | None = None) -> dict[str, Any]:
    """A record with every field, for a cell that gave no numbers."""
    made = cell.made()
    return {
        "id": cell.id,
        "label": cell.label,
        "matrix": cell.matrix,
        "dataset": cell.dataset.name,
        "attack": cell.attack.name,
        "defense": cell.defense.name,
        "model": cell.model.name,
        "seed": cell.seed,
        "params": {k: getattr(cell, k).params for k in ("dataset", "attack", "defense", "model")},
        "recipe": cell.recipe,
        "status": status,
        "error": error,
        "ca": None,
        "asr": None,
        "ra": None,
        "detection": None,
        "poison": None,
        "time": {"total": None, "own": None, "stages": {}},
        "peak_memory_bytes": None,
        "epochs_trained": None,
        "trainings": {},
        "env": {},
        "artifacts": {},
        "notes": {},
        "needs": list(made.defense.needs),
        "control": made.defense.control,
        "spec": cell.spec(),
        "sources": {},
    }


def _plain(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def write_record(output: Path, record: dict[str, Any]) -> None:
    """Write a record atomically."""
    atomic_write(record_path(output, record["id"]), (json.dumps(_plain(record), sort_keys=True, indent=1) + "\n").encode())


def read_record(output: Path, cell_id: str) -> dict[str, Any] | None:
    """A cell's record, or None where there is none. A record that can't be read or claims another id counts as none."""
    path = record_path(output, cell_id)
    try:
        if path.is_symlink():
            return None
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.get("id") == cell_id and claims_itself(record) else None


def claims_itself(record: dict[str, Any]) -> bool:
    """Whether a record's id is the hash of the spec in it, and its status one we know."""
    try:
        return identity(record["spec"]) == record["id"] and record["status"] in STATUSES
    except (KeyError, TypeError, ValueError, RecursionError):
        return False
