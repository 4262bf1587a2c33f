"""Wilcoxon's signed-rank test and Holm's correction.

Without ties and zeros, and beyond 50 differences other than 0, the p-values are those of ``scipy.stats.wilcoxon``. In
small samples with ties they are exact, as those of scipy's ``PermutationMethod``. The tests compare both. This module
computes them itself, since importing scipy.stats takes longer than the whole leaderboard.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

EXACT = 50
"""Number of differences up to which the distribution is exact, as in scipy. Beyond, it is normal."""
_BYTES = 8
"""Bytes of a count in the exact distribution. Counts are at most 2 ** EXACT."""


class SignedRank(NamedTuple):
    """The result of a test.

    Attributes:
        positive: sum of the ranks of positive differences.
        negative: sum of the ranks of negative differences.
        p: two-sided p-value.
    """

    positive: float
    negative: float
    p: float


def signed_rank(differences: Sequence[float]) -> SignedRank:
    """Test whether differences are symmetric about zero (F. Wilcoxon, Biometrics Bulletin 1, 1945).

    Zeros are discarded (``zero_method="wilcox"``), and tied differences share their mean rank. Up to 50 differences,
    the p-value counts all assignments of signs to the ranks, ties included. Beyond, it is that of the normal
    distribution with the variance corrected for ties and without correction for continuity.
    """
    given = sorted(abs(d) for d in differences if d)
    n = len(given)
    doubled: dict[float, int] = {}  # Twice the mean rank, so that it is an integer.
    ties, below = 0, 0
    for size, members in groupby(given):
        count = len(list(members))
        doubled[size] = 2 * below + count + 1
        ties += count**3 - count
        below += count
    positive = sum(doubled[d] for d in differences if d > 0)
    negative = n * (n + 1) - positive
    least = min(positive, negative)
    if n <= EXACT:
        p = 2 * _at_most(least, [doubled[size] for size in given]) / 2**n
    else:
        variance = (n * (n + 1) * (2 * n + 1) - ties / 2) / 24
        p = math.erfc((n * (n + 1) / 4 - least / 2) / math.sqrt(2 * variance))
    return SignedRank(positive / 2, negative / 2, min(1.0, p))


def _at_most(bound: int, ranks: Sequence[int]) -> int:
    """The number of subsets of the ranks whose sum is at most ``bound``."""
    counts = 1  # Coefficient k, of _BYTES bytes, is the number of subsets with sum k.
    kept = (1 << 8 * _BYTES * (bound + 1)) - 1
    for rank in ranks:
        counts = (counts + (counts << 8 * _BYTES * rank)) & kept
    return sum(memoryview(counts.to_bytes(_BYTES * (bound + 1), sys.byteorder)).cast("Q"))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number (S. Holm, Scandinavian Journal of Statistics 6, 1979), in the given order.

    Rejecting those at or below a level keeps the probability of any false rejection at or below it.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted
