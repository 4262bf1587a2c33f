"""The leaderboard: from records to tables, from tables to text in any format."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchbd.errors import UsageError, did_you_mean
from benchbd.report import paper as published
from benchbd.report.dataset_table import dataset_table
from benchbd.report.groups import group
from benchbd.report.labels import Defaults, Labels, registered
from benchbd.report.records import Record
from benchbd.report.summary import summary_table
from benchbd.report.table import Table
from benchbd.report.timing import Clock

GATE = 0.5
"""Undefended ASR from which an attack counts as implanted: most triggered images then reach the target class."""

FORMATS = {
    "md": "markdown",
    "csv": "delimited",
    "json": "delimited",
    "latex": "latex",
    "html": "page",
    "jsonl": "records",
}

READING = (
    "CA ↑ is accuracy on clean test images, ASR ↓ the share of triggered test images of other classes than their "
    "target that are taken for it (all to all, the target is the next class); both in percent. ± is half of the 95 % "
    "t-interval of the mean over seeds (none for one seed); it says nothing of the test set's size.",
    "Bold is the best of a row among defenses (not among controls or no defense), shared by all that cannot be told "
    "from it: the 95 % t-interval of the paired differences over common seeds contains 0. Nothing is bold where the "
    "best rests on one seed or has no rival; a cell with a failed seed does not compete. No correction is made for "
    "many rows.",
    "Controls stand to the right of ‖ and below the line: they see which samples are poisoned.",
)


@dataclass(slots=True)
class Board:
    """Tables in reading order, made once; every format renders these."""

    tables: list[Table]
    records: list[Record]
    labels: Labels
    gate: float = GATE
    paper: bool = False
    title: str = "Leaderboard"
    reading: tuple[str, ...] = READING
    notes: list[str] = field(default_factory=list)

    def render(self, fmt: str) -> str:
        """The board as text: md, csv, json, latex, html, or jsonl (the records themselves).

        Raises:
            UsageError: an unknown format.
        """
        if fmt not in FORMATS:
            raise UsageError(f"format {fmt!r} is unknown{did_you_mean(fmt, FORMATS)}")
        module = importlib.import_module(f"benchbd.report.{FORMATS[fmt]}")
        if fmt == "jsonl":
            return str(module.lines(self.records))
        return str(getattr(module, f"render_{fmt}")(self))


def board(
    records: Iterable[Record],
    *,
    gate: float = GATE,
    paper: bool = False,
    title: str = "Leaderboard",
    defaults: Defaults = registered,
) -> Board:
    """Make the leaderboard of some records.

    Args:
        records: checked records (see :mod:`benchbd.report.records`).
        gate: undefended ASR below which a row is marked as not implanted.
        paper: add the paper's value and the difference to each cell, and the verdicts on its claims.
        title: what stands at the top.
        defaults: a plugin's default parameters, by kind and name; what equals them is not named.
    """
    found = list(records)
    grouping = group(found, published.order(1), published.order(2), published.order(0))
    labels = Labels(grouping.variants(), defaults)
    tables = []
    for here in grouping.groups:
        clock = Clock(here)
        tables.append(dataset_table(here, labels, clock, gate=gate, paper=paper))
        tables.append(summary_table(here, labels, clock))
    if paper:
        from benchbd.report.verdicts import verdict_table

        tables.append(verdict_table(grouping.groups, labels, gate))
    for number, table in enumerate(tables, 1):
        table.key = f"table-{number}"
        table.check()
    notes = list(grouping.left_out)
    notes.append(f"An attack counts as implanted from an undefended ASR of {100 * gate:.0f} % on.")
    return Board(tables, found, labels, gate, paper, title, notes=notes)
