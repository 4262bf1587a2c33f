"""Averages over the attacks of a group."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from benchbd.report import der, stats
from benchbd.report.groups import Group
from benchbd.report.labels import Variant
from benchbd.report.wording import percent, spread_text


class Average(NamedTuple):
    """A column's average over rows.

    Attributes:
        mean: mean of the row means.
        by_seed: averages by seed; empty unless all rows have the same seeds.
        rows: number of rows averaged.
    """

    mean: float
    by_seed: dict[int, float]
    rows: int

    def half(self) -> float | None:
        """Half the width of the t-interval over seeds; None under five seeds."""
        found = stats.mean_of(self.by_seed.values())
        return found.half if found else None

    def spread(self) -> stats.Spread | None:
        """The interval or range of the seeds' averages; None if a row lacks a seed that another has."""
        found = stats.mean_of(self.by_seed.values())
        return stats.spread_of(found) if found else None

    def text(self) -> str:
        """The average with its spread."""
        spread = self.spread()
        return percent(self.mean) + (f" {spread_text(spread)}" if spread else "")


def values_of(group: Group, row: Variant, column: Variant, metric: str) -> dict[int, float]:
    """A metric of an entry by seed: a field of its records, or ``der``."""
    return der.by_seed(group, row, column) if metric == "der" else group.entry(row, column).values(metric)


def average(group: Group, column: Variant, rows: Iterable[Variant], metric: str) -> Average | None:
    """Average a metric over the ``rows`` that have it. Return None if no row has it."""
    given = tuple(rows)
    return group.remembered((column, metric, given), lambda: _average(group, column, given, metric))


def _average(group: Group, column: Variant, rows: tuple[Variant, ...], metric: str) -> Average | None:
    found = [v for row in rows if (v := values_of(group, row, column, metric))]
    if not found:
        return None
    mean = math.fsum(math.fsum(v.values()) / len(v) for v in found) / len(found)
    seeds = set(found[0])
    same = all(set(v) == seeds for v in found)
    by_seed = {s: math.fsum(v[s] for v in found) / len(found) for s in sorted(seeds)} if same else {}
    return Average(mean, by_seed, len(found))
