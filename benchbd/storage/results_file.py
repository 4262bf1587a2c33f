"""Read, check and write records: plain dicts, one per cell.

Runs write ``records/*.json`` in a results folder. A committed ``results.jsonl`` holds one record per line. For an
invalid file of either form, the error names the file and the fault in one line.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchbd.core.files import write_text
from benchbd.errors import UsageError
from benchbd.storage.record_schema import Identity, Record, decode, fault

LONGEST_NOTE = 6_000
"""Characters of JSON beyond which a note, such as t-SNE points, is left out of a committed results file."""


def parse(text: str, where: str, identity: Identity | None = None) -> Record:
    """Parse and check a record.

    Args:
        text: one JSON object. NaN and infinities are rejected: they are not JSON.
        where: the file, and the line in a file of several records, for the message.
        identity: maps a spec to a cell ID. If given, the record must belong to the cell that its spec describes.

    Raises:
        UsageError: one line that names ``where`` and the fault.
    """
    try:
        record = decode(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: not JSON ({str(error).splitlines()[0]})") from None
    wrong = fault(record, identity)
    if wrong:
        raise UsageError(f"{where}: {wrong}")
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
    """Pause the cyclic garbage collector. Records are a million live containers; the pause halves the load time."""
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
        UsageError: the path does not exist, a file cannot be read or is not JSON, a field is missing or wrong, an ID
            does not match its spec, or the folder contains a link (records are files; a link may lead anywhere).
    """
    place = Path(path)
    if place.is_file():
        lines = _read(place).splitlines()
        with _uncollected():
            return [parse(s, f"{place}, line {i}", identity) for i, s in enumerate(lines, 1) if s.strip()]
    folder = place / "records"
    if not folder.is_dir():
        raise UsageError(f"{place}: no records found (neither a results file nor a folder with records/ in it)")
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
    """Sort records so that neighbours in a table are neighbours in the file; the ID breaks ties."""

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
    """The record in its committed form: without notes longer than LONGEST_NOTE, but with their names."""
    notes = record.get("notes") or {}
    long = [name for name, note in notes.items() if len(json.dumps(note)) > LONGEST_NOTE]
    if not long:
        return dict(record)
    kept = {name: note for name, note in notes.items() if name not in long}
    return {**record, "notes": {**kept, "omitted": sorted({*long, *kept.get("omitted", ())})}}


def lines(records: Iterable[Record]) -> str:
    """The text of a results file: one record per line, records and keys sorted, so equal records give equal text."""
    rows = (json.dumps(slim(r), sort_keys=True, allow_nan=False, ensure_ascii=False) for r in ordered(records))
    return "".join(row + "\n" for row in rows)


def write(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Write a results file: sorted, one line per cell, so that diffs are readable."""
    write_text(path, lines(records))
