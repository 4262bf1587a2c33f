"""Counts of flagged and poisoned samples, and the rates that follow from them."""

from __future__ import annotations

from typing import NamedTuple


class Confusion(NamedTuple):
    """A defense's flags against the truth. Covers and all other samples that are not poisoned are negatives.

    Attributes:
        tp: poisoned samples that are flagged.
        fp: other samples that are flagged.
        fn: poisoned samples that are not flagged.
        tn: other samples that are not flagged.
    """

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def precision(self) -> float | None:
        """Share of the flagged samples that are poisoned; None if none is flagged."""
        return _share(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float | None:
        """TPR: share of the poisoned samples that are flagged; None if none is poisoned."""
        return _share(self.tp, self.tp + self.fn)

    @property
    def fpr(self) -> float | None:
        """Share of the other samples that are flagged; None if there are no others."""
        return _share(self.fp, self.fp + self.tn)

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); None if no sample is poisoned."""
        return _share(2 * self.tp, 2 * self.tp + self.fp + self.fn) if self.tp + self.fn else None

    def rates(self) -> dict[str, float | None]:
        """``precision``, ``recall``, ``fpr`` and ``f1``."""
        return {name: getattr(self, name) for name in RATES}


RATES = ("precision", "recall", "fpr", "f1")


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
