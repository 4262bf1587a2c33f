"""Pictures laid over images with an opacity for each pixel. Imported inside methods only, because it needs torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

_NUDGE = 1e-4
"""Added before rounding, so that halves round up in float32 too; opacities have a few decimals."""


def overlay(images: Tensor, picture: np.ndarray, opacity: np.ndarray) -> Tensor:
    """Mix a picture in and round to the nearest pixel value, halves up.

    Args:
        images: uint8 (N, 3, H, W).
        picture: uint8 (3, H, W), or one for each image, (N, 3, H, W).
        opacity: the picture's share of each pixel, in [0, 1]: float (H, W), or one for each image, (N, 1, H, W).

    Returns:
        uint8 (N, 3, H, W), round((1 - opacity) x + opacity picture).
    """
    share, over = torch.from_numpy(opacity).to(torch.float32), torch.from_numpy(picture).to(torch.float32)
    before = images.to(torch.float32)
    return (before + share * (over - before)).add_(0.5 + _NUDGE).floor_().clamp_(0, 255).to(torch.uint8)
