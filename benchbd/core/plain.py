"""Values as JSON holds them, and text as files and tables hold it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from benchbd.errors import shown


def plain(value: Any) -> Any:
    """Convert a value to JSON types: NaN and infinity become null, arrays become lists, unknown objects their text.

    An unusual note from a plugin must not fail its cell.
    """
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return value if value.bit_length() < 10_000 else shown(value)  # Python does not print more than 4,300 digits
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy and torch, scalars as well
        return plain(value.tolist())
    return str(value)


_ODD = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)
"""Control characters but tab and line ends, separators of lines, signs that turn the direction of text, surrogates."""


def printable(value: Any) -> Any:
    """A plain value with the characters escaped that no table, terminal or file shows as they are.

    Python reads a file name that is not UTF-8 as text with lone surrogates, which UTF-8 cannot hold.
    """
    if isinstance(value, str):
        return value if value.isprintable() else _ODD.sub(lambda sign: ascii(sign[0])[1:-1], value)
    if isinstance(value, dict):
        return {printable(k): printable(v) for k, v in value.items()}
    return [printable(v) for v in value] if isinstance(value, list) else value


def with_floats(value: Any, change: Callable[[float], float | None]) -> Any:
    """A plain value with ``change`` applied to each float in it, also in lists and mappings; whole numbers stay."""
    if isinstance(value, float):
        return change(value)
    if isinstance(value, Mapping):
        return {key: with_floats(inner, change) for key, inner in value.items()}
    return [with_floats(inner, change) for inner in value] if isinstance(value, (list, tuple)) else value


def json_text(value: Any, **options: Any) -> str:
    """Like ``json.dumps``, but numbers that JSON does not have become null.

    Python reads ``1e999`` as infinity, so a file may hold one.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        return json.dumps(plain(value), allow_nan=False, **options)
