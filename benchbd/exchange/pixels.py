"""Images, labels and masks of other programs, converted to benchbd's types."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchbd.errors import UsageError, counted

EXACT = "exact: every value is a whole number of 1/255"
TOLERANCE = 1e-2
"""Largest distance from a whole number of 1/255, in 1/255, that counts as rounding of the float itself."""
OVER = 1e-3
"""Largest distance above 1 at which the largest float of a set still means white is 1."""
LARGEST = 2**31
"""Largest number that counts as a label or a position."""
CHUNK = 4096
"""Images converted at a time."""


class Pixels:
    """Converts the images of one set. All float arrays of a set have one scale, which the first of them decides.

    Attributes:
        rounding: round floats that are not a whole number of 1/255 instead of refusing them.
        moved: largest distance by which a value was moved so far, in 1/255.
    """

    def __init__(self, rounding: bool) -> None:
        self.rounding = rounding
        self.moved = 0.0
        self._scale: tuple[float, str] | None = None

    def read(self, given: Any, where: str) -> np.ndarray:
        """Convert images to uint8 (N, 3, S, S).

        Args:
            given: numbers (N, 3, S, S) or (N, S, S, 3): integers from 0 to 255, or floats from 0 to 1 or to 255.
            where: name of the images, for messages.

        Raises:
            UsageError: these are not such images, or their scale is not clear.
        """
        array = as_array(given, where)
        if array.ndim != 4 or 3 not in (array.shape[1], array.shape[3]):
            grey = array.ndim == 3 or (array.ndim == 4 and 1 in (array.shape[1], array.shape[3]))
            advice = "; repeat grey images for the three colours (numpy.repeat)" if grey else ""
            raise UsageError(f"{where}: images must be (N, 3, S, S) or (N, S, S, 3), not {array.shape}{advice}")
        if array.shape[1] != 3:
            array = array.transpose(0, 3, 1, 2)
        if array.shape[2] != array.shape[3]:
            raise UsageError(f"{where}: images must be square, not {array.shape[2]} by {array.shape[3]}")
        if array.dtype.kind not in "fiu":
            raise UsageError(f"{where}: images must be uint8 or floats, not {array.dtype}")
        scale = self._scale_of(array, where)
        if array.dtype == np.uint8:
            return np.ascontiguousarray(array)
        return self._converted(array, scale, where)

    def _scale_of(self, array: np.ndarray, where: str) -> float:
        """The factor that brings values to 0..255."""
        low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
        if not np.isfinite([low, high]).all():
            raise UsageError(f"{where}: images hold values that are not finite")
        if low < 0 or high > 255:
            raise UsageError(
                f"{where}: values go from {low:g} to {high:g}; they must lie in 0..1 or 0..255 (not normalised)"
            )
        floats = array.dtype.kind == "f"
        if (1.0 + OVER < high <= 2.0) if floats else high == 1.0:
            raise UsageError(
                f"{where}: values go to {high:.7g}, so it is not clear whether white is 1 or 255; save uint8 from 0 to "
                "255, or floats from 0 to 1"
            )
        if not floats or high == 0.0:
            return 1.0
        scale = 255.0 if high <= 1.0 + OVER else 1.0
        first, name = self._scale = self._scale or (scale, where)
        if first != scale:
            white = {255.0: "1", 1.0: "255"}
            raise UsageError(
                f"{where}: values go to {high:.7g}, but in {name} white is {white[first]}; save both on one scale"
            )
        return scale

    def _converted(self, array: np.ndarray, scale: float, where: str) -> np.ndarray:
        out, moved = np.empty(array.shape, np.uint8), 0.0
        for start in range(0, len(array), CHUNK):
            # Clips what rounding of the floats themselves puts above 1.
            values = np.minimum(array[start : start + CHUNK].astype(np.float64) * scale, 255.0)
            whole = np.rint(values)
            moved = max(moved, float(np.abs(values - whole).max(initial=0.0)))
            out[start : start + CHUNK] = whole.astype(np.uint8)
        if moved > TOLERANCE and not self.rounding:
            raise UsageError(
                f"{where}: values are not whole numbers of 1/255 (off by up to {moved:.2g}/255); --round rounds them, "
                "and the file then says so"
            )
        if moved > TOLERANCE:
            self.moved = max(self.moved, moved)
        return out


def as_array(value: Any, where: str) -> np.ndarray:
    """A tensor, an array or a list as an array of numbers or booleans.

    Raises:
        UsageError: it is none: sparse, quantised, nested, ragged, without data, or of another type.
    """
    try:
        array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
    except (TypeError, RuntimeError, ValueError, OverflowError):
        kind = getattr(value, "dtype", type(value).__name__)
        raise UsageError(f"{where}: is not a dense array of numbers ({kind}); save it as float32 or int64") from None
    if array.dtype.kind not in "biuf":
        raise UsageError(f"{where}: must hold numbers, not {array.dtype}; save it as float32 or int64")
    return array


def whole_numbers(array: np.ndarray, where: str) -> np.ndarray:
    """Convert whole numbers from -LARGEST to LARGEST of any type to int64.

    Raises:
        UsageError: a value is not whole, not finite or beyond that range.
    """
    if array.dtype.kind == "f" and not (np.isfinite(array).all() and (array == np.rint(array)).all()):
        raise UsageError(f"{where}: must hold whole numbers, not others or values that are not finite")
    if array.size and not (array.min() >= -LARGEST and array.max() <= LARGEST):
        raise UsageError(f"{where}: numbers go from {array.min()} to {array.max()}, beyond any class or position")
    found: np.ndarray = array.astype(np.int64)
    return found


def to_labels(given: Any, count: int, where: str) -> np.ndarray:
    """Convert labels to int64 (N,): whole numbers (N,), or one-hot (N, classes).

    Raises:
        UsageError: these are not such labels.
    """
    array = as_array(given, where)
    if array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "biuf":
        if not (((array == 0) | (array == 1)).all() and (array.sum(1) == 1).all()):
            raise UsageError(f"{where}: labels {array.shape} are not one-hot")
        array = array.argmax(1)
    array = array.reshape(-1) if array.ndim == 2 and array.shape[1:] == (1,) else array
    if array.shape != (count,):
        raise UsageError(f"{where}: there are labels {array.shape} for {counted(count, 'image')}")
    if array.dtype == bool:
        raise UsageError(f"{where}: labels must be whole numbers, not {array.dtype}")
    return whole_numbers(array, where)


def to_mask(given: Any, count: int, where: str) -> np.ndarray:
    """Convert a mask bool or 0/1 (N,), or positions int (M,), to bool (N,).

    Raises:
        UsageError: a mask of another length, a position out of range or named twice.
    """
    array = as_array(given, where)
    if array.ndim != 1:
        raise UsageError(f"{where}: must be a mask or a list of positions, not {array.shape}")
    if array.dtype == bool:
        if len(array) != count:
            raise UsageError(f"{where}: has {len(array)} entries for {counted(count, 'image')}")
        own: np.ndarray = array.copy()
        return own
    mask = np.zeros(count, bool)
    if not len(array):
        return mask
    places = whole_numbers(array, where)
    if places.min() < 0 or places.max() >= count:
        raise UsageError(f"{where}: positions go from {places.min()} to {places.max()}, images from 0 to {count - 1}")
    if len(np.unique(places)) != len(places):
        raise UsageError(f"{where}: a position is named twice (a mask must be boolean)")
    mask[places] = True
    return mask
