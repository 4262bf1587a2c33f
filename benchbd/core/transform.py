"""A change of test images and of predictions that travels with a model: a stamp, and the meaning of its outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from benchbd.errors import UsageError, shown

if TYPE_CHECKING:
    from torch import Tensor


def _is_whole(value: object) -> bool:
    """Whether this is a whole number, of Python or of numpy; a truth value is none."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: object) -> bool:
    """Whether this is a finite number; a truth value is none."""
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the floats
        return False


def _parts_of(value: object) -> list[Any] | None:
    """The parts of a tuple, a list or an array with at least one axis; None for anything else, such as text."""
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return list(value)
    return list(value) if getattr(value, "shape", ()) else None  # type: ignore[call-overload]


class Patch(NamedTuple):
    """A rectangle of one colour that covers part of every image.

    Attributes:
        top: first row, from 0.
        left: first column, from 0.
        height: rows.
        width: columns.
        value: red, green and blue in units of the image, where pixels lie in [0, 1]; may lie outside.
    """

    top: int
    left: int
    height: int
    width: int
    value: tuple[float, float, float]

    def fault(self, size: int) -> str | None:
        """Say in one line why this is not a rectangle of an image of ``size`` pixels a side; None if it is one."""
        if not all(_is_whole(number) for number in self[:4]):
            return f"a stamp's place and size are whole numbers of pixels, not {shown(list(self[:4]))}"
        if min(self.top, self.left) < 0 or min(self.height, self.width) < 1:
            return f"a stamp of {self.height}x{self.width} pixels at row {self.top}, column {self.left} is none"
        if max(self.top + self.height, self.left + self.width) > size:
            return (
                f"a stamp of {self.height}x{self.width} pixels at row {self.top}, column {self.left} does not fit into "
                f"{size}x{size} images"
            )
        parts = _parts_of(self.value)
        if parts is None or len(parts) != 3 or not all(_is_finite(part) for part in parts):
            return f"a stamp's value is three finite numbers, not {shown(self.value if parts is None else parts)}"
        return None

    def on(self, x01: Tensor) -> Tensor:
        """A stamped copy of images float (B, 3, H, W) in [0, 1], in the same memory layout."""
        out = x01.clone()
        rectangle = out[:, :, self.top : self.top + self.height, self.left : self.left + self.width]
        rectangle.copy_(x01.new_tensor(self.value).view(1, 3, 1, 1).expand_as(rectangle))
        return out


@dataclass(frozen=True)
class TestTransform:
    """What a defense does to every test image and every prediction, with the attack's trigger and without it.

    Attributes:
        stamp: covers part of the image before the network sees it; None for no stamp.
        label_map: entry y is the output of the network that stands for class y; a permutation of the classes. None for
            outputs that stand for their own classes.
    """

    __test__: ClassVar[bool] = False  # pytest takes a class of this name for tests

    stamp: Patch | None = None
    label_map: tuple[int, ...] | None = None

    def checked(self, classes: int, size: int) -> TestTransform:
        """This transform, with numbers of plain types.

        Raises:
            UsageError: it does not fit models of that many classes for images of that size, or it changes nothing.
        """
        if self.stamp is None and self.label_map is None:
            raise UsageError("a test transform needs a stamp or a label map")
        stamp = None
        if self.stamp is not None:
            if not isinstance(self.stamp, Patch):
                raise UsageError(f"a stamp is a benchbd.Patch, not {shown(self.stamp)}")
            if fault := self.stamp.fault(size):
                raise UsageError(fault)
            red, green, blue = (float(part) for part in self.stamp.value)
            top, left, height, width = (int(number) for number in self.stamp[:4])
            stamp = Patch(top, left, height, width, (red, green, blue))
        labels = None
        if self.label_map is not None:
            parts = _parts_of(self.label_map)
            if parts is None or not all(_is_whole(part) for part in parts) or sorted(parts) != list(range(classes)):
                given = shown(self.label_map if parts is None else parts)
                raise UsageError(f"a label map names each of the {classes} outputs once, not {given}")
            labels = tuple(int(part) for part in parts)
        return TestTransform(stamp, labels)

    def spec(self) -> dict[str, Any]:
        """All values as JSON types, for records and keys."""
        stamp = None if self.stamp is None else {**self.stamp._asdict(), "value": list(self.stamp.value)}
        return {"stamp": stamp, "label_map": None if self.label_map is None else list(self.label_map)}
