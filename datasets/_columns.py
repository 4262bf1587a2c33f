"""Columns of a CSV that look like misspelled names of columns that benchbd reads."""

from __future__ import annotations

import csv
import difflib
from pathlib import Path

from benchbd import UsageError
from benchbd.datasets._labels import COLUMNS
from benchbd.errors import shown

NEAR = 0.85
"""Likeness of two names, from 0 to 1 (difflib), from which one counts as the other misspelled."""


def refuse_misspelled(path: Path) -> None:
    """Refuse a CSV in which a column is missing and another has nearly its name; other columns may have any name.

    With ``split`` misspelled, another split would be drawn; with ``triggered`` misspelled, its images would be clean.
    What is no CSV or cannot be read is left to the reader of its rows.

    Raises:
        UsageError: there is such a column.
    """
    try:
        if not path.is_file():
            return
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = next((row for row in csv.reader(file, strict=True) if any(value.strip() for value in row)), [])
    except (OSError, UnicodeDecodeError, csv.Error):
        return
    names = [name.strip().lower() for name in head]
    absent = [name for name in COLUMNS[2:] if name not in names]  # the others are required, with a message of their own
    for name in names:
        near = [] if name in COLUMNS else difflib.get_close_matches(name[:100], absent, n=1, cutoff=NEAR)
        if near:
            raise UsageError(
                f"{path}: the column {shown(name)} is not read; did you mean {near[0]!r}? "
                "Rename the column or take it out"
            )
