"""The BadNets grid, and its size for each image size.

Sources: the 3x3 grid of ABL, NAD, ANP and the label-consistent attack (all equal); 24x24 pixels on 224-pixel images, as
ABL's maintainer states.
"""

from __future__ import annotations

import numpy as np

GRID = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 255]], dtype=np.uint8)
"""Rows H-3..H-1 and columns W-3..W-1, the same in all channels. Asymmetric on purpose: the first cell is 0."""


def cell_for(size: int) -> int:
    """Side of one grid cell in pixels: 1 at 32, 4 at 128, 8 at 224."""
    return max(1, size // 28)


def grid(cell: int) -> np.ndarray:
    """The grid with cells of ``cell`` x ``cell`` pixels, uint8 (3 cell, 3 cell)."""
    return np.kron(GRID, np.ones((cell, cell), dtype=np.uint8))


def stamped_corners(corners: str) -> tuple[tuple[bool, bool], ...]:
    """(bottom, right) of each corner with a grid: the bottom-right one (``grid``) or all (``four-corners``)."""
    if corners == "grid":
        return ((True, True),)
    return ((False, False), (False, True), (True, False), (True, True))


def grid_difference(size: int, cell: int, corners: str, amplitude: int) -> np.ndarray:
    """The values to add to an image, int16 (size, size): +amplitude on white cells, -amplitude on black, 0 elsewhere.

    With amplitude 255, adding and clipping overwrites the pixels. In the other corners the grid is mirrored, so that
    the four grids together look the same after a flip (Turner et al. 2019).
    """
    patch = np.where(grid(cell) > 0, amplitude, -amplitude).astype(np.int16)
    side = patch.shape[0]
    out = np.zeros((size, size), dtype=np.int16)
    for bottom, right in stamped_corners(corners):
        rows = slice(size - side, size) if bottom else slice(0, side)
        columns = slice(size - side, size) if right else slice(0, side)
        out[rows, columns] = patch[:: 1 if bottom else -1, :: 1 if right else -1]
    return out
