"""Which samples a training found easiest: what the defense computes, apart from where it gets its losses."""

from __future__ import annotations

import numpy as np


def easiest(losses: np.ndarray, share: float) -> np.ndarray:
    """Positions of the floor(N share) lowest losses, ties by position; int64."""
    return np.argsort(losses, kind="stable")[: int(len(losses) * share)]
