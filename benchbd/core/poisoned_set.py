"""A poisoned training set made elsewhere: its arrays, and the rules that they keep."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.errors import UsageError, agrees, counted

if TYPE_CHECKING:
    import numpy as np

UNKNOWN = -1
"""Stands for an unknown label or position."""
LARGEST_SIZE = 1024
"""Largest allowed height and width in pixels; a larger one is probably a mistake."""
MOST_CLASSES = 10_000


class CleanTest(NamedTuple):
    """Clean test images.

    Attributes:
        images: uint8 (T, 3, S, S).
        labels: int64 (T,).
    """

    images: np.ndarray
    labels: np.ndarray


class TriggeredTest(NamedTuple):
    """Test images with the trigger.

    Attributes:
        images: uint8 (M, 3, S, S).
        true_labels: int64 (M,).
        targets: int64 (M,), the class that the attack wants each image to be classified as.
        places: int64 (M,), the position of each image's original in the clean test set; UNKNOWN if not known.
    """

    images: np.ndarray
    true_labels: np.ndarray
    targets: np.ndarray
    places: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class PoisonedSet:
    """A poisoned training set, with the truth about it and its test images.

    Attributes:
        images: uint8 (N, 3, S, S), the training images that a defender gets.
        labels: int64 (N,), the labels that a defender gets.
        poison: bool (N,), which samples are poisoned.
        cover: bool (N,), which samples are covers: changed images that keep their true label and are not poison.
        true_labels: int64 (N,), the labels before poisoning; UNKNOWN where not known.
        classes: number of classes.
        targets: the target of each class.
        originals: uint8 (P, 3, S, S), the clean images of all samples that are poison or cover, in their order; None
            if they are not known.
        triggered: test images with the trigger; None if there are none.
        test: clean test images; None if there are none.
        class_names: names of the classes; empty if they are not known.
        source: where the set comes from and how its pixels became uint8, ready for JSON.
    """

    images: np.ndarray
    labels: np.ndarray
    poison: np.ndarray
    cover: np.ndarray
    true_labels: np.ndarray
    classes: int
    targets: tuple[int, ...]
    originals: np.ndarray | None = None
    triggered: TriggeredTest | None = None
    test: CleanTest | None = None
    class_names: tuple[str, ...] = ()
    source: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def touched(self) -> np.ndarray:
        """Which samples are poison or cover, bool (N,)."""
        touched: np.ndarray = self.poison | self.cover
        return touched

    @property
    def best_labels(self) -> np.ndarray:
        """The true labels where they are known, else those that a defender gets, int64 (N,)."""
        import numpy as np

        return np.where(self.true_labels == UNKNOWN, self.labels, self.true_labels)

    def arrays(self) -> dict[str, np.ndarray]:
        """All arrays by the name that they have in a file."""
        found = {
            "images": self.images,
            "labels": self.labels,
            "poison": self.poison,
            "cover": self.cover,
            "true_labels": self.true_labels,
        }
        if self.originals is not None:
            found["originals"] = self.originals
        if self.triggered is not None:
            found |= {f"triggered_{name}": array for name, array in self.triggered._asdict().items()}
        if self.test is not None:
            found |= {f"test_{name}": array for name, array in self.test._asdict().items()}
        return found

    def check(self, where: str) -> None:
        """Raise UsageError, with ``where`` in front, if the arrays do not fit each other."""
        try:
            self._check()
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from None

    def _check(self) -> None:
        count, size = self._check_training()
        touched = int(self.touched.sum())
        if self.originals is not None:
            _check_images("original images", self.originals, touched, size)
        if self.triggered is not None:
            shown = self.triggered
            _check_images("triggered test images", shown.images, len(shown.images), size)
            for name, labels in (("true labels", shown.true_labels), ("targets", shown.targets)):
                _check_labels(f"{name} of the triggered test images", labels, len(shown.images), self.classes)
            most = len(self.test.labels) if self.test is not None else None
            _check_labels("places of the triggered test images", shown.places, len(shown.images), most, unknown=True)
        if self.test is not None:
            _check_images("clean test images", self.test.images, len(self.test.images), size)
            _check_labels("labels of the clean test images", self.test.labels, len(self.test.images), self.classes)
            if not len(self.test.labels):
                raise UsageError("there are 0 clean test images; leave them out instead")
            self._check_places(self.test)
        if len(self.targets) != self.classes or not all(target in range(self.classes) for target in self.targets):
            raise UsageError(f"there must be one target, 0..{self.classes - 1}, for each of the {self.classes} classes")
        if self.class_names and len(self.class_names) != self.classes:
            raise UsageError(f"there are {counted(len(self.class_names), 'class name')} for {self.classes} classes")
        if not self.poison.any():
            raise UsageError(
                f"none of the {counted(count, 'training sample')} is marked as poison, so there is no attack"
            )

    def _check_places(self, test: CleanTest) -> None:
        """Check that triggered test images have the labels of the clean ones at their places."""
        if self.triggered is None:
            return
        places, true = self.triggered.places, self.triggered.true_labels
        other = (places != UNKNOWN) & (test.labels[places] != true)
        if other.any():
            first, number = int(other.argmax()), int(other.sum())
            raise UsageError(
                f"{counted(number, 'triggered test image')} {agrees(number, 'has', 'have')} another true label than "
                f"the clean test image at {agrees(number, 'its', 'their')} place, the first at position {first} "
                f"({true[first]}, not {test.labels[places[first]]})"
            )

    def _check_training(self) -> tuple[int, int]:
        """Check the training samples; their number and the images' size."""
        if not 2 <= self.classes <= MOST_CLASSES:
            raise UsageError(f"there are {self.classes} classes; there must be 2 to {MOST_CLASSES:,}")
        count = len(self.images)
        if not count:
            raise UsageError("there are no training images")
        size = int(self.images.shape[-1]) if self.images.ndim == 4 else 0
        _check_images("training images", self.images, count, size)
        if not 8 <= size <= LARGEST_SIZE:
            raise UsageError(f"images must have 8 to {LARGEST_SIZE} pixels a side, not {size}")
        _check_labels("training labels", self.labels, count, self.classes)
        _check_labels("true labels", self.true_labels, count, self.classes, unknown=True)
        for name, mask in (("poison mask", self.poison), ("cover mask", self.cover)):
            if mask.dtype != bool or mask.shape != (count,):
                raise UsageError(f"{name} must be bool ({count},), not {mask.dtype} {mask.shape}")
        if both := int((self.poison & self.cover).sum()):
            marked = f"{counted(both, 'sample')} {agrees(both, 'is', 'are')} marked as poison and as cover"
            raise UsageError(f"{marked}; a sample is one or the other")
        known = self.true_labels != UNKNOWN
        changed = known & ~self.poison & (self.labels != self.true_labels)
        if changed.any():
            count_of = int(changed.sum())
            them = f"{counted(count_of, 'sample')} that {agrees(count_of, 'is', 'are')} not poison"
            raise UsageError(f"{them} {agrees(count_of, 'has', 'have')} a label other than the true one")
        return count, size


def _check_images(what: str, images: np.ndarray, count: int, size: int) -> None:
    if str(images.dtype) != "uint8" or images.shape != (count, 3, size, size):
        raise UsageError(f"{what} must be uint8 {(count, 3, size, size)}, not {images.dtype} {images.shape}")


def _check_labels(what: str, labels: np.ndarray, count: int, classes: int | None, *, unknown: bool = False) -> None:
    """Check that labels or positions are int64 (count,) and in range; ``classes`` None sets no upper bound."""
    if str(labels.dtype) != "int64" or labels.shape != (count,):
        raise UsageError(f"{what} must be int64 {(count,)}, not {labels.dtype} {labels.shape}")
    if not count:
        return
    least, most = int(labels.min()), int(labels.max())
    if least < (UNKNOWN if unknown else 0) or (classes is not None and most >= classes):
        raise UsageError(f"{what} go from {least} to {most}" + (f", but {classes - 1} is the last" if classes else ""))
