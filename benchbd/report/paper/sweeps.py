"""Sweeps: columns of one defense that differ in a single parameter, for the ablation figures and claims."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from benchbd.report.groups import Group, Scale
from benchbd.report.labels import Variant

TEACHERS = ("resnet-s1", "resnet-s", "resnet-s2", "resnet18")
"""Teachers by capacity (LfD Figure 4a)."""
MODES = ("none", "unweighted", "weighted")
"""LfD without ascent, with plain ascent (equation 5) and with weighted ascent (equation 6): Figure 5 a, b, c."""


class Sweep(NamedTuple):
    """Columns of a group in the order of one parameter's values; all other parameters are equal."""

    group: Group
    parameter: str
    values: list[Any]
    columns: list[Variant]
    rows: list[Variant]
    """Attacks with numbers in every column."""

    @property
    def scale(self) -> Scale:
        """The scale of the measurements."""
        return self.group.scale

    def column(self, value: Any) -> Variant | None:
        """The column of a value; None if it was not measured."""
        return next((c for v, c in zip(self.values, self.columns, strict=True) if v == value), None)


def _place(value: Any, order: tuple[str, ...]) -> tuple[int, float, str]:
    if isinstance(value, str):
        name = value.partition("(")[0]
        return (order.index(name) if name in order else len(order), 0.0, value)
    return (0, float(value), "")


def sweep(group: Group, defense: str, parameter: str, order: tuple[str, ...] = ()) -> Sweep | None:
    """Find the widest sweep over a parameter of a defense. Return None if fewer than two values were measured.

    Args:
        group: the table's records.
        defense: name of the defense.
        parameter: the swept parameter; numbers sort by size, words by ``order``.
        order: known words, in their order.
    """
    families: dict[str, dict[str, tuple[Any, Variant]]] = {}
    for column in group.columns:
        values = column.values()
        if column.name != defense or parameter not in values:
            continue
        value = values.pop(parameter)
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            families.setdefault(json.dumps(values, sort_keys=True), {})[json.dumps(value)] = (value, column)
    best: Sweep | None = None
    for _, family in sorted(families.items()):
        pairs = sorted(family.values(), key=lambda item: _place(item[0], order))
        measured = [(v, c) for v, c in pairs if any(group.entry(r, c).values("ca") for r in group.attacks())]
        rows = [r for r in group.attacks() if all(group.entry(r, c).values("ca") for _, c in measured)]
        if (
            len(measured) >= 2
            and rows
            and (best is None or (len(measured), len(rows)) > (len(best.values), len(best.rows)))
        ):
            best = Sweep(group, parameter, [v for v, _ in measured], [c for _, c in measured], rows)
    return best
