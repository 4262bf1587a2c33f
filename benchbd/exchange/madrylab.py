"""The layout of MadryLab/label-consistent-backdoor-code: ``.npy`` files of one folder."""

from __future__ import annotations

from pathlib import Path

from benchbd.core.archive import read_numpy
from benchbd.exchange.found_set import FoundSet, Wishes
from benchbd.exchange.pixels import Pixels, to_labels, to_mask


def read(folder: Path, wishes: Wishes) -> FoundSet:
    """Read what ``generate_poisoned_dataset.py`` writes. Test images carry the trigger in all classes.

    Raises:
        UsageError: a file is missing or does not fit.
    """
    train, test = folder / "train_images.npy", folder / "test_images.npy"
    pixels = Pixels(wishes.rounding)
    images = pixels.read(read_numpy(train), str(train))
    labels = to_labels(read_numpy(folder / "train_labels.npy"), len(images), str(folder / "train_labels.npy"))
    where = folder / "poisoned_train_indices.npy"
    poison = to_mask(read_numpy(where), len(images), str(where))
    # The attack is clean-label: it changes no label, so all labels are true.
    found = FoundSet(images=images, labels=labels, poison=poison, true_labels=labels.copy())
    if test.exists():
        shown = pixels.read(read_numpy(test), str(test))
        true = to_labels(read_numpy(folder / "test_labels.npy"), len(shown), str(folder / "test_labels.npy"))
        found.triggered = (shown, true, None, None)
    found.moved = pixels.moved
    return found
