"""Poison and triggered test images from a file, for attacks that bring a poisoned set (``Attack.poisoned_set``)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from benchbd.core.images import Images
from benchbd.core.poisoned_set import UNKNOWN, PoisonedSet
from benchbd.core.poisoned_set_file import PoisonedSetFile
from benchbd.errors import UsageError, agrees, counted
from benchbd.plugins.train_set import TrainSet

WITHOUT_TRIGGER = "the file of the poisoned set has no triggered test images"
"""Why a cell has no ASR, in its record."""
OF_TARGET = "all triggered test images of the file of the poisoned set are of the target class"
"""Another reason."""


class TriggeredImages(NamedTuple):
    """The triggered test images of a row.

    Attributes:
        images: uint8 (M, 3, H, W), of other classes than their target.
        labels: int64 (M,), their true labels.
        targets: int64 (M,), the classes that the attack wants.
        originals: int64 (M,), the place of each image's original in the clean test set; None if unknown.
        of_target: triggered images of the target class and their labels; None if there are none to measure.
    """

    images: torch.Tensor
    labels: torch.Tensor
    targets: np.ndarray
    originals: np.ndarray | None
    of_target: tuple[torch.Tensor, torch.Tensor] | None


def ready_poison(file: PoisonedSetFile, clean: TrainSet) -> dict[str, np.ndarray]:
    """The samples that a poisoned set changes: ``indices``, ``images``, ``labels`` and ``poison``.

    Raises:
        UsageError: the file is damaged, or its other samples are not those of the clean set.
    """
    given = file.load()
    count, size = len(clean), int(clean.images.shape[-1])
    if given.images.shape != (count, 3, size, size):
        raise UsageError(
            f"{file.path} has training images {given.images.shape}, the data set ({count}, 3, {size}, {size})"
        )
    _agree(given, clean, str(file.path))
    where = np.flatnonzero(given.touched).astype(np.int64)
    return {
        "indices": where,
        "images": given.images[where],
        "labels": given.labels[where],
        "poison": given.poison[where],
    }


def _agree(given: PoisonedSet, clean: TrainSet, path: str) -> None:
    """Raise UsageError unless every untouched sample is the data set's, in its order, and true labels agree."""
    labels = clean.labels.numpy()
    rest = np.flatnonzero(~given.touched)
    other = np.array([(given.images[place] != clean.images[place].numpy()).any() for place in rest], bool)
    if other.any():
        first = int(rest[np.flatnonzero(other)[0]])
        raise UsageError(
            f"{path}: {int(other.sum())} of {counted(len(rest), 'clean training image')} differ from the data set's, "
            f"the first at position {first}; name the data set that the set was made from, in the same size and order"
        )
    known = np.where(given.cover, given.labels, given.best_labels)
    wrong = (known != labels) & ((given.true_labels != UNKNOWN) | ~given.poison)
    if wrong.any():
        first, number = int(np.flatnonzero(wrong)[0]), int(wrong.sum())
        raise UsageError(
            f"{path}: {counted(number, 'true label')} {agrees(number, 'differs', 'differ')} from the data set's, the "
            f"first at position {first} ({known[first]}, not {labels[first]})"
        )


def facts_about(file: PoisonedSetFile, facts: dict[str, object]) -> dict[str, object]:
    """A poison's facts for the record, without those that need true labels where the file lacks some."""
    return facts if file.facts.true_labels else {**facts, "share_of_target_class": None}


def ready_triggered(file: PoisonedSetFile, test: Images) -> TriggeredImages | None:
    """The triggered test images of a file; None if it has none of another class than the target.

    Raises:
        UsageError: their positions or true labels do not fit the clean test set.
    """
    if not file.facts.triggered:
        return None
    given = file.load().triggered
    assert given is not None
    labels, known = test.labels.numpy(), given.places != UNKNOWN
    if known.any() and int(given.places.max()) >= len(labels):
        raise UsageError(
            f"{file.path}: a triggered image is number {given.places.max()} of {counted(len(labels), 'test image')}"
        )
    if (wrong := labels[given.places[known]] != given.true_labels[known]).any():
        number = int(wrong.sum())
        labels_of = f"{counted(number, 'true label')} of triggered images {agrees(number, 'differs', 'differ')}"
        raise UsageError(f"{file.path}: {labels_of} from the test set's")
    others = given.true_labels != given.targets
    if not others.any():
        return None
    images, true = torch.from_numpy(given.images), torch.from_numpy(given.true_labels)
    pick, rest = torch.from_numpy(np.flatnonzero(others)), torch.from_numpy(np.flatnonzero(~others))
    return TriggeredImages(
        images[pick],
        true[pick],
        given.targets[others],
        given.places[others] if known[others].all() else None,
        (images[rest], true[rest]) if len(rest) else None,
    )


def why_no_asr(file: PoisonedSetFile | None) -> str:
    """Why a cell whose attack poisons has no triggered test images."""
    return OF_TARGET if file is not None and file.facts.triggered else WITHOUT_TRIGGER
