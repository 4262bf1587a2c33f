"""Text cut to columns of a terminal."""

from __future__ import annotations

from rich.cells import cell_len


def shortened(text: str, width: int, tail: str) -> str:
    """The beginning of a text and a tail, together at most ``width`` columns wide; one character at least stays."""
    while len(text) > 1 and cell_len(text + tail) > width:
        text = text[:-1]
    return text + tail
