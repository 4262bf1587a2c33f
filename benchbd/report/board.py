"""The finished leaderboard, before it is written in a format."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

from benchbd.errors import UsageError, did_you_mean
from benchbd.report.labels import Labels
from benchbd.report.table import Table
from benchbd.storage.record_schema import Record
from benchbd.storage.results_file import lines

GATE = 0.5
"""Undefended ASR from which an attack counts as implanted: most triggered images then reach the target class."""

FORMATS = {
    "md": "markdown",
    "csv": "csv_json",
    "json": "csv_json",
    "latex": "latex",
    "html": "page",
    "jsonl": "",  # the records themselves
}

LEGEND = (
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
    reading: tuple[str, ...] = LEGEND
    notes: list[str] = field(default_factory=list)

    def render(self, fmt: str) -> str:
        """The board as text: md, csv, json, latex, html, or jsonl (the records themselves).

        Raises:
            UsageError: an unknown format.
        """
        if fmt not in FORMATS:
            raise UsageError(f"format {fmt!r} is unknown{did_you_mean(fmt, FORMATS)}")
        if fmt == "jsonl":
            return lines(self.records)
        module = importlib.import_module(f"benchbd.report.formats.{FORMATS[fmt]}")
        return str(getattr(module, f"render_{fmt}")(self))
