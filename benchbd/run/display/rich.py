"""The live view of a run on a terminal: the matrix as grids, a row per slot, and a total for the matrix below."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from benchbd.core.events import Event, remark, sound
from benchbd.errors import counted
from benchbd.run.display.base import Facts, numbers
from benchbd.run.display.grid import Grids, Result
from benchbd.run.display.grid_view import GridView
from benchbd.run.outcome import Outcome
from benchbd.run.settings import duration_text

COLOURS = {"done": "green", "failed": "red", "diverged": "red", "oom": "red", "timeout": "red", "killed": "yellow"}


TIME_LEFT_EVERY = 1.0
"""Seconds after which the time left is computed again; for thousands of cells that takes 13 ms."""


class _Mark(NamedTuple):
    """Progress of a stage at its first event."""

    at: float
    share: float
    images: float


class _TimeLeft(NamedTuple):
    """The time left when it was computed last, in seconds, and the cells left then."""

    at: float
    cells: int
    seconds: float | None


class _Row:
    """The table row of a running cell."""

    def __init__(self, label: str, where: str) -> None:
        self.label, self.where = label, where
        self.began = time.monotonic()
        self.first: _Mark | None = None
        self.stage, self.share, self.epoch, self.loss, self.rate, self.left = "worker starts", 0.0, "", "", "", ""

    def update(self, event: Event) -> None:
        """Update the row from an event."""
        stage = str(event.get("stage", self.stage))
        if stage != self.stage:
            self.stage, self.first = stage, None
            self.share, self.epoch, self.loss, self.rate, self.left = 0.0, "", "", "", ""
        if event.get("event") == "waiting":
            self.stage = f"{stage} (waits for another cell)"
        if event.get("event") != "progress":
            return
        epoch, epochs, step, steps = (event.get(name) for name in ("epoch", "epochs", "step", "steps"))
        if isinstance(epoch, (int, float)) and isinstance(epochs, (int, float)) and epochs:
            inside = (
                step / steps if isinstance(step, (int, float)) and isinstance(steps, (int, float)) and steps else 0.0
            )
            # Steps count within the current epoch; without a step count, the epoch has just ended.
            self.share = max(0.0, min(1.0, (max(0, epoch - 1) + inside if inside else epoch) / epochs))
            self.epoch = f"{epoch}/{epochs}"
        if isinstance(event.get("loss"), (int, float)):
            self.loss = f"{event['loss']:.3f}"
        images = float(event.get("images") or 0)
        if self.first is None:
            # The images before a checkpoint took no time in this run, so a resumed training must not count them.
            self.first = _Mark(time.monotonic(), self.share, images)
        spent, did = time.monotonic() - self.first.at, self.share - self.first.share
        if spent > 0.5 and images > self.first.images:
            self.rate = f"{(images - self.first.images) / spent:,.0f}/s"
        if spent > 1.0 and did > 0.01:
            self.left = duration_text(spent * (1.0 - self.share) / did)


class RichDisplay:
    """Shows live tables on stderr; notes and ended cells scroll above them."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._live: Live | None = None
        self._facts: Facts | None = None
        self._rows: dict[str, _Row] = {}
        self._began = time.monotonic()
        self._view: GridView | None = None
        self._labels: dict[str, str] = {}
        self._seen = 0
        self._left: _TimeLeft | None = None

    def begin(self, facts: Facts, text: str) -> None:
        """Show the tables. One cell alone needs no grid."""
        self._facts, self._began = facts, time.monotonic()
        if len(facts.cells) > 1:
            self._view = GridView(Grids(facts.cells.values()))
            self._labels = _short_labels(self._view.grids)
            self._take_kept(facts)
        self._console.print(text, highlight=False)
        self._live = Live(get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True)
        self._live.start()

    def _take_kept(self, facts: Facts) -> None:
        """Fill in the results that the run has kept since the last call."""
        if self._view is not None and len(facts.kept) > self._seen:
            for cell_id, result in islice(facts.kept.items(), self._seen, None):
                self._view.grids.settle(cell_id, result)
            self._seen = len(facts.kept)

    def _render(self) -> RenderableType:
        # Rich's own thread calls this while the scheduler's thread may change the rows, so copy them.
        rows = sorted(list(self._rows.values()), key=lambda row: row.where)
        shown = rows[: max(3, self._console.size.height // 3)]
        hidden = len(rows) - len(shown)
        foot = [Text(f"and {counted(hidden, 'more slot')}", style="dim")] if hidden else []
        if self._view is None:
            return Group(self._slots(shown), *foot, self._foot())
        # The heading of the slots, the total, an empty line, and the line of the cursor.
        self._view.beside = len(shown) + len(foot) + 4
        return Group(self._view, Text(""), self._slots(shown), *foot, self._foot())

    def _slots(self, rows: list[_Row]) -> Table:
        table = Table(box=None, padding=(0, 1, 0, 0), expand=False)
        for name in ("slot", "cell", "stage", "", "epoch", "loss", "images", "left", "for"):
            table.add_column(
                name,
                no_wrap=True,
                overflow="ellipsis",
                max_width=56 if name == "cell" else 34,
                style="dim" if name == "slot" else "",
            )
        now = time.monotonic()
        for row in rows:
            bar = ProgressBar(total=1.0, completed=row.share, width=12)
            table.add_row(
                Text(row.where),
                Text(row.label),
                Text(row.stage),  # names that a plugin gives are no markup
                bar,
                row.epoch,
                row.loss,
                row.rate,
                row.left,
                duration_text(now - row.began),
            )
        return table

    def _foot(self) -> RenderableType:
        facts = self._facts
        if facts is None:
            return Text("")
        ended = facts.total - facts.left
        line = Text(f"{ended}/{facts.total} ", style="bold")
        for status, count in facts.counts.items():
            line.append(f" {count} {status}", style=COLOURS.get(status, ""))
        line.append(f"   {duration_text(time.monotonic() - self._began)} gone")
        eta = self._time_left(facts)
        if eta is not None:
            line.append(f", about {duration_text(eta)} left")
        foot = Table.grid(padding=(0, 2, 0, 0))
        foot.add_row(ProgressBar(total=max(1, facts.total), completed=ended, width=24), line)
        return foot

    def _time_left(self, facts: Facts) -> float | None:
        """The expected time left, computed again after a while and when a cell has ended."""
        now, known = time.monotonic(), self._left
        if known is None or known.cells != facts.left or now - known.at >= TIME_LEFT_EVERY:
            known = self._left = _TimeLeft(now, facts.left, facts.eta())
        return known.seconds

    def _say(self, text: Text | str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def event(self, cell_id: str, label: str, event: Event) -> None:
        """Update a cell's row, or print a remark above the table."""
        event = sound(event)
        if event.get("event") in ("starting", "started"):
            self._rows[cell_id] = _Row(self._labels.get(cell_id, label), str(event.get("where", "")))
            if self._view is not None:
                self._view.grids.mark(cell_id, "running")
        elif (text := remark(event)) is not None:
            self._say(Text(text if event["event"] == "note" else f"{label}: {text}", style="yellow"))
        elif cell_id in self._rows:
            self._rows[cell_id].update(event)

    def ended(
        self, cell_id: str, label: str, status: str, reason: str, wall: float, record: dict[str, Any] | None
    ) -> None:
        """Print one line above the tables: a short name with the numbers, or the whole label with the reason."""
        self._rows.pop(cell_id, None)
        if self._view is not None:
            self._view.grids.settle(cell_id, Result.of({**(record or {}), "status": status}))
        if status == "done":
            label = self._labels.get(cell_id, label)
        line = Text(f"{status:<9}", style=COLOURS.get(status, "yellow"))
        line.append(
            f"{label}  {numbers(record) if status == 'done' else reason}  {duration_text(wall)}", style="default"
        )
        self._say(line)

    def note(self, text: str) -> None:
        """Print one line above the table."""
        self._say(Text(text, style="yellow"))

    def tick(self) -> None:
        """Take up what changed without an event: a cell that waits again, or that another run has finished."""
        if self._facts is None or self._view is None:
            return
        for cell_id in self._view.grids.running():
            if cell_id not in self._facts.running:
                self._view.grids.mark(cell_id, "waiting")
                self._rows.pop(cell_id, None)
        self._take_kept(self._facts)

    def end(self, outcome: Outcome) -> None:
        """Remove the tables."""
        if self._live is not None:
            self._live.stop()
            self._live = None


def _short_labels(grids: Grids) -> dict[str, str]:
    """``bn-g/lfd/s0`` by cell ID, after the data set and model if there are several grids."""
    found: dict[str, str] = {}
    for grid in grids.grids:
        head = f"{grid.dataset.name}/{grid.model.name}/" if len(grids.grids) > 1 else ""
        for (defense, attack), entry in grid.entries.items():
            for cell_id in entry.states:
                seed = grids.seed(cell_id)
                found[cell_id] = f"{head}{grid.short_attacks[attack]}/{grid.short_defenses[defense]}/s{seed}"
    return found
