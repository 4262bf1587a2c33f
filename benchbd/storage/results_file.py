"""Read, check and write records: plain dicts, one a cell.

A results folder holds ``records/*.json`` (what runs write); a ``results.jsonl`` holds one record a line (what is
committed). Whatever is wrong with either is refused with one line that names the file and the fault.
"""

from __future__ import annotations

import gc
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchbd.core.files import write_text
from benchbd.errors import UsageError

Record = dict[str, Any]
Identity = Callable[[dict[str, Any]], str]

STATUSES = ("done", "failed", "diverged", "oom", "timeout", "killed", "lost", "cancelled", "skipped")
LONGEST_NOTE = 6_000
"""Characters of JSON beyond which a note (t-SNE points, say) stays out of a committed results file."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_NAMES = ("dataset", "attack", "defense", "model")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "params": dict, "recipe": dict, "spec": dict, "env": dict, "notes": dict, "artifacts": dict, "sources": dict,
    "trainings": dict, "time": dict, "poison": dict, "detection": dict, "needs": list, "control": bool,
    "error": str, "label": str, "matrix": str,
}  # fmt: skip
_CONTAINERS = {dict: "an object", list: "a list", bool: "true or false", str: "text"}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _fault(record: Any, identity: Identity | None) -> str | None:
    """What is wrong with one record, as the end of a sentence; None where nothing is."""
    if not isinstance(record, dict):
        return f"is not a record but {_shown(record)}"
    ident = record.get("id")
    if not isinstance(ident, str) or not _ID.fullmatch(ident):
        return f"has no usable id: {_shown(ident)}"
    for name in _NAMES:
        value = record.get(name)
        if not isinstance(value, str) or not 0 < len(value) <= 200:
            return f"{name} must be a name, not {_shown(value)}"
    seed = record.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        return f"seed must be an integer, not {_shown(seed)}"
    if record.get("status") not in STATUSES:
        return f"status {_shown(record.get('status'))} is none of {', '.join(STATUSES)}"
    for key, kind in _TYPES.items():
        value = record.get(key)
        if value is not None and not isinstance(value, kind):
            return f"{key} must be {_CONTAINERS[kind]}, not {_shown(value)}"  # type: ignore[index]
    for key in ("ca", "asr", "ra"):
        value = record.get(key)
        if value is not None and not (_number(value) and 0 <= value <= 1):
            return f"{key} must be a fraction in [0, 1] or null, not {_shown(value)}"
    if record["status"] == "done" and record.get("ca") is None:
        return "is done but has no ca"
    for key, value in (record.get("params") or {}).items():
        if not isinstance(value, dict):
            return f"params.{key} must be an object, not {_shown(value)}"
    for key in ("auroc", "precision", "recall"):
        value = (record.get("detection") or {}).get(key)
        if value is not None and not (_number(value) and 0 <= value <= 1):
            return f"detection.{key} must be a fraction in [0, 1] or null, not {_shown(value)}"
    for key in ("total", "own"):
        value = (record.get("time") or {}).get(key)
        if value is not None and not (_number(value) and value >= 0):
            return f"time.{key} must be seconds, not {_shown(value)}"
    stages = (record.get("time") or {}).get("stages")
    if stages is not None and not (isinstance(stages, dict) and all(_number(v) for v in stages.values())):
        return f"time.stages must be seconds by stage, not {_shown(stages)}"
    for key, value in (record.get("trainings") or {}).items():
        if not _number(value):
            return f"trainings.{key} must be a count, not {_shown(value)}"
    if not all(isinstance(need, str) for need in record.get("needs") or ()):
        return f"needs must be a list of words, not {_shown(record['needs'])}"
    if identity is not None:
        spec = record.get("spec")
        if not isinstance(spec, dict):
            return "has no spec to check its id against"
        try:
            due = identity(spec)
        except Exception as error:
            return f"has a spec that cannot be read ({type(error).__name__}: {error})"
        if due != ident:
            return f"claims the id {ident}, but its spec has the id {due}"
    return None


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def parse(text: str, where: str, identity: Identity | None = None) -> Record:
    """Make a checked record out of JSON text.

    Args:
        text: one JSON object. NaN and infinities are refused: they are not JSON.
        where: the file, and line where there are several, for the message.
        identity: spec -> id; where given, a record must carry the id of its own spec.

    Raises:
        UsageError: one line that names ``where`` and the fault.
    """
    try:
        record = _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({str(error).splitlines()[0]})") from None
    fault = _fault(record, identity)
    if fault:
        raise UsageError(f"{where}: {fault}")
    return record  # type: ignore[no-any-return]


def _read(path: str | os.PathLike[str]) -> str:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - ten thousand Path objects would take as long
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise UsageError(f"{path}: cannot be read ({reason})") from None


@contextmanager
def _uncollected() -> Iterator[None]:
    """Pause the cyclic garbage collector: records are a million containers and none is garbage; it halves the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def load(path: str | os.PathLike[str], identity: Identity | None = None) -> list[Record]:
    """Load every record of a results folder (``<folder>/records/*.json``, by file name) or of a ``.jsonl`` file.

    Raises:
        UsageError: nothing there, an unreadable file, not JSON, a field of the wrong type, an id that is not the
            spec's, or a link in the folder (records are files; a link may lead anywhere).
    """
    place = Path(path)
    if place.is_file():
        lines = _read(place).splitlines()
        with _uncollected():
            return [parse(s, f"{place}, line {i}", identity) for i, s in enumerate(lines, 1) if s.strip()]
    folder = place / "records"
    if not folder.is_dir():
        raise UsageError(f"{place}: no records there (neither a results file nor a folder with records/ in it)")
    found = []
    with os.scandir(folder) as entries, _uncollected():
        files = sorted(
            (e for e in entries if e.name.endswith(".json") and not e.name.startswith(".")), key=lambda e: e.name
        )
        for entry in files:
            if entry.is_symlink() or not entry.is_file():
                raise UsageError(f"{entry.path}: a record must be a plain file")
            found.append(parse(_read(entry.path), entry.path, identity))
    return found


def ordered(records: Iterable[Record]) -> list[Record]:
    """Sort so that neighbours in a file are neighbours in the table; the id settles what is left."""

    def place(record: Record) -> tuple[Any, ...]:
        params = json.dumps([record.get("params"), record.get("recipe")], sort_keys=True)
        return (
            record["dataset"],
            record["model"],
            record["attack"],
            record["defense"],
            params,
            record["seed"],
            record["id"],
        )

    return sorted(records, key=place)


def slim(record: Mapping[str, Any]) -> Record:
    """The record as it is committed: notes longer than LONGEST_NOTE left out, their names kept."""
    notes = record.get("notes") or {}
    long = [name for name, note in notes.items() if len(json.dumps(note)) > LONGEST_NOTE]
    if not long:
        return dict(record)
    kept = {name: note for name, note in notes.items() if name not in long}
    return {**record, "notes": {**kept, "omitted": sorted({*long, *kept.get("omitted", ())})}}


def lines(records: Iterable[Record]) -> str:
    """The text of a results file: sorted, one record a line with sorted keys, the same for the same records."""
    rows = (json.dumps(slim(r), sort_keys=True, allow_nan=False, ensure_ascii=False) for r in ordered(records))
    return "".join(row + "\n" for row in rows)


def write(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Write a results file: sorted, one row a cell, diff-able."""
    write_text(path, lines(records))
