"""Rotation of whole batches about the middle of the image, with nearest pixels."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def rotated(x: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image of float (B, 3, S, S) counter-clockwise by its angle (B,): nearest pixels, zeros from outside."""
    import torch
    from torch.nn import functional as F

    angle = degrees * (math.pi / 180)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    matrix = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)
