"""The board for a terminal: rich tables, coloured by severity where the terminal has colour."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchbd.core.severity import COLOURS
from benchbd.report.compact import BOUNDS, sections
from benchbd.report.fit import WIDTH, column_widths
from benchbd.report.headline import facts, headline
from benchbd.report.table import Table, grid

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from benchbd.report.board import Board


def _table(table: Table, width: int) -> RenderableType:
    """A table whose numbers are never cut; names and other text break where the console is too narrow."""
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    made = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    made.add_column(Text(table.stub), overflow="fold")
    for column, widest in zip(table.columns, column_widths(table), strict=True):
        number = bool(column.unit)
        least = min(widest, width // 2) if number else None
        made.add_column(
            Text(column.heading),
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
            min_width=least,
        )
    for place, row in enumerate(table.rows):
        cells = []
        for cell in grid(row):
            text = f"{cell.display}\n{cell.extra}" if cell.extra else cell.display
            cells.append(Text(text, f"{COLOURS[cell.tone]} {'bold' if cell.best else ''}".strip()))
        after = place + 1 < len(table.rows) and table.rows[place + 1].rule
        made.add_row(Text(f"{row.label} {row.mark}".rstrip()), *cells, end_section=after)
    return made


def _parts(board: Board, width: int) -> Iterator[RenderableType]:
    """Everything in order, no wider than ``width``."""
    from rich.text import Text

    for found in board.overviews():
        answer = headline(found)
        yield Text(f"\n{found.title}", "bold underline")
        yield Text(answer.sentence, "bold")
        for line in facts(answer, found):
            yield Text(f"  {line}")
        for table, _ in sections(found, width, headed=True):
            yield from _with_words(table, width)
    for table in board.further_tables():
        yield from _with_words(table, width)
    for line in (*board.reading, BOUNDS, *board.notes) if board.tables else ("No records yet.",):
        yield Text(line, "dim")


def _with_words(table: Table, width: int) -> Iterator[RenderableType]:
    """A table with its title, its lead and its notes."""
    from rich.text import Text

    yield Text(f"\n{table.title}", "bold")
    for line in table.lead:
        yield Text(line)
    yield _table(table, width)
    for note in table.notes:
        yield Text(f"  {note}", "dim")


def show(board: Board, console: Console) -> None:
    """Print the board on a console as wide as that, in colour if the console has colour."""
    for part in _parts(board, console.width):
        console.print(part)


def render_text(board: Board) -> str:
    """Render the whole board without colour, as wide as markdown."""
    from rich.console import Console

    out = io.StringIO()
    show(board, Console(file=out, width=WIDTH, color_system=None, legacy_windows=False))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
