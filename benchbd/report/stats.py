"""The board's statistics over seeds and their limits.

From five seeds on, a mean has a two-sided 95 % t-interval. Under five seeds the interval is wider than most effects
and its coverage rests on the seeds' normality, so the mean has the range of its values instead. Both are about the
variation between seeds. The interval of a single number, from the size of its test set, is in
:mod:`benchbd.report.binomial`. docs/statistics.md explains the choices.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

LEVEL = 0.95
FEWEST = 5
"""Smallest number of seeds with a t-interval or a test."""
RESOLUTION = 5e-5
"""Half of the last shown digit (0.01 %). Smaller differences do not count, since both values may look the same."""
MARGINS = {"ca": 0.01, "asr": 0.02, "ra": 0.02, "der": 0.01}
"""Largest distance from the best mean at which a value may share the title: one point of CA, two of ASR. RA is over the
images of ASR, and DER halves an ASR drop."""


class Mean(NamedTuple):
    """A mean over seeds.

    Attributes:
        mean: the mean.
        half: half the width of its 95 % t-interval; None under five values.
        n: number of values.
        low: smallest value.
        high: largest value.
    """

    mean: float
    half: float | None
    n: int
    low: float = math.nan
    high: float = math.nan


class Spread(NamedTuple):
    """The bounds shown beside a number, and what they are.

    ``kind`` is ``range`` (smallest and largest value over seeds), ``t`` (95 % t-interval over seeds) or ``test set``
    (95 % Wilson interval of a single number).
    """

    low: float
    high: float
    kind: Literal["range", "t", "test set"]


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
    """Mean and range of the values, and an interval from five values on. Return None if there are no values."""
    given = list(values)
    n = len(given)
    if n == 0:
        return None
    mean = math.fsum(given) / n
    low, high = min(given), max(given)
    if n < FEWEST:
        return Mean(mean, None, n, low, high)
    variance = math.fsum((v - mean) ** 2 for v in given) / (n - 1)
    return Mean(mean, t_quantile(n - 1) * math.sqrt(variance / n), n, low, high)


def spread_of(found: Mean, floor: float = 0.0, ceiling: float = 1.0) -> Spread | None:
    """The interval of a mean, capped to the values that exist, or its range. Return None for a single value."""
    if found.half is not None:
        return Spread(max(floor, found.mean - found.half), min(ceiling, found.mean + found.half), "t")
    return Spread(found.low, found.high, "range") if found.n > 1 else None


def difference(a: Mapping[int, float], b: Mapping[int, float]) -> Mean | None:
    """Mean of ``a - b`` over the seeds that both have."""
    return mean_of(a[seed] - b[seed] for seed in sorted(a.keys() & b.keys()))


def separable(a: Mapping[int, float], b: Mapping[int, float]) -> bool | None:
    """Whether ``a`` and ``b`` (values by seed) differ: the 95 % interval of their paired difference excludes 0.

    Return None if they share fewer than five seeds, which allow no test. A difference too small to be shown does not
    count.
    """
    return _apart(difference(a, b))


def _apart(found: Mean | None) -> bool | None:
    """Whether a mean difference is not 0 (see :func:`separable`)."""
    if found is None or found.half is None:
        return None
    return abs(found.mean) > max(found.half, RESOLUTION)


def best(columns: Mapping[int, Mapping[int, float]], *, higher: bool, margin: float) -> set[int]:
    """Find the columns that share the best value of a row.

    Args:
        columns: values by seed of each competing column, keyed by the column's number.
        higher: True if higher is better.
        margin: largest distance from the best mean.

    Returns:
        The column with the best mean, and all columns of two seeds or more whose means are within ``margin`` of it and
        that are not significantly worse on common seeds (:func:`separable`). Empty if the best mean rests on a single
        seed, which is not evidence, if it has no rival, or if it is itself significantly worse than a rival on the
        seeds that both have.
    """
    means = {key: math.fsum(v.values()) / len(v) for key, v in columns.items() if v}
    if len(means) < 2:
        return set()
    sign = 1 if higher else -1
    first = max(means, key=lambda key: (sign * means[key], len(columns[key]), -key))
    if len(columns[first]) < 2:
        return set()
    if any(_worse(columns[first], columns[key], sign) for key in means):
        return set()
    near = {key for key in means if abs(means[key] - means[first]) <= margin + 1e-12 and len(columns[key]) > 1}
    return {first} | {key for key in near if not _worse(columns[key], columns[first], sign)}


def _worse(a: Mapping[int, float], b: Mapping[int, float], sign: int) -> bool:
    """Whether ``a`` is significantly worse than ``b`` on their common seeds."""
    if len(a) < FEWEST or len(b) < FEWEST:
        return False
    found = difference(a, b)
    return bool(_apart(found)) and found is not None and sign * found.mean < 0
