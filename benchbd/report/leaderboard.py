"""Build the leaderboard's tables from records."""

from __future__ import annotations

from collections.abc import Iterable

from benchbd.errors import UsageError
from benchbd.report import published
from benchbd.report.board import GATE, LEGEND, Board
from benchbd.report.dataset_table import dataset_table, usual_seeds
from benchbd.report.definitions import USUAL, Definitions
from benchbd.report.gate import lift_of, lines, rule
from benchbd.report.labels import Defaults, Labels, registered
from benchbd.report.overview import Tables
from benchbd.report.summary import summary_table
from benchbd.report.table import Table
from benchbd.report.timing import Clock
from benchbd.storage.record_schema import Record
from benchbd.storage.results_file import uncollected


def not_implanted(records: Iterable[Record], gate: float) -> list[str]:
    """One line for each attack of the records that is not implanted, with the reason."""
    grouping = published.grouped(records)
    return lines(grouping.groups, Labels(grouping.variants()), gate)


def board(
    records: Iterable[Record],
    *,
    gate: float = GATE,
    paper: bool = False,
    title: str = "Leaderboard",
    defaults: Defaults = registered,
    definitions: Definitions = USUAL,
) -> Board:
    """Build the leaderboard from records.

    Args:
        records: checked records (see :mod:`benchbd.storage.results_file`).
        gate: smallest undefended ASR of an implanted attack (see :func:`benchbd.report.gate.judge`). Other rows are
            marked.
        paper: add the paper's value and the difference to each cell, and verdicts on the paper's claims.
        title: heading of the whole board.
        defaults: a plugin's default parameters, by kind and name; labels leave out parameters equal to them.
        definitions: what CA and ASR are over.

    Raises:
        UsageError: the paper's values are asked for beside other definitions than the default ones.
    """
    if paper and definitions != USUAL:
        raise UsageError(
            "--paper: the paper's ASR is over images of other classes than the target and its CA over all; "
            "leave out --asr-over and --ca-over"
        )
    found = list(records)
    with uncollected():
        grouping = published.grouped(found, definitions)
    labels = Labels(grouping.variants(), defaults)
    tables: list[Table] = []
    groups: list[Tables] = []
    for group in grouping.groups:
        clock = Clock(group)
        with uncollected():
            made = dataset_table(group, labels, clock, gate=gate, paper=paper), summary_table(group, labels, clock)
        tables += made
        groups.append(Tables(group, clock, *made, usual_seeds(group)))
    if paper:
        from benchbd.report.paper.verdicts import verdict_table

        tables.append(verdict_table(grouping.groups, labels, gate))
    for number, table in enumerate(tables, 1):
        table.key = f"table-{number}"
        table.check()
    if any(lift_of(record) is not None for record in found):
        implanted = rule(gate)
    else:
        implanted = f"An attack counts as implanted if its undefended ASR is at least {100 * gate:.0f} %."
    weak = lines(grouping.groups, labels, gate)
    reading = (*LEGEND, *definitions.reading(), implanted)
    return Board(
        tables,
        found,
        labels,
        gate,
        paper,
        title,
        reading,
        notes=list(grouping.left_out),
        not_implanted=weak,
        groups=groups,
    )
