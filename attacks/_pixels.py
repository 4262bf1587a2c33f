"""Arithmetic on stored pixels: values are widened before an addition, rounded once, clipped, and cast back to uint8.

Adding in uint8 directly would wrap bright pixels around (250 + 10 = 4), a known bug of published trigger code. The work
is split into pieces that stay in the processor's cache, so that 50,000 small images take a fraction of a second. Only
plugin methods import this module, because it needs torch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

_PIECE = 2**18
"""Values in a piece; in float32 they about fill the second-level cache."""


def _pieces(images: Tensor, work: Callable[[Tensor, slice], Tensor]) -> Tensor:
    """Fill a new uint8 tensor with ``work(images[part], part)``, one piece of the images after the other."""
    out = torch.empty_like(images)
    step = max(1, _PIECE // max(1, images[0].numel())) if len(images) else 1
    for start in range(0, len(images), step):
        part = slice(start, min(start + step, len(images)))
        out[part] = work(images[part], part)
    return out


def _full(pattern: np.ndarray, images: Tensor) -> Tensor:
    """A pattern repeated to (3, H, W), since adding long rows is several times faster than broadcasting."""
    return torch.from_numpy(np.array(np.broadcast_to(pattern, tuple(images.shape[1:]))))


def add(images: Tensor, pattern: np.ndarray) -> Tensor:
    """Add a signed pattern and clip.

    Args:
        images: uint8 (N, 3, H, W).
        pattern: integers in -255..255, (H, W), (1, H, W) or (3, H, W).

    Returns:
        uint8 (N, 3, H, W), clip(x + pattern, 0, 255).
    """
    signed = _full(pattern.astype(np.int16, copy=False), images)
    return _pieces(images, lambda x, _: (x.to(torch.int16) + signed).clamp_(0, 255).to(torch.uint8))


def add_wrapping(images: Tensor, pattern: np.ndarray) -> Tensor:
    """Add modulo 256, like code that adds uint8 arrays (ABL's and NAD's Trojan trigger)."""
    stored = _full(pattern.astype(np.uint8, copy=False), images)
    return _pieces(images, lambda x, _: x + stored)


def mix(images: Tensor, overlay: np.ndarray, alpha: float) -> Tensor:
    """Blend an overlay in and drop the fractions.

    Args:
        images: uint8 (N, 3, H, W).
        overlay: uint8, broadcast to (3, H, W); or (N, 1 or 3, H, W), one overlay per image.
        alpha: the overlay's share, in [0, 1].

    Returns:
        uint8 (N, 3, H, W), trunc((1 - alpha) x + alpha overlay).
    """
    # The nudge keeps exact integers such as 0.8 * 5 + 0.2 * 5 from becoming 4.99999 in float32 and then 4.
    nudge = 1e-4
    overlay = np.ascontiguousarray(overlay, dtype=np.uint8)
    each = overlay.ndim == 4
    whole = torch.from_numpy(overlay) if each else _full(overlay, images)
    scaled = None if each else whole.to(torch.float32).mul_(alpha).add_(nudge)

    def work(x: Tensor, part: slice) -> Tensor:
        over = whole[part].to(torch.float32).mul_(alpha).add_(nudge) if scaled is None else scaled
        return (x.to(torch.float32).mul_(1.0 - alpha) + over).clamp_(0, 255).to(torch.uint8)

    return _pieces(images, work)


def overwrite(images: Tensor, patch: np.ndarray, top: int, left: int) -> Tensor:
    """Write a patch, uint8 (h, w) or (3, h, w), over every image, with its first pixel at (top, left)."""
    out = images.clone()
    cover = torch.from_numpy(np.ascontiguousarray(patch, dtype=np.uint8))
    out[:, :, top : top + patch.shape[-2], left : left + patch.shape[-1]] = cover
    return out


def replace(images: Tensor, picture: np.ndarray, where: np.ndarray) -> Tensor:
    """Write a picture, uint8 (3, H, W), over the pixels at which ``where``, bool (H, W), is true."""
    cover, mask = _full(picture, images), _full(where, images)
    return _pieces(images, lambda x, _: torch.where(mask, cover, x))
