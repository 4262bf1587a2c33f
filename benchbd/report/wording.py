"""How every table writes numbers and states."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from benchbd.errors import counted, with_article
from benchbd.report.stats import Mean, Spread, spread_of

MINUS, TIMES, DASH = "\N{MINUS SIGN}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"
UNDEFINED = DASH
NOT_RUN = "not run"


def percent(fraction: float, digits: int = 2) -> str:
    """``92.01`` for 0.9201; never ``-0.00``."""
    # Round half away from zero, as people do, though its binary fraction may lie slightly below: 6.135 gives 6.14.
    if fraction > 0:
        return f"{100 * fraction + 1e-9:.{digits}f}"
    text = f"{100 * fraction + math.copysign(1e-9, fraction):.{digits}f}"
    return text.lstrip("-").replace("-", "") if float(text) == 0 else text.replace("-", MINUS)


def signed(fraction: float) -> str:
    """``+0.31`` or ``-0.61`` in percentage points, with a true minus sign."""
    text = percent(fraction)
    return text if text.startswith(MINUS) else f"+{text}"


def mean_text(found: Mean, floor: float = 0.0) -> str:
    """``92.01 [91.71, 92.31]`` with a t-interval, ``92.01 (91.80-92.40)`` with a range; ``92.01`` for a single value.

    Args:
        found: the mean, a fraction.
        floor: smallest value that exists: -1 for differences.
    """
    spread = spread_of(found, floor)
    return percent(found.mean) + (f" {spread_text(spread)}" if spread else "")


def spread_text(spread: Spread, digits: int = 2) -> str:
    """``[91.71, 92.31]`` for an interval, ``(91.80-92.40)`` for a range, in percent."""
    low, high = percent(spread.low, digits), percent(spread.high, digits)
    if spread.kind != "range":
        return f"[{low}, {high}]"
    return f"({low} to {high})" if spread.low < 0 else f"({low}{DASH}{high})"


def duration(seconds: float) -> str:
    """``12.3 s``, ``4.1 min`` or ``2.6 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def failures_text(failures: Mapping[str, int]) -> str:
    """Failures by status: ``oom`` or ``2 oom, timeout``."""
    return ", ".join(f"{n} {name}" if n > 1 else name for name, n in sorted(failures.items()))


def needs_text(needs: Sequence[str], control: bool, returns: str | None = None) -> str:
    """The inputs a defense needs beyond the poisoned set, and ``returns``, the other architecture of its models."""
    words = {"clean": "clean images", "truth": "ground truth"}
    text = ", ".join(words.get(need, need) for need in needs) or "nothing"
    text = f"{text} (control)" if control else text
    return f"{text}; returns {with_article(returns)}" if returns else text


def transform_text(transform: Mapping[str, Any]) -> str:
    """``7x7 pixels at row 0, column 0 become (2, 2, 2); class 0 is output 1, 1 is output 2 and 8 more``."""
    parts, stamp, labels = [], transform.get("stamp"), transform.get("label_map")
    if stamp:
        colour = ", ".join(f"{part:.3g}" for part in stamp["value"])
        place = f"row {stamp['top']}, column {stamp['left']}"
        parts.append(f"{stamp['height']}x{stamp['width']} pixels at {place} become ({colour})")
    if labels:
        parts.append("class " + listed([f"{label} is output {output}" for label, output in enumerate(labels)], 2))
    return "; ".join(parts)


def joined(*texts: str) -> str:
    """The texts that are not empty, separated by semicolons."""
    return "; ".join(filter(None, texts))


def first_line(text: Any, limit: int = 110) -> str:
    """The first line of an error, cut to ``limit`` characters."""
    line = next((part.strip() for part in str(text or "").splitlines() if part.strip()), "")
    return line if len(line) <= limit else line[: limit - 1] + "…"


def listed(texts: Sequence[str], most: int, separator: str = ", ", last: str = " and ") -> str:
    """``a, b and 3 more``: the first ``most`` texts, and the number of the others."""
    more = f"{last}{len(texts) - most} more" if len(texts) > most else ""
    return separator.join(texts[:most]) + more


def cell_seeds(row: str, column: str, seeds: Collection[int]) -> str:
    """A row, a column and the seeds of their cells, in words."""
    return f"{row} {TIMES} {column} seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"


def seeds_text(counts: Iterable[int]) -> str:
    """``3 seeds``, ``1 seed`` or ``2 to 5 seeds``."""
    found = sorted(set(counts))
    if not found:
        return "no seed"
    if len(found) == 1:
        return counted(found[0], "seed")
    return f"{found[0]} to {found[-1]} seeds"
