"""The precision classes in which records were measured, such as ``cpu-fp32``. Tables say where they mix them.

The class in ``env`` is what was measured: one ID may be in two classes, since ``auto`` depends on the hardware.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from benchbd.core.numerics import precision_class
from benchbd.errors import counted
from benchbd.report.groups import Group

NUMBERS = ("two", "three", "four", "five")


def classes_of(records: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """Number of records by precision class; records that name none are left out."""
    return Counter(name for record in records if (name := precision_class(record)) is not None)


def classes_text(classes: Mapping[str, int]) -> str:
    """``cpu-fp32 (12 cells), cuda-bf16 (1 cell)``."""
    return ", ".join(f"{name} ({counted(count, 'cell')})" for name, count in sorted(classes.items()))


def mixture(group: Group) -> str | None:
    """A sentence about a group's finished records if they are of several precision classes, or None."""
    classes = group.remembered("precision classes", lambda: classes_of(group.done()))
    if len(classes) < 2:
        return None
    number = NUMBERS[len(classes) - 2] if len(classes) - 2 < len(NUMBERS) else str(len(classes))
    return f"Measured in {number} precision classes, which round differently: {classes_text(classes)}."
