"""What the size of the test set says about a single number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchbd.report.stats import Spread

NORMAL = 1.959963984540054
"""Quantile of the standard normal distribution at 0.975."""
MANY = 10**12
"""More images than any test set has: a larger number comes from a foreign record and tells nothing."""


def wilson(share: float, images: int) -> Spread:
    """The 95 % Wilson score interval of a share of ``images`` test images.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927). It stays in
    [0, 1] and keeps its coverage near 0 and 1, where ASR lies (Brown, Cai and DasGupta, Statistical Science 16, 2001).
    """
    square = NORMAL**2 / images
    centre = (share + square / 2) / (1 + square)
    half = NORMAL / (1 + square) * math.sqrt(share * (1 - share) / images + square / (4 * images))
    return Spread(max(0.0, centre - half), min(1.0, centre + half), "test set")


def images_of(record: Mapping[str, Any], metric: str) -> int | None:
    """Number of test images behind ``ca``, ``asr`` or ``ra`` of a record; None if the record does not say it."""
    notes = record.get("notes") or {}
    if metric == "ca":
        found = notes.get("test_images")
    elif metric in ("asr", "ra"):
        found = (record.get("triggered") or {}).get("images") or notes.get("triggered_test_images")
    else:
        return None
    usable = isinstance(found, int) and not isinstance(found, bool) and 0 < found < MANY
    return found if usable else None


def sampling_spread(record: Mapping[str, Any], metric: str) -> Spread | None:
    """The Wilson interval of a record's metric; None if the record lacks it or its number of images."""
    share, images = record.get(metric), images_of(record, metric)
    if share is None or images is None or not 0 <= share <= 1:
        return None
    return wilson(float(share), images)
