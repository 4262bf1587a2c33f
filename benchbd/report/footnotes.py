"""Short names of attacks and defenses, whose long parameter lists become numbered footnotes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from rich.cells import cell_len

from benchbd.core.short_text import shortened
from benchbd.report.labels import Labels, Variant

LONGEST = 20
"""Longest label of a defense, and longest name, that stays whole. Columns, which are attacks, show names only."""
RAISED_DIGITS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
RAISED = str.maketrans("0123456789", RAISED_DIGITS)
LOWERED = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


class ShortNames:
    """Distinct names such as ``lfd¹``. Components with the same parameters share a footnote.

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
        self.notes: list[str] = []
        self._marks: dict[str, str] = {}
        self._names: dict[Variant, str] = {}
        taken: set[tuple[str, str]] = set()
        for item in dict.fromkeys((*attacks, *self.defenses)):
            name = self._name(item, labels(item))
            if (item.kind, name) in taken:
                # Labels are the same for values that only differ in type. A mark that nothing shares tells them apart.
                name = _cut(item.name) + self._mark(_exact(labels, item), shared=False)
            taken.add((item.kind, name))
            self._names[item] = name

    def __call__(self, item: Variant) -> str:
        """The short name of an attack or a defense."""
        return self._names[item]

    def _name(self, item: Variant, text: str) -> str:
        cut = _cut(item.name)
        if cut != item.name:
            return cut + self._mark(text)
        parameters = text[len(item.name) + 1 : -1]
        whole = not parameters or (item.kind == "defense" and cell_len(text) <= LONGEST)
        return text if whole else item.name + self._mark(parameters)

    def _mark(self, text: str, shared: bool = True) -> str:
        """The sign of a footnote, that of an earlier one with the same text if it may be shared."""
        if shared and text in self._marks:
            return self._marks[text]
        mark = str(len(self.notes) + 1).translate(RAISED)
        self.notes.append(f"{mark} {text}")
        if shared:
            self._marks[text] = mark
        return mark


def _cut(name: str) -> str:
    """The name, or its beginning if it is too long."""
    return name if cell_len(name) <= LONGEST else shortened(name, LONGEST, "…")


def _exact(labels: Labels, item: Variant) -> str:
    """The parameters of a label as JSON, which tells 1, 1.0, true and "1" apart; all of them if it shows none."""
    shown = labels.changed(item) or item.values()
    return ",".join(f"{key}={json.dumps(value)}" for key, value in shown.items()) or "no parameters"


def signs(text: str) -> set[str]:
    """Signs in a text that notes explain: numbers of footnotes, and signs such as a dagger, or ~ after a word."""
    return set(re.findall(rf"[{RAISED_DIGITS}]+|[†‡§¶‖]|~(?=\s|$)", text))


def notes_on(texts: Iterable[str], notes: Sequence[str]) -> list[str]:
    """The notes on the signs that the texts use. A note begins with its sign."""
    used = signs("\n".join(texts))
    return [note for note in notes if note.partition(" ")[0] in used]
