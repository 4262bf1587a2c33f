"""Selection of the training images that an attack changes. It depends only on (data set, attack, seed)."""

from __future__ import annotations

import numpy as np

from benchbd.core.images import DatasetInfo
from benchbd.core.seeding import seed_for
from benchbd.errors import Impossible, UsageError, counted
from benchbd.plugins.contract import Attack
from benchbd.plugins.part import Part


def targets(attack: Attack, info: DatasetInfo) -> np.ndarray:
    """The target of each class, int64 (classes,), from ``Attack.target_of``.

    Raises:
        UsageError: a target is not a class.
    """
    found = [attack.target_of(label, info) for label in range(info.classes)]
    for label, target in enumerate(found):
        if target not in range(info.classes):
            result = f"target_of({label}) is {target!r}"
            raise UsageError(f"attack {attack.name!r}: {result}, but classes are 0..{info.classes - 1}")
    return np.array(found, np.int64)


def select_poison(attack: Attack, info: DatasetInfo, labels: np.ndarray, seed: int, dataset: Part) -> np.ndarray:
    """Choose the images to poison.

    Args:
        attack: the attack, with its budget.
        info: sizes and classes of the data set.
        labels: int64 (N,), the true labels.
        seed: the cell's seed; with the data set and the attack it determines the selection.
        dataset: the data set, which enters the seed.

    Returns:
        int64 (P,), positions of the images, ascending.

    Raises:
        Impossible: the data cannot meet the budget.
    """
    counts = tuple(int(c) for c in np.bincount(labels, minlength=info.classes))
    budget = attack.budget(info._replace(train=len(labels)), counts)
    if budget is None:
        raise Impossible("the budget cannot be computed from this data")
    wanted = targets(attack, info)[labels]
    if attack.clean_label:
        pool = np.flatnonzero(labels == wanted)
    elif attack.pool == "non-target":
        pool = np.flatnonzero(labels != wanted)
    else:
        pool = np.arange(len(labels))
    rng = np.random.default_rng(seed_for("poison", dataset.spec(), attack.name, seed))
    return np.sort(rng.permutation(pool)[: budget.count]).astype(np.int64)


def select_triggered(attack: Attack, info: DatasetInfo, labels: np.ndarray) -> np.ndarray:
    """Places of the test images that get the trigger, int64 (M,), ascending: those whose class is not their target."""
    return np.flatnonzero(labels != targets(attack, info)[labels]).astype(np.int64)


def select_cover(
    attack: Attack, info: DatasetInfo, indices: np.ndarray, count: int, seed: int, dataset: Part
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the covers: images that the attack changes but that keep their labels.

    Args:
        attack: the attack; its ``cover_count(info)`` is the number of covers.
        info: sizes and classes of the data set.
        indices: int64 (P,), positions of the poisoned images, which cannot be covers.
        count: number of training images.
        seed: the cell's seed.
        dataset: the data set, which enters the seed.

    Returns:
        Positions of the covers, int64 (K,), ascending, and of their partners, int64 (K,): each cover may carry the
        trigger of its partner, which is a different image.

    Raises:
        Impossible: too few images are left for the covers.
    """
    covers = attack.cover_count(info._replace(train=count))
    rest = np.setdiff1d(np.arange(count), indices)
    if covers > len(rest):
        raise Impossible(f"{counted(covers, 'cover image')} requested but only {len(rest)} of {count} are not poisoned")
    rng = np.random.default_rng(seed_for("cover", dataset.spec(), attack.name, seed))
    chosen = np.sort(rng.permutation(rest)[:covers]).astype(np.int64)
    return chosen, (chosen + rng.integers(1, max(2, count), len(chosen))) % count
