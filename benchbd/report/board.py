"""The finished leaderboard, independent of any format."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field

from benchbd.errors import UsageError, did_you_mean
from benchbd.report.labels import Labels
from benchbd.report.overview import Overview, Tables, overview
from benchbd.report.table import Table
from benchbd.report.wording import DASH
from benchbd.storage.record_schema import Record
from benchbd.storage.results_file import lines, uncollected

GATE = 0.5
"""Undefended ASR from which an attack counts as implanted, since most triggered images reach the target class."""

FORMATS = {
    "md": "markdown",
    "csv": "csv_json",
    "json": "csv_json",
    "latex": "latex",
    "html": "page",
    "text": "terminal",
}
"""Module of :mod:`benchbd.report.formats` that renders each format. jsonl, the records themselves, needs none."""

LEGEND = (
    "CA ↑ is the accuracy on clean test images, ASR ↓ the share of triggered test images, from classes other than "
    "the target, that the model assigns to the target class (all-to-all attacks: to the next class); both are in "
    "percent.",
    f"A number is a mean over seeds. Its bounds are the range (a{DASH}b) under five seeds and the 95 % t-interval "
    "[a, b] from five on; those of a single number are the Wilson interval [a, b] of its test set.",
    "Bold marks the best mean, and every mean over two seeds or more that is within 1 point of CA or DER, or 2 of ASR, "
    "of it and not significantly worse (paired t-test, from five common seeds on); nothing is bold if the best mean "
    "rests on one seed, has no rival, or is itself significantly worse than a rival on common seeds.",
    "No defense, controls, cells with a failed seed and models at chance on clean images do not compete for bold; "
    "averages have none if the defenses cover different attacks or data, or if a defense has other seeds on one attack "
    "than on another.",
    "Controls see which samples are poisoned, and stand behind a line.",
    "A lowered number beside a value is its number of seeds, where that is not the usual one of the table; a cell "
    "without a text was not run.",
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

    groups: list[Tables] = field(default_factory=list)
    """What the overviews are made from."""
    _overviews: list[Overview] = field(default_factory=list)

    def overviews(self) -> list[Overview]:
        """The overview of each data set, model and recipe, in display order."""
        if not self._overviews:
            self._overviews = [overview(group, self.labels, self.gate) for group in self.groups]
        return self._overviews

    def further_tables(self) -> list[Table]:
        """The tables that belong to no group: verdicts on the paper's claims."""
        return self.tables[2 * len(self.groups) :]

    def render(self, fmt: str) -> str:
        """Render the board as md, text, csv, json, latex, html, or jsonl (the records themselves).

        Raises:
            UsageError: the format is unknown.
        """
        if fmt == "jsonl":
            return lines(self.records)
        if fmt not in FORMATS:
            raise UsageError(f"format {fmt!r} is unknown{did_you_mean(fmt, [*FORMATS, 'jsonl'])}")
        module = importlib.import_module(f"benchbd.report.formats.{FORMATS[fmt]}")
        with uncollected():
            return str(getattr(module, f"render_{fmt}")(self))
