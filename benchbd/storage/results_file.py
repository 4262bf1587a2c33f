"""Read, check and write records: plain dicts, one per cell.

Runs write ``records/*.json`` in a results folder. A committed ``results.jsonl`` holds one record per line. For an
invalid file of either form, the error names the file and the fault in one line.
"""

from __future__ import annotations

import functools
import gc
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchbd.core.files import encoded, read_plain, write_named
from benchbd.core.plain import json_text
from benchbd.core.text_files import other_kind, without_mark
from benchbd.errors import UsageError, one_line, shown
from benchbd.storage import record_file
from benchbd.storage.record_file import Unusable, parse
from benchbd.storage.record_schema import Identity, Record

LONGEST_NOTE = 6_000
"""Characters of JSON beyond which a note, such as t-SNE points, is left out of a committed results file."""


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the cyclic garbage collector. Records are a million live containers; the pause halves the load time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def load(
    path: str | os.PathLike[str], identity: Identity | None = None, skip: Callable[[Unusable], None] | None = None
) -> list[Record]:
    """Load every record of a results folder (``<folder>/records/*.json``, by file name) or of a ``.jsonl`` file.

    Args:
        path: the folder or file.
        identity: maps a spec to a cell ID. If given, each record must belong to the cell that its spec describes.
        skip: called with each record that cannot be used, which is then left out. Without it, the first one is raised.

    Raises:
        UsageError: the path does not exist, a file in it cannot be read, or the file is none of records or has none.
        Unusable: a record is not JSON, a field is missing or wrong, an ID does not match its spec or file name, or it
            is a link, a folder or a pipe (records are files; a link may lead anywhere, and a pipe may never end).
    """
    with uncollected():
        return list(each(path, identity, skip))


def each(
    path: str | os.PathLike[str], identity: Identity | None = None, skip: Callable[[Unusable], None] | None = None
) -> Iterator[Record]:
    """Like :func:`load`, one record after the other."""
    for read in _reads(Path(path), identity):
        try:
            record = read()
        except FileNotFoundError:  # removed since the folder was listed
            continue
        except Unusable as error:
            if skip is None:
                raise
            skip(error)
            continue
        yield record


def check(path: str | os.PathLike[str]) -> None:
    """Refuse what holds no records before anything is done with others. Raises UsageError, as :func:`load` does."""
    next(_reads(Path(path), None), None)


def where_instead(place: Path) -> str:
    """Where records may be instead of in a place that has none, as the end of a message; '' if nothing suggests one.

    For ``out/records`` that is ``out``; for the folder of an unpacked export, its results file.
    """
    if place.name == "records" and place.is_dir():
        return f"; did you mean {shown(str(place.parent), 200)}?"
    inside = sorted(place.glob("*.jsonl"), key=lambda file: (file.name != "results.jsonl", file.name))
    return f"; it holds {inside[0].name}, which can be read: {inside[0]}" if inside else ""


def _reads(place: Path, identity: Identity | None) -> Iterator[Callable[[], Record]]:
    if place.is_file():
        return _lines(place, identity)
    if (place / "records").is_dir():
        return _files(place / "records", identity)
    raise UsageError(
        f"{place}: no records found (neither a results file nor a folder with records/ in it){where_instead(place)}"
    )


def _no_object(line: bytes) -> str:
    """Why a line is not a JSON object; '' if it is one."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({one_line(error)})"
    return "" if isinstance(found, dict) else f"is not a record but {shown(found)}"


def _lines(file: Path, identity: Identity | None) -> Iterator[Callable[[], Record]]:
    # Only \n ends a line of JSON: a note may hold characters at which str.splitlines would cut it.
    given = [(number, line) for number, line in enumerate(_content(file).split(b"\n"), 1) if line.strip()]
    if not given:
        raise UsageError(f"{file}: has no records; benchbd export writes a file of records")
    # One damaged line may be a record; of several, one at least is whole.
    begins = any(line.lstrip().startswith(b"{") for _, line in given)
    if not begins or (len(given) > 1 and all(_no_object(line) for _, line in given)):
        number, line = given[0]
        raise UsageError(
            f"{file}: is not a results file, which has a JSON record on each line (line {number}: "
            f"{_no_object(line)}); benchbd export writes one"
        )

    def parsed(line: bytes, where: str) -> Record:
        try:
            return parse(line.decode(), where, identity)
        except UnicodeDecodeError:
            raise Unusable(where, "cannot be read (not UTF-8 text)") from None

    for number, line in given:
        yield functools.partial(parsed, line, f"{file}, line {number}")


def _content(file: Path) -> bytes:
    try:
        data = read_plain(file.resolve())
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror})") from None
    if kind := other_kind(data):
        raise UsageError(f"{file}: {kind}")
    return without_mark(data)


def _files(folder: Path, identity: Identity | None) -> Iterator[Callable[[], Record]]:
    with os.scandir(folder) as entries:
        names = sorted(e.name for e in entries if e.name.endswith(".json") and not e.name.startswith("."))
    for name in names:
        # Joined by hand: ten thousand Path objects would take as long as the reading.
        yield functools.partial(record_file.read, f"{folder}{os.sep}{name}", identity, name[:-5])


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
    rows = (json_text(slim(r), sort_keys=True, ensure_ascii=False) for r in ordered(records))
    return "".join(encoded(row).decode() + "\n" for row in rows)


def write(records: Iterable[Record], path: str | os.PathLike[str]) -> None:
    """Write a results file: sorted, one line per cell, so that diffs are readable."""
    write_named(path, lines(records))
