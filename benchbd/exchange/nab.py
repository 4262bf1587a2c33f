"""The layout of damianliumin/non-adversarial_backdoor: torch archives ``train``, ``test`` and ``poison_idx``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchbd.errors import UsageError
from benchbd.exchange.archive import read_torch
from benchbd.exchange.found_set import FoundSet, Wishes
from benchbd.exchange.pixels import to_labels, to_mask, to_pixels


def read(folder: Path, wishes: Wishes) -> FoundSet:
    """Read ``datasets/<data set>/<attack><percent>/``. Test images carry the trigger in all classes.

    Raises:
        UsageError: a file is missing or does not fit.
    """
    train = _part(folder / "train", ("data", "labels", "true_labels", "backdoor"))
    images, moved = to_pixels(train["data"], f"{folder / 'train'} data", wishes.rounding)
    count = len(images)
    found = FoundSet(
        images=images,
        labels=to_labels(train["labels"], count, f"{folder / 'train'} labels"),
        poison=to_mask(train["backdoor"], count, f"{folder / 'train'} backdoor"),
        true_labels=to_labels(train["true_labels"], count, f"{folder / 'train'} true_labels"),
        moved=moved,
    )
    if (folder / "test").is_file():
        test = _part(folder / "test", ("data", "true_labels"))
        images, moved = to_pixels(test["data"], f"{folder / 'test'} data", wishes.rounding)
        true = to_labels(test["true_labels"], len(images), f"{folder / 'test'} true_labels")
        target = test.get("target", train.get("target"))
        aims = np.full(len(true), target, np.int64) if isinstance(target, int) else None
        found.triggered, found.moved = (images, true, aims, None), max(found.moved, moved)
    return found


def _part(path: Path, needed: tuple[str, ...]) -> dict[str, Any]:
    """The entries of one archive; tensors become arrays."""
    import torch

    given = read_torch(path)
    if not isinstance(given, dict) or not set(needed) <= set(given):
        raise UsageError(f"{path} must hold a dictionary with {', '.join(needed)}")
    return {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in given.items()}
