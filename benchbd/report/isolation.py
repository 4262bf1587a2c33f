"""TPR, FPR and F1 of the samples that a defense flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchbd.core.confusion import RATES, Confusion

LARGEST = 2**63
"""No set has that many samples; a share that implies it is wrong."""


def rates_of(record: Mapping[str, Any]) -> dict[str, float | None]:
    """A record's ``precision``, ``recall`` (TPR), ``fpr`` and ``f1``; None where unknown or undefined.

    Records of versions that did not measure FPR and F1 hold enough to count: the flagged samples, their precision, the
    poison and its share of the set.
    """
    detection = record.get("detection") or {}
    given = {name: detection.get(name) for name in RATES}
    if "fpr" in detection or (counts := _counts(record, detection)) is None:
        return given
    return {**counts.rates(), "precision": given["precision"], "recall": given["recall"]}


def _counts(record: Mapping[str, Any], detection: Mapping[str, Any]) -> Confusion | None:
    """The counts that an older record implies; None if it flags nothing or does not say enough."""
    poison = record.get("poison") or {}
    flagged, precision = detection.get("flagged"), detection.get("precision")
    poisoned, share = poison.get("count"), poison.get("share_of_set")
    if not isinstance(flagged, int) or not isinstance(poisoned, int) or flagged < 0 or poisoned < 1 or not share:
        return None
    if flagged and precision is None:
        return None
    tp = round((precision or 0.0) * flagged)
    whole = poisoned / share if share <= 1 else 0.0
    if not poisoned <= whole < LARGEST:
        return None
    others = round(whole) - poisoned
    found = Confusion(tp, flagged - tp, poisoned - tp, others - (flagged - tp))
    return found if min(found) >= 0 else None
