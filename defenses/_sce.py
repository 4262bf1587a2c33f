"""Symmetric cross-entropy (Wang et al., ICCV 2019), by which DBD and ASD find credible labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LOG_ZERO = -9.210340371976184
"""Replacement for the logarithm of a label's zeros: ln(1e-4)."""


def symmetric_cross_entropy(logits: Tensor, labels: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha`` times the cross-entropy plus ``beta`` times the reverse one, in which label and prediction swap places.

    Args:
        logits: float32 (B, C).
        labels: int64 (B,).
        alpha: weight of the cross-entropy.
        beta: weight of the reverse one, ``-sum(p ln q)`` with q the one-hot label and :data:`LOG_ZERO` for ``ln 0``.

    Returns:
        float32 (B,).
    """
    from torch.nn import functional as F

    given = logits.softmax(1).gather(1, labels[:, None]).squeeze(1)
    return alpha * F.cross_entropy(logits, labels, reduction="none") - beta * LOG_ZERO * (1 - given)
