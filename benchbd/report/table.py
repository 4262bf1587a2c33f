"""The table model that every format (markdown, csv, json, latex, html) renders."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from benchbd.report.stats import Spread


@dataclass(slots=True)
class TableCell:
    """One entry of a table.

    Attributes:
        display: text shown, such as ``92.01 [91.71, 92.31]`` or ``oom``.
        value: the number shown (accuracies as fractions, times in seconds); None for text.
        interval: half the width of the 95 % t-interval of ``value``; None under five values.
        n: number of seeds behind the value; in averages, of rows.
        best: whether the value is the best of those it competes with, or shares the title (see
            :func:`benchbd.report.stats.best`).
        published: the paper's value for this cell, in the unit of ``value``.
        extra: a second line under ``display``.
        note: longer explanation of the cell.
        href: target of the cell's link.
        records: ids of the records behind it.
        span: number of columns the cell fills; the row has no cells for the further columns.
        spread: the range or interval of ``value``, capped to the values that exist; None without one.
        failures: the failed seeds behind a value by status, such as ``2 oom, timeout``.
        tone: how severe an ASR is, for media with colour; empty for other cells.
    """

    display: str = ""
    value: float | None = None
    interval: float | None = None
    n: int = 0
    best: bool = False
    published: float | None = None
    extra: str = ""
    note: str = ""
    href: str = ""
    records: tuple[str, ...] = ()
    span: int = 1
    spread: Spread | None = None
    failures: str = ""
    tone: Literal["", "good", "fair", "bad"] = ""


@dataclass(slots=True)
class Column:
    """One column. Neighbours with the same ``group`` share its heading; ``direction`` is the better direction."""

    label: str
    group: str = ""
    direction: Literal["up", "down", ""] = ""
    unit: Literal["fraction", "seconds", "ratio", "count", ""] = ""
    control: bool = False
    rule: bool = False
    """Whether a line precedes this column."""
    tag: str = ""
    """Plain name of the column's defense, for filters."""
    mark: str = ""
    """A sign after the group's heading; the table's notes explain it."""

    @property
    def group_heading(self) -> str:
        """The group with its mark."""
        return f"{self.group} {self.mark}".rstrip()

    @property
    def heading(self) -> str:
        """The label with its arrow."""
        return self.label + {"up": " ↑", "down": " ↓", "": ""}[self.direction]


@dataclass(slots=True)
class Row:
    """One row: a label, then cells whose spans fill the columns."""

    label: str
    cells: list[TableCell]
    kind: Literal["body", "average", "foot"] = "body"
    mark: str = ""
    """A sign after the label; the table's notes explain it."""
    rule: bool = False
    """Whether a line precedes this row."""
    tag: str = ""
    """Plain name of the row's attack or defense, for filters."""


@dataclass(slots=True)
class Table:
    """A table with its title, the lines above it (``lead``) and the notes below it. ``stub`` heads the labels."""

    key: str
    title: str
    stub: str
    columns: list[Column]
    rows: list[Row]
    lead: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    level: int = 2
    """Heading level: 2 for a data set's table, 3 for a table that belongs to it."""
    tag: str = ""
    """Plain name of the data set, for filters."""

    def check(self) -> None:
        """Check that every row fills the columns, as every renderer assumes.

        Raises:
            ValueError: a row is too short or too long.
        """
        for row in self.rows:
            width = sum(cell.span for cell in row.cells)
            if width != len(self.columns):
                raise ValueError(f"table {self.key}: row {row.label!r} fills {width} of {len(self.columns)} columns")


def grid(row: Row) -> list[TableCell]:
    """The row's cells, with an empty cell for each further column that a cell spans."""
    out: list[TableCell] = []
    for cell in row.cells:
        out.append(cell)
        out.extend(TableCell() for _ in range(cell.span - 1))
    return out
