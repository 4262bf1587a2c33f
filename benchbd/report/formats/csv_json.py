"""The board for programs: csv (one line per number) and json (the table model itself)."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchbd.core.plain import json_text
from benchbd.report.table import Column, Row, Table, TableCell

if TYPE_CHECKING:
    from benchbd.report.board import Board

FIELDS = (
    "table",
    "row_kind",
    "row",
    "mark",
    "column",
    "metric",
    "value",
    "interval",
    "n",
    "best",
    "published",
    "difference",
    "display",
    "note",
    "low",
    "high",
    "spread",
)


def _lines(table: Table) -> Iterator[list[Any]]:
    for row in table.rows:
        yield from _row(table, row)


def _row(table: Table, row: Row) -> Iterator[list[Any]]:
    place = 0
    for cell in row.cells:
        column: Column = table.columns[place]
        metric = column.label if cell.span == 1 else ""
        place += cell.span
        difference = None if cell.value is None or cell.published is None else cell.value - cell.published
        numbers = ["" if v is None else repr(float(v)) for v in (cell.value, cell.interval)]
        comparison = ["" if v is None else f"{v:.10g}" for v in (cell.published, difference)]
        best = "yes" if cell.best else ""
        yield [
            table.title,
            row.kind,
            row.label,
            row.mark,
            column.group,
            metric,
            *numbers,
            cell.n or "",
            best,
            *comparison,
            cell.display,
            cell.note,
            *_spread(cell),
        ]


def _spread(cell: TableCell) -> list[str]:
    """Bounds of the value, and what they are."""
    return [repr(cell.spread.low), repr(cell.spread.high), cell.spread.kind] if cell.spread else ["", "", ""]


def _inert(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "@", "+", "\t", "\r") else value


def render_csv(board: Board) -> str:
    """Render one line per cell: accuracies and bounds as fractions, intervals as half widths, times in seconds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(FIELDS)
    for table in board.tables:
        for line in _lines(table):
            writer.writerow([_inert(v) for v in line])
    return out.getvalue()


def render_json(board: Board) -> str:
    """Render the tables with the board's title, legend and notes."""
    tables = [dataclasses.asdict(table) for table in board.tables]
    data = {"title": board.title, "gate": board.gate, "paper": board.paper, "records": len(board.records)}
    data |= {"reading": [*board.reading, *board.notes], "tables": tables}
    return json_text(data, indent=1, ensure_ascii=False) + "\n"
