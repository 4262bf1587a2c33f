"""The layout of damianliumin/non-adversarial_backdoor: torch archives ``train``, ``test`` and ``poison_idx``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchbd.core.archive import read_torch
from benchbd.errors import UsageError
from benchbd.exchange.found_set import FoundSet, Wishes
from benchbd.exchange.pixels import Pixels, as_array, to_labels, to_mask, whole_numbers


def read(folder: Path, wishes: Wishes) -> FoundSet:
    """Read ``datasets/<data set>/<attack><percent>/``. Test images carry the trigger in all classes.

    Raises:
        UsageError: a file is missing or does not fit.
    """
    train = _part(folder / "train", ("data", "labels", "true_labels", "backdoor"))
    pixels = Pixels(wishes.rounding)
    images = pixels.read(train["data"], f"{folder / 'train'} data")
    count = len(images)
    found = FoundSet(
        images=images,
        labels=to_labels(train["labels"], count, f"{folder / 'train'} labels"),
        poison=to_mask(train["backdoor"], count, f"{folder / 'train'} backdoor"),
        true_labels=to_labels(train["true_labels"], count, f"{folder / 'train'} true_labels"),
    )
    if (folder / "test").exists():
        test = _part(folder / "test", ("data", "true_labels"))
        images = pixels.read(test["data"], f"{folder / 'test'} data")
        true = to_labels(test["true_labels"], len(images), f"{folder / 'test'} true_labels")
        found.triggered = (images, true, _aims(test.get("target", train.get("target")), len(true), folder), None)
    found.moved = pixels.moved
    return found


def _aims(target: Any, count: int, folder: Path) -> np.ndarray | None:
    """The target of each test image; None if the archives state none."""
    if target is None:
        return None
    where = f"{folder} target"
    given = as_array(target, where)
    if given.size != 1:
        raise UsageError(f"{where}: must be one class, not {given.shape}")
    return np.full(count, whole_numbers(given.reshape(-1), where)[0], np.int64)


def _part(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """The entries of one archive."""
    given = read_torch(path)
    if not isinstance(given, dict) or not set(needed) <= set(given):
        raise UsageError(f"{path} must hold a dictionary with {', '.join(needed)}")
    return given
