"""Grids and their summary as rich tables that fit a width and a height."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import NamedTuple, TextIO

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from benchbd.core.severity import BAD, COLOURS, FAIR, tone
from benchbd.errors import counted
from benchbd.run.display.grid import UNDEFENDED, Entry, Grid, Grids, State, SummaryRow
from benchbd.run.display.names import Name, legend
from benchbd.run.settings import duration_text

MARKS: dict[State, tuple[str, str]] = {
    "running": ("▸", ">"),
    "waiting": ("·", "."),
    "failed": ("✗", "x"),
    "skipped": ("-", "-"),
}
"""Sign of each state, and its replacement where the terminal's encoding is not UTF-8."""
WORDS: dict[State, str] = {"running": "running", "waiting": "waiting", "failed": "failed", "skipped": "not run"}
MARK_STYLES = {"running": "bold cyan", "waiting": "dim", "failed": "bold red", "skipped": "dim"}
LOST, MUCH = 3, 10
"""Points of CA below the cell without a defense: yellow from LOST, red from MUCH."""
GAP = 1
"""Spaces between columns."""
MARK = 2
"""Width of a space and the sign of seeds that are not done."""
FEWEST_ROWS = 3
"""A grid with less room than for this many rows is left out."""


def severity(asr: float | None) -> str:
    """The colour of an ASR in [0, 1]."""
    return COLOURS[tone(asr)]


def loss_style(ca: float | None, undefended: float | None) -> str:
    """The colour of a CA in [0, 1], by how far it lies below that without a defense."""
    if ca is None or undefended is None:
        return ""
    lost = 100 * (undefended - ca)
    return "red" if lost >= MUCH else "yellow" if lost >= LOST else ""


def percent(value: float | None, decimals: int) -> str:
    """A fraction in percent, ``91.2``; a hyphen for None."""
    return "-" if value is None else f"{100 * value:.{decimals}f}"


class Shape(NamedTuple):
    """How a grid is drawn."""

    rows: dict[Name, str]
    """Short name by defense."""
    columns: dict[Name, str]
    """Short name by attack."""
    decimals: int
    blocks: list[list[Name]]
    """Attacks of each block. Blocks stand below each other."""
    least: int
    """Columns of the terminal that the widest attack needs, beside the names."""


def shape(grid: Grid, width: int) -> Shape:
    """Lay a grid out: with one decimal if all attacks then stand beside each other, else in whole percent.

    A column has room for two numbers below 100 before they are there, so that the layout rarely changes during a run.
    """
    rows, columns = grid.short_defenses, grid.short_attacks
    first = max(map(cell_len, rows.values()), default=0)
    for decimals in (1, 0):
        least = len("99.9/99.9") if decimals else len("99/99")
        found = {attack: max(least, cell_len(columns[attack])) for attack in grid.attacks}
        for (_, attack), entry in grid.entries.items():
            found[attack] = max(found[attack], len(_rates(entry, decimals)))
        sizes = [found[attack] + MARK + GAP for attack in grid.attacks]
        blocks = _blocks(grid.attacks, sizes, width - first)
        if len(blocks) <= 1:
            break
    return Shape(rows, columns, decimals, blocks, first + max(sizes, default=0))


def _blocks(attacks: Sequence[Name], sizes: Sequence[int], width: int) -> list[list[Name]]:
    blocks: list[list[Name]] = []
    room = 0
    for attack, size in zip(attacks, sizes, strict=True):
        if size > room or not blocks:
            blocks.append([])
            room = width
        blocks[-1].append(attack)
        room -= size
    return blocks


def _cell(entry: Entry | None, undefended: float | None, decimals: int, sign: int) -> Text:
    if entry is None:
        return Text(MARKS["skipped"][sign] + " " * MARK, style="dim")
    state = entry.open
    mark, style = (MARKS[state][sign], MARK_STYLES[state]) if state else (" ", "")
    if not entry.results:
        return Text(mark + " " * MARK, style=style)
    text = Text(percent(entry.ca, decimals), style=loss_style(entry.ca, undefended))
    text.append("/", style="default").append(percent(entry.asr, decimals), severity(entry.asr) or "default")
    return text.append(" " + mark, style=style or "default")


def _rates(entry: Entry, decimals: int) -> str:
    return f"{percent(entry.ca, decimals)}/{percent(entry.asr, decimals)}" if entry.results else ""


def _aligned(lines: Sequence[tuple[Text, Sequence[Text]]], first: int) -> list[Text]:
    """Lines of a name and right-aligned cells. A rich table does the same, but takes ten times as long."""
    widths = [
        max(cell.cell_len for cell in column) + GAP for column in zip(*(cells for _, cells in lines), strict=True)
    ]
    aligned = []
    for name, cells in lines:
        line = Text(no_wrap=True, overflow="crop").append_text(name).append(" " * (first - name.cell_len))
        for cell, width in zip(cells, widths, strict=True):
            line.append(" " * (width - cell.cell_len)).append_text(cell)
        line.rstrip()
        aligned.append(line)
    return aligned


def grid_lines(
    grid: Grid, width: int, *, ascii_only: bool = False, rows: Sequence[Name] | None = None, names: bool = True
) -> Group:
    """A grid as blocks below each other, with a title.

    Args:
        grid: the grid.
        width: characters in a line.
        ascii_only: use no signs outside ASCII.
        rows: the defenses to show; all by default.
        names: show the full texts of shortened names below.
    """
    plan, sign = shape(grid, width), int(ascii_only)
    if width < plan.least:
        return Group(Text(f"the window is too narrow: the grid needs {plan.least} columns"))
    head = Text(grid.title, style="bold", overflow="ellipsis", no_wrap=not names)
    head.append(f"  {len(grid.ended)}/{grid.size}", style="dim")
    parts: list[RenderableType] = [head]
    first = max(map(cell_len, plan.rows.values()), default=0)
    bases = {attack: grid.undefended_ca(attack) for attack in grid.attacks}
    for block in plan.blocks:
        headings = [Text(plan.columns[attack] + " " * MARK, style="bold") for attack in block]
        lines = [(Text(""), headings)]
        for defense in grid.defenses if rows is None else rows:
            cells = [_cell(grid.entries.get((defense, a)), bases[a], plan.decimals, sign) for a in block]
            lines.append((Text(plan.rows[defense]), cells))
        parts += _aligned(lines, first)
    if names:
        parts += [Text(line, style="dim") for line in legend(plan.rows) + legend(plan.columns)]
    if rows is not None and (hidden := len(grid.defenses) - len(rows)):
        parts.append(Text(f"and {counted(hidden, 'more defense')} (benchbd status --grid shows all)", style="dim"))
    return Group(*parts)


def reading(grids: Grids, states: Collection[State], *, ascii_only: bool = False, colours: bool = True) -> Text:
    """The legend: the unit, the signs of the states, and the colours."""
    seeds = grids.seeds
    text = Text("CA/ASR in %" + (f", mean of {seeds} seeds" if seeds > 1 else ""), style="dim")
    for state, word in WORDS.items():
        if state in states:
            text.append(f"  {MARKS[state][int(ascii_only)]} {word}")
    if colours:
        text.append("  ASR ").append(f"<{100 * FAIR:.0f}", style=COLOURS["good"]).append(" ")
        text.append(f"<{100 * BAD:.0f}", style=COLOURS["fair"])
        text.append(f" {100 * BAD:.0f}+", style=COLOURS["bad"])
    return text


class GridView:
    """The grids that fit beside other lines on a screen, drawn again after a change.

    Args:
        grids: the grids.
        beside: lines of the screen that are taken.
        share: largest share of the time that is spent on drawing; changes may then be shown later.
    """

    def __init__(self, grids: Grids, beside: int = 0, share: float = 0.05) -> None:
        self.grids, self.beside, self._share = grids, beside, share
        self._not_before = 0.0
        self._gaps: list[State] = ["skipped"] if "skipped" in grids.states() else []
        self._key: tuple[object, ...] = ()
        self._lines: list[list[Segment]] = []

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the lines."""
        height = console.size.height - self.beside
        size = (options.max_width, height, options.encoding)
        key = (*size, *(grid.version for grid in self.grids.grids))
        now = time.monotonic()
        if key != self._key and (now >= self._not_before or size != self._key[: len(size)]):
            self._key, self._lines = key, self._draw(console, options, height)
            took = time.monotonic() - now
            self._not_before = now + took / self._share
        for line in self._lines:
            yield from line
            yield Segment.line()

    def _draw(self, console: Console, options: ConsoleOptions, height: int) -> list[list[Segment]]:
        options = options.update(height=None)
        width, plain = options.max_width, options.ascii_only
        colours = console.color_system is not None and not console.no_color
        states: list[State] = ["running", "waiting", "failed", *self._gaps]
        foot = console.render_lines(reading(self.grids, states, ascii_only=plain, colours=colours), options, pad=False)
        lines: list[list[Segment]] = []
        hidden = 0
        for grid in self.grids.in_order():
            # One line stays for the number of grids that are not shown.
            room = height - len(lines) - len(foot) - (len(self.grids.grids) > 1)
            rows = _rows_that_fit(grid, width, room) if not hidden else []
            for names in (True, False) if rows else ():
                drawn = grid_lines(grid, width, ascii_only=plain, rows=rows, names=names)
                more = console.render_lines(drawn, options, pad=False)
                if len(more) <= room or not names:
                    lines += more
                    break
            hidden += not rows
        if hidden and height > len(foot):
            text = f"and {counted(hidden, 'more grid')}" if lines else "the grid needs a larger window"
            lines += console.render_lines(Text(text, style="dim"), options, pad=False)
        return [*lines, *foot] if lines and height > len(foot) else []


def _rows_that_fit(grid: Grid, width: int, room: int) -> list[Name]:
    """The defenses to show in so many lines: all, or those with running cells first, then unfinished ones; or none."""
    blocks = len(shape(grid, width).blocks)
    if 1 + blocks * (1 + len(grid.defenses)) <= room:
        return grid.defenses
    count = (room - 2) // blocks - 1 if blocks else 0
    if count < min(FEWEST_ROWS, len(grid.defenses)):
        return []
    running = {d for (d, _), entry in grid.entries.items() if entry.open == "running"}
    unfinished = {d for (d, _), entry in grid.entries.items() if entry.open == "waiting"}
    chosen = sorted(grid.defenses, key=lambda d: (d not in running, d not in unfinished))[:count]
    return [defense for defense in grid.defenses if defense in chosen]


def summary_table(grid: Grid) -> RenderableType | None:
    """A row for each defense: mean CA, mean and worst ASR, and time; None if no cell is done."""
    rows = grid.summary()
    if not rows:
        return None
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), header_style="bold", pad_edge=False, show_edge=False)
    table.title, table.title_justify, table.title_style = "Means over all attacks", "left", "bold"
    table.add_column("defense", overflow="fold")
    for heading in ("CA", "ASR", "worst ASR"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("attack", no_wrap=True)
    partial = any(row.attacks < row.of for row in rows)
    if partial:
        table.add_column("attacks", justify="right", no_wrap=True)
    table.add_column("time a cell", justify="right", no_wrap=True)
    base = next((row.ca for row in rows if row.defense.name == UNDEFENDED), None)
    for row in rows:
        cells = _summary_cells(row, grid.short_defenses[row.defense], grid.short_attacks, base)
        if partial:
            cells.insert(-1, Text(f"{row.attacks}/{row.of}"))
        table.add_row(*cells)
    return table


def _summary_cells(row: SummaryRow, name: str, attacks: dict[Name, str], base: float | None) -> list[Text]:
    return [
        Text(name + (" (control)" if row.control else "")),
        Text(percent(row.ca, 1), style=loss_style(row.ca, base)),
        Text(percent(row.asr, 1), style=severity(row.asr)),
        Text(percent(row.worst_asr, 1), style=severity(row.worst_asr)),
        Text(attacks[row.worst] if row.worst else ""),
        Text(duration_text(row.seconds) if row.seconds is not None else "-"),
    ]


class _PipedConsole(Console):
    """A console of rich ends the program with exit code 1 when its reader (head, less) goes away; this one raises."""

    def on_broken_pipe(self) -> None:
        """Leave the BrokenPipeError that is being handled to the caller."""
        raise


def print_grids(grids: Grids, file: TextIO, *, summary: bool) -> None:
    """Print every grid in full, and the legend: coloured on a terminal, as plain text elsewhere.

    Args:
        grids: the grids.
        file: standard output or the like. Lines have the width of the terminal, or that in ``COLUMNS``, or 80.
        summary: print the summary of the defenses below each grid.

    Raises:
        BrokenPipeError: the reader of the file has gone.
    """
    console = _PipedConsole(file=file, highlight=False)
    plain, colours = console.options.ascii_only, console.color_system is not None and not console.no_color
    for grid in grids.grids:
        console.print(grid_lines(grid, console.width, ascii_only=plain))
        if summary and (table := summary_table(grid)):
            console.print()
            console.print(table)
        console.print()
    console.print(reading(grids, grids.states(), ascii_only=plain, colours=colours))
