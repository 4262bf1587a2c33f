"""How severe an ASR is, by one rule for tables, pages and terminals."""

from __future__ import annotations

from typing import Literal

FAIR, BAD = 0.1, 0.5
"""ASR from which a cell is fair and bad. From one half on, an attack counts as implanted; at a tenth, a backdoor still
works once in ten tries, the chance level of a data set of ten classes."""

COLOURS = {"": "", "good": "green", "fair": "yellow", "bad": "red"}
"""rich's colour of each tone."""


def tone(asr: float | None) -> Literal["", "good", "fair", "bad"]:
    """``good`` under 10 %, ``bad`` from 50 % on, else ``fair``; empty without an ASR. The ASR is not rounded before."""
    if asr is None:
        return ""
    return "good" if asr < FAIR else "fair" if asr < BAD else "bad"
