"""Change one entry of nested JSON data."""

from __future__ import annotations

from typing import Any


class ABSENT:
    """Stands for an entry that is left out."""


def set_at(data: Any, path: str, value: Any) -> None:
    """Set the entry at a dotted path in place, or delete it if the value is :class:`ABSENT`."""
    *way, last = path.split(".")
    for step in way:
        data = data[step]
    if value is ABSENT:
        del data[last]
    else:
        data[last] = value
