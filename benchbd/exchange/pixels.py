"""Images, labels and masks of other programs, converted to benchbd's types."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from benchbd.errors import UsageError

EXACT = "exact: every value is a whole number of 1/255"
TOLERANCE = 1e-2
"""Largest distance from a whole number of 1/255, in 1/255, that counts as rounding of the float itself."""
CHUNK = 4096
"""Images converted at a time."""


class Pixels(NamedTuple):
    """Converted images.

    Attributes:
        images: uint8 (N, 3, S, S).
        moved: largest distance by which a value was moved, in 1/255.
    """

    images: np.ndarray
    moved: float


def to_pixels(given: Any, where: str, rounding: bool) -> Pixels:
    """Convert images to uint8 (N, 3, S, S).

    Args:
        given: numbers (N, 3, S, S) or (N, S, S, 3): uint8, or floats from 0 to 1 or from 0 to 255.
        where: name of the images, for messages.
        rounding: round floats that are not a whole number of 1/255 instead of refusing them.

    Raises:
        UsageError: these are not such images.
    """
    array = np.asarray(given)
    if array.ndim != 4 or 3 not in (array.shape[1], array.shape[3]):
        raise UsageError(f"{where}: images must be (N, 3, S, S) or (N, S, S, 3), not {array.shape}")
    if array.shape[1] != 3:
        array = array.transpose(0, 3, 1, 2)
    if array.shape[2] != array.shape[3]:
        raise UsageError(f"{where}: images must be square, not {array.shape[2]} by {array.shape[3]}")
    if array.dtype == np.uint8:
        return Pixels(np.ascontiguousarray(array), 0.0)
    if array.dtype.kind not in "fiu":
        raise UsageError(f"{where}: images must be uint8 or floats, not {array.dtype}")
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    if not np.isfinite([low, high]).all():
        raise UsageError(f"{where}: images hold values that are not finite")
    if low < 0 or high > 255:
        raise UsageError(
            f"{where}: values go from {low:g} to {high:g}; they must lie in 0..1 or 0..255 (not normalised)"
        )
    scale = 255.0 if array.dtype.kind == "f" and high <= 1.0 else 1.0
    out, moved = np.empty(array.shape, np.uint8), 0.0
    for start in range(0, len(array), CHUNK):
        values = array[start : start + CHUNK].astype(np.float64) * scale
        whole = np.rint(values)
        moved = max(moved, float(np.abs(values - whole).max(initial=0.0)))
        out[start : start + CHUNK] = whole.astype(np.uint8)
    if moved > TOLERANCE and not rounding:
        raise UsageError(
            f"{where}: values are not whole numbers of 1/255 (off by up to {moved:.2g}/255); --round rounds them, and "
            "the file then says so"
        )
    return Pixels(out, moved if moved > TOLERANCE else 0.0)


def to_labels(given: Any, count: int, where: str) -> np.ndarray:
    """Convert labels to int64 (N,): whole numbers (N,), or one-hot (N, classes).

    Raises:
        UsageError: these are not such labels.
    """
    array = np.asarray(given)
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "biuf":
        if not (((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all()):
            raise UsageError(f"{where}: labels {array.shape} are not one-hot")
        array = array.argmax(1)
    array = array.reshape(-1) if array.ndim == 2 and array.shape[1:] == (1,) else array
    if array.shape != (count,):
        raise UsageError(f"{where}: there are labels {array.shape} for {count} images")
    if array.dtype.kind not in "iu" and not (array.dtype.kind == "f" and (array == np.rint(array)).all()):
        raise UsageError(f"{where}: labels must be whole numbers, not {array.dtype}")
    found: np.ndarray = array.astype(np.int64)
    return found


def to_mask(given: Any, count: int, where: str) -> np.ndarray:
    """Convert a mask bool or 0/1 (N,), or positions int (M,), to bool (N,).

    Raises:
        UsageError: a mask of another length, a position out of range or named twice.
    """
    array = np.asarray(given)
    if array.ndim != 1:
        raise UsageError(f"{where}: must be a mask or a list of positions, not {array.shape}")
    if array.dtype == bool:
        if len(array) != count:
            raise UsageError(f"{where}: has {len(array)} entries for {count} images")
        own: np.ndarray = array.copy()
        return own
    if array.dtype.kind not in "iuf" or not (array == np.rint(array)).all():
        raise UsageError(f"{where}: must hold whole numbers or booleans, not {array.dtype}")
    mask = np.zeros(count, bool)
    if not len(array):
        return mask
    places = array.astype(np.int64)
    if places.min() < 0 or places.max() >= count:
        raise UsageError(f"{where}: positions go from {places.min()} to {places.max()}, images from 0 to {count - 1}")
    if len(np.unique(places)) != len(places):
        raise UsageError(f"{where}: a position is named twice (a mask must be boolean)")
    mask[places] = True
    return mask
