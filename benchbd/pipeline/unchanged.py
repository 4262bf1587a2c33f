"""Images that a trigger leaves as they are."""

from __future__ import annotations

import numpy as np
import torch

BLOCK = 256
"""Images compared at a time, so that no copy of a large set is needed."""


def unchanged(images: torch.Tensor, originals: torch.Tensor, where: np.ndarray) -> np.ndarray:
    """Which images are pixel-identical to their originals.

    Args:
        images: uint8 (M, 3, H, W), with the trigger.
        originals: uint8 (N, 3, H, W), without it.
        where: int64 (M,), each image's place in ``originals``.

    Returns:
        bool (M,).
    """
    same = np.zeros(len(where), bool)
    for start in range(0, len(where), BLOCK):
        index = torch.from_numpy(where[start : start + BLOCK])
        part = images[start : start + BLOCK]
        same[start : start + BLOCK] = (part == originals[index]).flatten(1).all(1).numpy()
    return same
