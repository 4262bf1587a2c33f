"""The Trojan watermark's shape: a line of text rising along the diagonal, and a copyright sign below it.

This module draws it at 224 pixels from a dot-matrix alphabet and circles, with the published geometry of the TrojanNN
mask, and shrinks it to the image size with a triangle filter. The result is similar to the published mask, not equal:

    at 224 pixels   published 3,598 pixels, rows 9..205, columns 5..206; drawn 3,595, rows 7..205, columns 7..205
    at 32 pixels    published   321 pixels, rows and columns 0..29;      drawn   318, rows and columns 0..29

A better match at 224 pixels would change the shape at 32, and with it every result; raise tj-wm's version in that case.
"""

from __future__ import annotations

import numpy as np

CANVAS = 224
"""Side of the square on which the mask is drawn, in pixels."""
TEXT = "COPYRIGHT @ ABC.XYZ"
_GLYPHS = {
    "C": "01110 10001 10000 10000 10000 10001 01110",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "Y": "10001 10001 01010 00100 00100 00100 00100",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "I": "01110 00100 00100 00100 00100 00100 01110",
    "G": "01110 10001 10000 10111 10001 10001 01110",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "@": "01110 10001 10111 10101 10111 10000 01110",
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "B": "11110 10001 10001 11110 10001 10001 11110",
    "X": "10001 10001 01010 00100 01010 10001 10001",
    "Z": "11111 00001 00010 00100 01000 10000 11111",
    ".": "00000 00000 00000 00000 00000 01100 01100",
    " ": "00000 00000 00000 00000 00000 00000 00000",
}
_DOT = 2.38
"""Distance between two dots of the alphabet in canvas pixels, chosen so that the line spans rows and columns 7..205."""
_STROKE = 0.72
"""Share of a dot's side that is lit; strokes are thin, so shrinking makes them dim."""
_CENTRE = (107.0, 106.0)
"""Row and column of the line's middle."""
_SIGN = (150.5, 150.5)
"""Row and column of the copyright sign's centre, (21, 21) at 32 pixels."""
_RING = (36.5, 44.7)
"""Inner and outer radius of the sign's ring, 5..6.5 pixels at 32."""
_LETTER = (15.0, 23.0)
"""Inner and outer radius of the C, open to the right."""


def _text(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Which canvas points lie on a lit dot of the line of text."""
    lines = [" ".join(_GLYPHS[letter].split()[row] for letter in TEXT).replace(" ", "0") for row in range(7)]
    dots = np.array([[dot == "1" for dot in line] for line in lines])
    right, down = (columns - _CENTRE[1]) / np.sqrt(2), (rows - _CENTRE[0]) / np.sqrt(2)
    u, v = (right - down) / _DOT + dots.shape[1] / 2, (right + down) / _DOT + dots.shape[0] / 2
    across, below = np.floor(u).astype(int), np.floor(v).astype(int)
    lit = (np.abs(u - across - 0.5) < _STROKE / 2) & (np.abs(v - below - 0.5) < _STROKE / 2)
    inside = lit & (across >= 0) & (across < dots.shape[1]) & (below >= 0) & (below < dots.shape[0])
    text: np.ndarray = inside & dots[np.where(inside, below, 0), np.where(inside, across, 0)]
    return text


def canvas() -> np.ndarray:
    """The mask at 224 pixels, bool (224, 224)."""
    rows, columns = np.meshgrid(np.arange(CANVAS) + 0.5, np.arange(CANVAS) + 0.5, indexing="ij")
    down, right = rows - _SIGN[0], columns - _SIGN[1]
    radius = np.hypot(down, right)
    ring = (radius >= _RING[0]) & (radius < _RING[1])
    letter = (radius >= _LETTER[0]) & (radius < _LETTER[1]) & ~((right > 0) & (np.abs(down) < 0.7 * right))
    mask: np.ndarray = _text(rows, columns) | ring | letter
    return mask


def _shrink(size: int) -> np.ndarray:
    """Weights (size, 224) of a triangle filter as wide as two target pixels; each row sums to one."""
    scale = CANVAS / size
    centres = (np.arange(size) + 0.5) * scale
    weights: np.ndarray = np.clip(1 - np.abs(centres[:, None] - np.arange(CANVAS) - 0.5) / max(1.0, scale), 0, None)
    weights /= weights.sum(axis=1, keepdims=True)
    return weights


def coverage(size: int) -> np.ndarray:
    """How much of each pixel the watermark covers, float64 (size, size) in [0, 1]."""
    weights = _shrink(size)
    shrunk: np.ndarray = weights @ canvas().astype(np.float64) @ weights.T
    return shrunk
