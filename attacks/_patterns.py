"""Random pictures with given statistics, and scaling of patterns to a given norm in whole pixel values."""

from __future__ import annotations

import numpy as np

CELLS = 32
"""Colours are drawn on a 32 x 32 board and enlarged, so that a trigger shows the same picture at every image size."""


def board(colours: np.ndarray, size: int) -> np.ndarray:
    """Enlarge (3, 32, 32) to (3, size, size) by repeating cells, or shrink it by picking cells."""
    cell = np.arange(size) * CELLS // size
    return colours[:, cell[:, None], cell[None, :]]


def saturated_colours(rng: np.random.Generator, means: tuple[float, float, float], deviation: float) -> np.ndarray:
    """Independent beta-distributed values, most of them near 0 or 255: float64 (3, 32, 32) in 0..255.

    Args:
        rng: source of the values.
        means: mean of each channel, 0..255.
        deviation: standard deviation of each channel, 0..255.
    """
    channels = []
    for mean in means:
        share = mean / 255
        weight = share * (1 - share) * (255 / deviation) ** 2 - 1
        channels.append(255 * rng.beta(share * weight, (1 - share) * weight, (CELLS, CELLS)))
    return np.stack(channels)


def norm_of(pattern: np.ndarray) -> float:
    """L2 norm of a pattern of pixel values, in [0, 1] units."""
    return float(np.sqrt(np.square(pattern.astype(np.float64) / 255).sum()))


def to_norm(pattern: np.ndarray, norm: float, cap: float = 255.0) -> np.ndarray:
    """Scale, clip to +-cap and round a pattern so that the result has a given norm.

    Args:
        pattern: float (3, H, W), any scale, not all zero.
        norm: wanted L2 norm in [0, 1] units.
        cap: largest absolute value, 0..255.

    Returns:
        int16 (3, H, W); its norm is the nearest that scaling can reach (much smaller only if cap limits it).
    """
    shape = pattern / np.abs(pattern).max()
    low, high = 0.0, 1e6
    for _ in range(64):
        factor = (low + high) / 2
        if norm_of(np.rint(np.clip(shape * factor, -cap, cap))) < norm:
            low = factor
        else:
            high = factor
    # The ends of the last interval lie on both sides of one rounding step; take the nearer one.
    ends = [np.rint(np.clip(shape * factor, -cap, cap)) for factor in (low, high)]
    nearest: np.ndarray = min(ends, key=lambda end: abs(norm_of(end) - norm))
    return nearest.astype(np.int16)
