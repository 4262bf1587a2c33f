"""A small poisoned set for tests: 40 training images of 8 pixels in 4 classes, all to class 1."""

from __future__ import annotations

import numpy as np

from benchbd.core.poisoned_set import CleanTest, PoisonedSet, TriggeredTest
from benchbd.exchange.found_set import CleanData

POISON, COVER = (2, 7, 11, 20), (4, 30)
TRAIN, TEST = 40, 16


def _stamped(images: np.ndarray) -> np.ndarray:
    out = images.copy()
    out[:, :, -2:, -2:] = 255 - out[:, :, -2:, -2:]
    return out


def clean_data() -> CleanData:
    """The data set that the set is made from."""
    rng = np.random.default_rng(3)
    labels, test = (np.arange(count, dtype=np.int64) % 4 for count in (TRAIN, TEST))
    images, shown = (rng.integers(0, 256, (count, 3, 8, 8), np.uint8) for count in (TRAIN, TEST))
    return CleanData("small", images, labels, CleanTest(shown, test), 4)


def poisoned_set() -> PoisonedSet:
    """The set, complete."""
    clean = clean_data()
    poison, cover = np.zeros(TRAIN, bool), np.zeros(TRAIN, bool)
    poison[list(POISON)], cover[list(COVER)] = True, True
    touched = poison | cover
    images = clean.images.copy()
    images[touched] = _stamped(images[touched])
    test = clean.test
    places = np.arange(TEST, dtype=np.int64)
    return PoisonedSet(
        images=images,
        labels=np.where(poison, 1, clean.labels),
        poison=poison,
        cover=cover,
        true_labels=clean.labels,
        classes=4,
        targets=(1, 1, 1, 1),
        originals=clean.images[touched],
        triggered=TriggeredTest(_stamped(test.images), test.labels, np.ones(TEST, np.int64), places),
        test=test,
    )
