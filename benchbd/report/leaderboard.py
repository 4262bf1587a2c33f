"""The leaderboard: from records to tables, from tables to text in any format."""

from __future__ import annotations

from collections.abc import Iterable

from benchbd.report import published
from benchbd.report.board import GATE, Board
from benchbd.report.dataset_table import dataset_table
from benchbd.report.groups import group
from benchbd.report.labels import Defaults, Labels, registered
from benchbd.report.summary import summary_table
from benchbd.report.timing import Clock
from benchbd.storage.record_schema import Record


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
        records: checked records (see :mod:`benchbd.storage.results_file`).
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
        from benchbd.report.paper.verdicts import verdict_table

        tables.append(verdict_table(grouping.groups, labels, gate))
    for number, table in enumerate(tables, 1):
        table.key = f"table-{number}"
        table.check()
    notes = list(grouping.left_out)
    notes.append(f"An attack counts as implanted from an undefended ASR of {100 * gate:.0f} % on.")
    return Board(tables, found, labels, gate, paper, title, notes=notes)
