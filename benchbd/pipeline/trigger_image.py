"""A small picture of what an attack does, for readers of the record."""

from __future__ import annotations

import base64
import io

import numpy as np

LARGEST = 64
"""Largest height and width in pixels of each of the three parts: a record is text, and there are thousands."""
GAIN = 3.0
"""Factor of the difference."""


def trigger_png(clean: np.ndarray, poisoned: np.ndarray) -> str:
    """One image before, after, and the amplified difference on grey, side by side: a PNG in base64.

    Args:
        clean: uint8 (3, H, W).
        poisoned: uint8 (3, H, W), of the same image.
    """
    from PIL import Image

    parts = np.concatenate([clean, poisoned, amplified(clean, poisoned, GAIN)], axis=2).transpose(1, 2, 0)
    picture = Image.fromarray(parts)
    height = picture.height
    if height > LARGEST:
        picture = picture.resize((LARGEST * picture.width // height, LARGEST), Image.Resampling.BOX)
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode("ascii")


def amplified(clean: np.ndarray, poisoned: np.ndarray, gain: float) -> np.ndarray:
    """The difference times ``gain`` on mid grey, clipped: uint8 of the same shape. Grey means unchanged."""
    difference = poisoned.astype(np.float64) - clean.astype(np.float64)
    return np.rint(np.clip(128 + gain * difference, 0, 255)).astype(np.uint8)
