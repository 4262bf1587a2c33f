"""A change of test images and of predictions that travels with a model: a stamp, and the meaning of its outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from benchbd.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


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
        if not all(isinstance(number, int) for number in self[:4]):
            return f"a stamp's place and size are whole numbers of pixels, not {list(self[:4])}"
        if min(self.top, self.left) < 0 or min(self.height, self.width) < 1:
            return f"a stamp of {self.height}x{self.width} pixels at row {self.top}, column {self.left} is none"
        if max(self.top + self.height, self.left + self.width) > size:
            return (
                f"a stamp of {self.height}x{self.width} pixels at row {self.top}, column {self.left} does not fit into "
                f"{size}x{size} images"
            )
        if len(self.value) != 3 or not all(math.isfinite(part) for part in self.value):
            return f"a stamp's value is three finite numbers, not {list(self.value)}"
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
            if fault := self.stamp.fault(size):
                raise UsageError(fault)
            red, green, blue = (float(part) for part in self.stamp.value)
            stamp = self.stamp._replace(value=(red, green, blue))
        labels = None if self.label_map is None else tuple(int(label) for label in self.label_map)
        if labels is not None and sorted(labels) != list(range(classes)):
            raise UsageError(f"a label map names each of the {classes} outputs once, not {list(labels)}")
        return TestTransform(stamp, labels)

    def spec(self) -> dict[str, Any]:
        """All values as JSON types, for records and keys."""
        stamp = None if self.stamp is None else {**self.stamp._asdict(), "value": list(self.stamp.value)}
        return {"stamp": stamp, "label_map": None if self.label_map is None else list(self.label_map)}
