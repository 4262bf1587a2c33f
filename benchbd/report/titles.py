"""Who competes for the title of a row, and who has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchbd.report import stats
from benchbd.report.averages import average, values_of
from benchbd.report.gate import at_chance
from benchbd.report.groups import UNDEFENDED, Group
from benchbd.report.labels import Labels, Variant
from benchbd.report.mixed_data import mixed_data
from benchbd.report.wording import TIMES, listed

AT_CHANCE = "~"
"""Sign of a defense, and of a number, with a model that does not beat guessing on clean images."""
LISTED = 8
"""Cells that the note lists; the rest are only counted."""


def competitors(group: Group) -> list[Variant]:
    """The defenses that are compared: neither controls nor no defense."""
    return [c for c in group.columns if c not in group.controls and c.name != UNDEFENDED]


def chance_cell(group: Group, row: Variant, column: Variant) -> str:
    """A reason if some seed's model is at chance on clean images; empty for no defense, which the gate judges."""
    entry = group.entry(row, column)
    if column.name == UNDEFENDED or not entry.by_seed:
        return ""
    return entry.remembered("at chance", lambda: at_chance(entry.done()))


def chance_cells(group: Group, rows: Iterable[Variant], column: Variant) -> list[Variant]:
    """The rows where a defense has a model at chance."""
    return [row for row in rows if chance_cell(group, row, column)]


def titles(group: Group, rows: Sequence[Variant], metric: str) -> set[Variant]:
    """The competing defenses that share the best average of a metric over rows (see :func:`stats.best`).

    A defense with a failed seed or with a model at chance in some row does not compete. Nobody has a title if the
    defenses cover different rows, if the rows mix data, or if a rival has other seeds in one row than in another: it
    has no averages by seed to compare.
    """
    given = tuple(rows)
    return group.remembered(("titles", metric, given), lambda: _titles(group, given, metric))


def _titles(group: Group, rows: Sequence[Variant], metric: str) -> set[Variant]:
    columns = competitors(group)
    if len(rows) > 1:
        covered = {frozenset(row for row in rows if values_of(group, row, c, metric)) for c in columns}
        if len(covered - {frozenset()}) != 1:
            return set()
    if mixed_data(group).mixes(rows):
        return set()
    values = {}
    for place, column in enumerate(columns):
        if any(group.entry(row, column).failures() for row in rows) or chance_cells(group, rows, column):
            continue
        if len(rows) == 1:
            if by_seed := values_of(group, rows[0], column, metric):
                values[place] = by_seed
        elif found := average(group, column, rows, metric):
            values[place] = found.by_seed
    if not all(values.values()):
        return set()
    winners = stats.best(values, higher=metric != "asr", margin=stats.MARGINS[metric])
    return {columns[place] for place in winners}


def chance_note(group: Group, labels: Labels) -> list[str]:
    """The note on the sign: which cells have a model at chance; empty if there are none."""
    found = [
        f"{labels(row)} {TIMES} {labels(column)}: {why}"
        for row in group.rows
        for column in group.columns
        if (why := chance_cell(group, row, column))
    ]
    if not found:
        return []
    text = listed(found, LISTED, "; ", "; and ")
    return [
        f"{AT_CHANCE} a model does not beat guessing on clean images, so the defense does not compete there: {text}."
    ]
