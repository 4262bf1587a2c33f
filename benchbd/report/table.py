"""The one table model. Every format (markdown, csv, json, latex, html) is a rendering of these and of nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(slots=True)
class TableCell:
    """One entry of a table.

    Attributes:
        display: what is read: ``92.01 ± 0.30``, ``oom``.
        value: the number behind it (accuracies as fractions, times in seconds), None where there is none.
        interval: half the width of the 95 % t-interval of ``value``, None where there is none.
        n: how many seeds (in averages: rows) the value rests on.
        best: shares the best value of its row.
        published: the paper's value for this cell, on the scale of ``value``.
        extra: a second line under ``display``.
        note: what to say about the cell at length.
        href: where the cell leads.
        records: ids of the records behind it.
        span: columns it takes; the cells it covers are left out of the row.
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


@dataclass(slots=True)
class Column:
    """One column. ``group`` stands above neighbours that share it; ``direction`` says what is better."""

    label: str
    group: str = ""
    direction: Literal["up", "down", ""] = ""
    unit: Literal["fraction", "seconds", "ratio", "count", ""] = ""
    control: bool = False
    rule: bool = False
    """A line stands before this column."""
    tag: str = ""
    """What the column is of, by plain name (the defense), for filters."""

    @property
    def heading(self) -> str:
        """The label with its arrow."""
        return self.label + {"up": " ↑", "down": " ↓", "": ""}[self.direction]


@dataclass(slots=True)
class Row:
    """One row: ``label`` in front, cells whose spans fill the columns."""

    label: str
    cells: list[TableCell]
    kind: Literal["body", "average", "foot"] = "body"
    mark: str = ""
    """A sign behind the label, explained in the table's notes."""
    rule: bool = False
    """A line stands before this row."""
    tag: str = ""
    """What the row is of, by plain name (the attack), for filters."""


@dataclass(slots=True)
class Table:
    """A table with its title, what stands above it (``lead``) and below it (``notes``)."""

    key: str
    title: str
    stub: str
    columns: list[Column]
    rows: list[Row]
    lead: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    level: int = 2
    """Depth of the title: 2 for a data set's table, 3 for what belongs to it."""
    tag: str = ""
    """The data set, by plain name, for filters."""

    def check(self) -> None:
        """Raise ValueError where a row does not fill the columns: every renderer relies on it."""
        for row in self.rows:
            width = sum(cell.span for cell in row.cells)
            if width != len(self.columns):
                raise ValueError(f"table {self.key}: row {row.label!r} fills {width} of {len(self.columns)} columns")


def grid(row: Row) -> list[TableCell]:
    """The row's cells with an empty one for each further column that a cell spans."""
    out: list[TableCell] = []
    for cell in row.cells:
        out.append(cell)
        out.extend(TableCell() for _ in range(cell.span - 1))
    return out
