"""The columns of a CSV of images: their names, and what is wrong with a first row."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from benchbd import UsageError
from benchbd.errors import shown

COLUMNS = ("file", "label", "split", "true_label", "poisoned", "triggered")
NEAR = 0.85
"""Likeness of two names, from 0 to 1 (difflib), from which one counts as the other misspelled."""
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
"""Separators other than the comma that programs write between columns."""


def check_head(path: Path, line: int, head: Sequence[str]) -> None:
    """Check the names of a CSV's columns.

    Args:
        path: the CSV, for the message.
        line: number of its first row's line, from 1.
        head: the names in that row, in lower case.

    Raises:
        UsageError: a column is missing, misspelled or there twice, or commas do not separate the columns.
    """
    _refuse_misspelled(path, head)
    known = ", ".join(COLUMNS)
    for sign, name in SEPARATORS.items():
        if len(head) == 1 and sign in head[0]:
            raise UsageError(f"{path}, line {line}: separates the columns by {name}; save it with commas")
    for name in ("file", "label"):
        if head.count(name) != 1:
            raise UsageError(f"{path}, line {line}: needs one column called {name} (known: {known}), not {shown(head)}")
    for name in COLUMNS[2:]:
        if head.count(name) > 1:
            raise UsageError(f"{path}, line {line}: has the column {name} twice")


def _refuse_misspelled(path: Path, head: Sequence[str]) -> None:
    """Refuse a CSV in which a column is missing and another has nearly its name; other columns may have any name.

    With ``split`` misspelled, another split would be drawn; with ``triggered`` misspelled, its images would be clean.
    """
    absent = [name for name in COLUMNS[2:] if name not in head]  # the others are required, with a message of their own
    for name in head:
        near = [] if name in COLUMNS else difflib.get_close_matches(name[:100], absent, n=1, cutoff=NEAR)
        if near:
            raise UsageError(
                f"{path}: the column {shown(name)} is not read; did you mean {near[0]!r}? "
                "Rename the column or take it out"
            )
