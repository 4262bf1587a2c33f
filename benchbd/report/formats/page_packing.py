"""Data inside the page: JSON that cannot leave its script element, and compressed lines that the page unpacks."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Hashable, Sequence
from typing import Any

from benchbd.core.plain import json_text, with_floats

LARGEST_PAGE = 2_900_000
"""Bytes of a page from which it leaves out evidence beyond the numbers of its records."""
RECORDS_A_LINE = 50
"""Records whose evidence of one kind is unpacked together."""
DIGITS = 5
"""Significant digits of the numbers in evidence."""
LEFT_OUT = -1
"""Stands for a line that would have made the page too large."""


def inert_json(value: Any) -> str:
    """JSON that is safe in a script element: no character can end the element or start a comment."""
    text = json_text(value, ensure_ascii=False, separators=(",", ":"))
    for sign, code in (
        ("&", "\\u0026"),
        ("<", "\\u003c"),
        (">", "\\u003e"),
        ("\u2028", "\\u2028"),
        ("\u2029", "\\u2029"),
    ):
        text = text.replace(sign, code)
    return text


def packed(value: Any) -> str:
    """JSON, compressed in zlib's format, as base64. Lone surrogates stay JSON escapes."""
    text = json_text(value, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("ascii"), 6)).decode("ascii")


def unpacked(line: str) -> Any:
    """What :func:`packed` was given."""
    return json.loads(zlib.decompress(base64.b64decode(line)))


def rounded(value: Any) -> Any:
    """The value with every number in it cut to :data:`DIGITS` significant digits; None for numbers that are not finite.

    Whole numbers stay whole.
    """
    return with_floats(value, lambda number: float(f"{number:.{DIGITS}g}") if math.isfinite(number) else None)


class Pool:
    """Values that several records share, each stored once."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self._places: dict[Hashable, int] = {}

    def place(self, value: Any, key: Hashable) -> int:
        """The number of the value under the key; the value is kept when the key is new."""
        if key not in self._places:
            self._places[key] = len(self.items)
            self.items.append(value)
        return self._places[key]


class Lines:
    """The compressed lines of a page, and how many bytes more it may have."""

    def __init__(self, budget: int) -> None:
        self.lines: list[str] = []
        self.budget = budget

    def add(self, value: Any) -> int:
        """Pack a value that the page needs. Returns the number of its line."""
        return self._keep(packed(value))

    def offer(self, value: Any) -> int:
        """Pack a value if it fits, else return :data:`LEFT_OUT`."""
        line = packed(value)
        return self._keep(line) if len(line) < self.budget else LEFT_OUT

    def offer_text(self, text: str) -> int:
        """Return a text of one line unchanged if it fits, else :data:`LEFT_OUT`."""
        return self._keep(text) if len(text) < self.budget else LEFT_OUT

    def _keep(self, line: str) -> int:
        self.budget -= len(line) + 1
        self.lines.append(line)
        return len(self.lines) - 1


def chunks(values: Sequence[Any], order: Sequence[int]) -> list[list[Any]]:
    """The values in an order, :data:`RECORDS_A_LINE` at a time."""
    ordered = [values[place] for place in order]
    return [ordered[start : start + RECORDS_A_LINE] for start in range(0, len(ordered), RECORDS_A_LINE)]
