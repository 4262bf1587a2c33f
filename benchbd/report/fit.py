"""Wide tables as several narrow ones, with the same rows."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Sequence

from rich.cells import cell_len

from benchbd.report.table import Row, Table, grid

WIDTH = 110
"""Widest row of plain text in characters, three a column included for its padding."""
GITHUB = 92
"""Widest row of numbers in markdown, counted alike: what GitHub's 830 pixels hold without scrolling, at 9 pixels each.
The summary may be wider, since GitHub breaks its names and words."""
PADDING = 3


def wrapped(text: str, width: int) -> str:
    """Text in lines of at most ``width`` characters, broken at spaces only."""
    return "\n".join(textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False))


def column_widths(table: Table) -> list[int]:
    """Characters of the widest line of each column, its heading included. Cells that span columns do not count."""
    widths = [max(cell_len(column.heading), cell_len(column.group_heading)) for column in table.columns]
    for row in table.rows:
        for place, cell in enumerate(grid(row)):
            if cell.span == 1:
                longest = max(map(cell_len, (*cell.display.split("\n"), cell.extra)))
                widths[place] = max(widths[place], longest)
    return widths


def label_width(table: Table) -> int:
    """Characters of the widest label, the heading of the labels included."""
    return max(map(cell_len, (table.stub, *(f"{row.label} {row.mark}".rstrip() for row in table.rows))))


def blocks(first: int, widths: Sequence[int], most: int = WIDTH) -> list[range]:
    """Split columns into blocks no wider than ``most``, each with the labels in front; a block has a column at least.

    There are as few blocks as possible, and the widest of them is as narrow as possible.

    Args:
        first: width of the labels.
        widths: width of each column.
        most: widest block, in characters.
    """
    found = _filled(first, widths, most)
    if len(found) > 1:
        least = (first + PADDING) + (sum(widths) + PADDING * len(widths)) // len(found)
        found = next(made for limit in range(min(least, most), most + 1)
                     if len(made := _filled(first, widths, limit)) == len(found))  # fmt: skip
    return found


def _filled(first: int, widths: Sequence[int], most: int) -> list[range]:
    """Blocks that take columns as long as they fit."""
    found, start, used = [], 0, first + PADDING
    for place, width in enumerate(widths):
        if place > start and used + width + PADDING > most:
            found.append(range(start, place))
            start, used = place, first + PADDING
        used += width + PADDING
    return [*found, range(start, len(widths))] if widths else []


def fit(table: Table, most: int, further: str, pinned: int = 0) -> list[Table]:
    """The table, or tables of at most ``most`` characters with some of its columns each.

    The lines above a table stay with the first one, its notes with the last one. Later tables leave out rows without a
    text.

    Args:
        table: the table. No cell spans columns.
        most: widest row, in characters.
        further: what the columns are; the later titles end with it.
        pinned: number of columns that are in every table, after the labels.
    """
    widths = column_widths(table)
    first = label_width(table) + sum(width + PADDING for width in widths[:pinned])
    parts = blocks(first, widths[pinned:], most)
    if len(parts) <= 1:
        return [table]
    found = []
    for number, part in enumerate(parts):
        own = [pinned + place for place in part]
        places = [*range(pinned), *own]
        made = dataclasses.replace(
            table,
            title=f"{table.title}, further {further}" if number else table.title,
            columns=[table.columns[place] for place in places],
            rows=_rows(table, places, own, every=not number),
            lead=[] if number else table.lead,
            notes=table.notes if number == len(parts) - 1 else [],
        )
        found.append(made)
    return found


def _rows(table: Table, places: list[int], own: list[int], *, every: bool) -> list[Row]:
    """The rows with some of their cells. A line before a row that is left out moves to the next one."""
    rows: list[Row] = []
    rule = False
    for row in table.rows:
        cells = grid(row)
        rule = rule or row.rule
        if every or any(cells[place].display for place in own):
            rows.append(dataclasses.replace(row, cells=[cells[place] for place in places], rule=rule and bool(rows)))
            rule = False
    return rows
