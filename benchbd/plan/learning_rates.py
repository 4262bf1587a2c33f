"""Learning rates among the parameters of plugins at which trainings diverge, as a recipe has such lines of its own."""

from __future__ import annotations

from collections.abc import Iterable

from benchbd.core.kinds import KINDS
from benchbd.core.recipe import HIGHEST_RATE
from benchbd.plan.cell import Cell


def doubtful_rates(cells: Iterable[Cell]) -> list[str]:
    """A line for each learning rate above 100 of a distinct component: a parameter whose last word is ``lr``.

    A rate of 0 is the plugin's own affair: most refuse it, and in others it may turn a step off.
    """
    parts = {(kind, part.json): part for cell in cells for kind in KINDS for part in (getattr(cell, kind),)}
    return [
        f"{kind} {part.text}: {name} is {rate:.12g}, and trainings diverge at rates above {HIGHEST_RATE:g}"
        for (kind, _), part in parts.items()
        for name, rate in part.params.items()
        if name.rpartition("_")[2] == "lr" and isinstance(rate, (int, float)) and rate > HIGHEST_RATE
    ]
