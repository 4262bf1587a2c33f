"""Records: one JSON file a cell, written atomically; the only truth about what was run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchbd.core.files import atomic_write
from benchbd.errors import UsageError, shown
from benchbd.plan.cell import KINDS, Cell, identity

STATUSES = ("done", "failed", "diverged", "oom", "timeout", "killed", "lost", "cancelled", "skipped")

_NUMBERS = ("ca", "asr", "ra", "peak_memory_bytes", "epochs_trained")
_SHAPE: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("id", "label", "matrix", "dataset", "attack", "defense", "model", "status"), (str,)),
    **dict.fromkeys(("params", "recipe", "time", "trainings", "env", "artifacts", "notes", "spec", "sources"), (dict,)),
    **dict.fromkeys(("detection", "poison"), (dict, type(None))),
    "seed": (int,),
    "error": (str, type(None)),
    "needs": (list,),
    "control": (bool,),
}
_NUMBERS_IN = {
    "time": ("total", "own"),
    "detection": ("auroc", "precision", "recall"),
    "poison": ("count", "share_of_set", "share_of_target_class"),
}


def record_path(output: Path, cell_id: str) -> Path:
    """Where a cell's record lies. Refuses ids that are not 16 hex digits."""
    if not is_id(cell_id):
        raise UsageError(f"{shown(cell_id)} is no cell id (16 hex digits)")
    return output / "records" / f"{cell_id}.json"


def is_id(text: str) -> bool:
    """Whether a text has the form of a cell's id."""
    return len(text) == 16 and all(c in "0123456789abcdef" for c in text)


def blank(cell: Cell, status: str, error: str | None = None) -> dict[str, Any]:
    """A record with every field, for a cell that gave no numbers."""
    made = cell.components()
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
    """What JSON can hold: NaN and infinity become null, arrays lists, anything strange its text.

    No odd note of a plugin may cost the cell it was made in.
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
    """A cell's record, or None where there is none.

    One that can't be read, lacks a field or has it ill-typed, claims another id, or is a link, counts as none.
    """
    path = record_path(output, cell_id)
    try:
        if path.is_symlink():
            return None
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or record.get("id") != cell_id:
        return None
    return record if _shaped(record) and claims_itself(record) and _agrees(record) else None


def _number(value: Any, *, null: bool = True) -> bool:
    if value is None:
        return null
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -(2**63) <= value <= 2**63


def _shaped(record: dict[str, Any]) -> bool:
    """Whether every field is there with its type, so that readers need not ask."""
    for name, types in _SHAPE.items():
        if name not in record or not isinstance(record[name], types):
            return False
    inner = [record[name].get(key) for name, keys in _NUMBERS_IN.items() if record[name] is not None for key in keys]
    if not all(name in record for name in _NUMBERS):
        return False
    if not all(_number(value) for value in (*inner, *(record[name] for name in _NUMBERS))):
        return False
    stages = record["time"].get("stages")
    return isinstance(stages, dict) and all(_number(seconds, null=False) for seconds in stages.values())


def _agrees(record: dict[str, Any]) -> bool:
    """Whether what tables are made of is what the id stands for."""
    spec = record["spec"]
    try:
        return (record["seed"], record["recipe"]) == (spec["seed"], spec["recipe"]) and all(
            (record[k], record["params"][k]) == (spec[k]["name"], spec[k]["params"]) for k in KINDS
        )
    except (KeyError, TypeError):
        return False


def claims_itself(record: dict[str, Any]) -> bool:
    """Whether a record's id is the hash of the spec in it, and its status one we know."""
    try:
        return identity(record["spec"]) == record["id"] and record["status"] in STATUSES
    except (KeyError, TypeError, ValueError, RecursionError):
        return False
