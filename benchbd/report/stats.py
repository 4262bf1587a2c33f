"""The board's statistics and their limits.

Every number is a mean over seeds with a two-sided 95 % t-interval. The interval covers the variation between seeds. It
does not cover the finite test set or other data sets. A single seed has no interval. Two columns are compared by
their paired differences over common seeds, without correction for multiple comparisons.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

LEVEL = 0.95
RESOLUTION = 5e-5
"""Half of the last shown digit (0.01 %). Smaller differences do not count, since both values may look the same."""


class Mean(NamedTuple):
    """A mean over seeds. ``half`` is half the width of its 95 % t-interval, None for a single value."""

    mean: float
    half: float | None
    n: int


# Entry d - 1 is for d degrees of freedom. This is a table because importing scipy takes longer than the leaderboard.
_QUANTILES = (
    12.7062047362, 4.30265272975, 3.18244630528, 2.7764451052, 2.57058183564, 2.44691185114, 2.36462425159,
    2.3060041352, 2.2621571628, 2.22813885199, 2.20098516009, 2.17881282967, 2.16036865646, 2.14478668792,
    2.13144954556, 2.11990529922, 2.10981557783, 2.10092204024, 2.09302405441, 2.08596344727, 2.07961384473,
    2.0738730679, 2.06865761042, 2.06389856163, 2.05953855275, 2.05552943864, 2.05183051648, 2.0484071418,
    2.04522964213, 2.0422724563,
)  # fmt: skip


@functools.cache
def t_quantile(freedom: int) -> float:
    """The t value of a two-sided 95 % interval with ``freedom`` degrees of freedom."""
    if freedom <= len(_QUANTILES):
        return _QUANTILES[freedom - 1]
    from scipy.special import stdtrit  # type: ignore[import-untyped,unused-ignore]

    return float(stdtrit(freedom, 0.5 + LEVEL / 2))


def mean_of(values: Iterable[float]) -> Mean | None:
    """Mean and interval of the values. Return None if there are no values."""
    given = list(values)
    n = len(given)
    if n == 0:
        return None
    mean = math.fsum(given) / n
    if n == 1:
        return Mean(mean, None, 1)
    variance = math.fsum((v - mean) ** 2 for v in given) / (n - 1)
    return Mean(mean, t_quantile(n - 1) * math.sqrt(variance / n), n)


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Mean | None:
    """Mean and interval of ``a - b`` over the seeds that both have."""
    return mean_of(a[seed] - b[seed] for seed in sorted(a.keys() & b.keys()))


def separable(a: Mapping[int, float], b: Mapping[int, float]) -> bool | None:
    """Whether ``a`` and ``b`` (values by seed) differ: the 95 % interval of their paired difference excludes 0.

    Return None if they share fewer than two seeds, which gives no interval. A difference too small to be shown does
    not count.
    """
    found = difference(a, b)
    if found is None or found.half is None:
        return None
    return abs(found.mean) > max(found.half, RESOLUTION)


def best(columns: Mapping[int, Mapping[int, float]], *, higher: bool) -> set[int]:
    """Find the columns that share the best value of a row.

    Args:
        columns: values by seed of each competing column, keyed by the column's number.
        higher: True if higher is better.

    Returns:
        The column with the best mean and all columns that are not :func:`separable` from it. Empty if the best mean
        rests on a single seed, which is not evidence, or if it has no rival.
    """
    means = {key: math.fsum(v.values()) / len(v) for key, v in columns.items() if v}
    if len(means) < 2:
        return set()
    sign = 1 if higher else -1
    first = max(means, key=lambda key: (sign * means[key], len(columns[key]), -key))
    if len(columns[first]) < 2:
        return set()
    return {first} | {key for key in means if key != first and separable(columns[first], columns[key]) is False}
