"""The finished leaderboard, independent of any format."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

from benchbd.errors import UsageError, did_you_mean
from benchbd.report.labels import Labels
from benchbd.report.table import Table
from benchbd.storage.record_schema import Record
from benchbd.storage.results_file import lines

GATE = 0.5
"""Undefended ASR from which an attack counts as implanted, since most triggered images reach the target class."""

FORMATS = {
    "md": "markdown",
    "csv": "csv_json",
    "json": "csv_json",
    "latex": "latex",
    "html": "page",
}
"""Module of :mod:`benchbd.report.formats` that renders each format. jsonl, the records themselves, needs none."""

LEGEND = (
    "CA ↑ is the accuracy on clean test images. ASR ↓ is the share of triggered test images, from classes other than "
    "the target, that the model assigns to the target class (all-to-all attacks: to the next class). Both are in "
    "percent. ± is half the width of the 95 % t-interval of the mean over seeds; a single seed has no interval. The "
    "interval does not account for the size of the test set.",
    "Bold marks the best defense in a row and every defense not separable from it: the 95 % t-interval of their paired "
    "differences over common seeds contains 0. Controls and no defense do not compete, nor do cells with a failed "
    "seed. A row has no bold value if its best rests on one seed or has no rival. There is no correction for multiple "
    "comparisons.",
    "Controls see which samples are poisoned. They stand to the right of ‖ and below the line.",
)


@dataclass(slots=True)
class Board:
    """The tables in display order, with their records and labels. Every format renders the same board."""

    tables: list[Table]
    records: list[Record]
    labels: Labels
    gate: float = GATE
    paper: bool = False
    title: str = "Leaderboard"
    reading: tuple[str, ...] = LEGEND
    notes: list[str] = field(default_factory=list)
    not_implanted: list[str] = field(default_factory=list)
    """One line for each attack row that is not implanted, with the reason."""

    def render(self, fmt: str) -> str:
        """Render the board as md, csv, json, latex, html, or jsonl (the records themselves).

        Raises:
            UsageError: the format is unknown.
        """
        if fmt == "jsonl":
            return lines(self.records)
        if fmt not in FORMATS:
            raise UsageError(f"format {fmt!r} is unknown{did_you_mean(fmt, [*FORMATS, 'jsonl'])}")
        module = importlib.import_module(f"benchbd.report.formats.{FORMATS[fmt]}")
        return str(getattr(module, f"render_{fmt}")(self))
