"""Export results as one jsonl, csv or zip file."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchbd.core.files import encoded, named_file, read_plain, write_named
from benchbd.report import board
from benchbd.storage import results_file as checked
from benchbd.storage.record_schema import Record

LEFT_OUT = ("spec", "notes", "sources", "artifacts")
"""Nested fields that the csv leaves out; the jsonl has them."""


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a record into plain values such as ``time.total`` and ``params.attack.rate``; lists become JSON."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        if not prefix and key in LEFT_OUT:
            continue
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, (list, bool)) else value
    return found


def _inert(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "@", "+", "-", "\t", "\r") else value


def as_jsonl(records: Sequence[Record], target: Path, output: Path) -> None:
    """Write one record per line."""
    checked.write(records, target)


def as_csv(records: Sequence[Record], target: Path, output: Path) -> None:
    """Write one row per cell; the columns are all fields that any record has."""
    rows = [flat(record) for record in records]
    fields = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, fields, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _inert(value) for name, value in row.items()})
    write_named(target, text.getvalue())


def as_zip(records: Sequence[Record], target: Path, output: Path) -> None:
    """Write the records, their logs and the leaderboard."""
    with named_file(target) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("results.jsonl", encoded(checked.lines(records)))
        archive.writestr("leaderboard.md", encoded(board(records).render("md")))
        for record in records:
            name = f"{record['id']}.log"
            try:
                log = read_plain(output / "logs" / name)
            except OSError:  # no log, or not a file
                continue
            archive.writestr(f"logs/{name}", log)
