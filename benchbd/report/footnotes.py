"""Short names of attacks and defenses, whose long parameter lists become numbered footnotes."""

from __future__ import annotations

from collections.abc import Iterable

from benchbd.report.labels import Labels, Variant

LONGEST = 20
"""Longest label of a defense that stays whole. Columns, which are attacks, show names only."""
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
LOWERED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class ShortNames:
    """Names such as ``lfd¹``. Components with the same parameters share a footnote.

    Args:
        labels: the full labels.
        attacks: attacks, in the order of their footnotes.
        defenses: defenses, likewise.

    Attributes:
        defenses: the defenses as given.
        notes: the footnotes, such as ``¹ trigger_seed=0``.
    """

    def __init__(self, labels: Labels, attacks: Iterable[Variant], defenses: Iterable[Variant]) -> None:
        self.defenses = tuple(defenses)
        numbers: dict[str, str] = {}
        self._names: dict[Variant, str] = {}
        for item in (*attacks, *self.defenses):
            text = labels(item)
            parameters = text[len(item.name) + 1 : -1]
            if not parameters or (item.kind == "defense" and len(text) <= LONGEST):
                self._names[item] = text
                continue
            mark = numbers.setdefault(parameters, str(len(numbers) + 1).translate(RAISED))
            self._names[item] = item.name + mark
        self.notes = [f"{mark} {parameters}" for parameters, mark in numbers.items()]

    def __call__(self, item: Variant) -> str:
        """The short name of an attack or a defense."""
        return self._names[item]
