"""The gap between the losses of poison and of clean images, as an attacker measures it on a surrogate."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Gap(NamedTuple):
    """What tells poison from clean images on a teacher.

    Attributes:
        poison: mean loss of the poison.
        clean: mean loss of the images that the attack leaves alone.
        auroc: area under the ROC curve of low losses as a sign of poison, among all samples; 0.5 is chance.
    """

    poison: float
    clean: float
    auroc: float

    @property
    def size(self) -> float:
        """How much lower the poison's mean loss is; 0 or less means that a mean shows nothing."""
        return self.clean - self.poison


def gap_between(losses: np.ndarray, poison: np.ndarray, covers: np.ndarray) -> Gap:
    """The gap in losses float64 (N,).

    Args:
        losses: of all samples.
        poison: int64 (P,), positions of the poison.
        covers: int64 (C,), positions of the covers. They are left out of the mean of clean images, and count as clean
            in the AUROC, as in the evaluation of a defense.
    """
    others = np.sort(np.delete(losses, poison))
    clean = np.delete(losses, np.concatenate([poison, covers]))
    above = len(others) - np.searchsorted(others, losses[poison], side="right")
    equal = len(others) - above - np.searchsorted(others, losses[poison], side="left")
    auroc = float((above + equal / 2).mean() / len(others))
    return Gap(float(losses[poison].mean()), float(clean.mean()), auroc)
