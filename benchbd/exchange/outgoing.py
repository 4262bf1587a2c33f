"""The poisoned set of a cell's row, ready to be written for other programs."""

from __future__ import annotations

import numpy as np
import torch

from benchbd.core.images import Images
from benchbd.core.poisoned_set import UNKNOWN, CleanTest, PoisonedSet, TriggeredTest
from benchbd.errors import UsageError
from benchbd.pipeline.poison import Poisoner, apply
from benchbd.pipeline.ready_poison import TriggeredImages
from benchbd.pipeline.selection import targets


def poisoned_set(poisoner: Poisoner) -> PoisonedSet:
    """The training set that a defense gets in this row, the truth about it, and the test images.

    Raises:
        UsageError: the attack poisons nothing.
    """
    attack, dataset = poisoner.components.attack, poisoner.components.dataset
    if not attack.poisons:
        raise UsageError(f"attack {attack.name!r} poisons nothing; name another with --attack")
    clean, info = poisoner.train_set()
    poison = poisoner.poison(clean, info)
    seen, truth = apply(clean, poison), poison.truth(len(clean))
    cover = np.zeros(len(clean), bool)
    cover[poison.indices[~poison.flags]] = True
    test = dataset.load("test", poisoner.root)
    return PoisonedSet(
        images=seen.images.numpy(),
        labels=seen.labels.numpy(),
        poison=truth,
        cover=cover,
        true_labels=clean.labels.numpy(),
        classes=info.classes,
        targets=tuple(int(target) for target in targets(attack, info)),
        originals=None if info.poisoned else clean.images.numpy()[poison.indices],
        triggered=_triggered(poisoner.triggered_test(Images(*test), info, poison), test.labels.numpy()),
        test=CleanTest(test.images.numpy(), test.labels.numpy()),
        class_names=tuple(dataset.class_names),
        source={
            "format": "benchbd",
            "attack": poisoner.cell.attack.spec(),
            "dataset": poisoner.cell.dataset.text,
            "seed": poisoner.cell.seed,
            "rounding": "exact: every value is a whole number of 1/255",
        },
    )


def _triggered(shown: TriggeredImages | None, test_labels: np.ndarray) -> TriggeredTest | None:
    """All triggered test images, those of the target class included, in the order of the test set.

    Args:
        shown: what the row has; None without triggered images.
        test_labels: int64 (T,), of the clean test images.
    """
    if shown is None:
        return None
    count = len(shown.labels)
    extra = shown.of_target or (shown.images[:0], shown.labels[:0])
    images = torch.cat([shown.images, extra[0]]).numpy()
    labels = torch.cat([shown.labels, extra[1]]).numpy()
    aims = np.concatenate([shown.targets, extra[1].numpy()])
    places = np.full(len(labels), UNKNOWN, np.int64)
    if shown.originals is not None:
        places[:count] = shown.originals
        rest = np.setdiff1d(np.arange(len(test_labels)), shown.originals)
        if len(rest) == len(labels) - count and np.array_equal(test_labels[rest], labels[count:]):
            places[count:] = rest
    order = np.argsort(places, kind="stable")
    return TriggeredTest(images[order], labels[order], aims[order], places[order])
