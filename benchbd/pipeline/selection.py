"""Which training images an attack changes: drawn from (data set, attack, seed) and nothing else."""

from __future__ import annotations

import numpy as np

from benchbd.core.images import DatasetInfo
from benchbd.core.seeding import seed_for
from benchbd.errors import Impossible, UsageError
from benchbd.plugins.contract import Attack
from benchbd.plugins.part import Part


def targets(attack: Attack, info: DatasetInfo) -> np.ndarray:
    """The class that images of each class are to be taken for, int64 (classes,): what ``Attack.target_of`` says.

    Raises:
        UsageError: that is no class.
    """
    found = [attack.target_of(label, info) for label in range(info.classes)]
    for label, target in enumerate(found):
        if target not in range(info.classes):
            said = f"target_of({label}) is {target!r}"
            raise UsageError(f"attack {attack.name!r}: {said}, classes are 0..{info.classes - 1}")
    return np.array(found, np.int64)


def select_poison(attack: Attack, info: DatasetInfo, labels: np.ndarray, seed: int, dataset: Part) -> np.ndarray:
    """Choose the images to poison.

    Args:
        attack: whose budget counts.
        info: of the data set.
        labels: int64 (N,) true labels.
        seed: the cell's seed; with data set and attack it fixes the draw.
        dataset: for the seed.

    Returns:
        int64 (P,), ascending.

    Raises:
        Impossible: the budget cannot be met on the data as found.
    """
    counts = tuple(int(c) for c in np.bincount(labels, minlength=info.classes))
    budget = attack.budget(info._replace(train=len(labels)), counts)
    if budget is None:
        raise Impossible("the budget cannot be worked out from the data found")
    wanted = targets(attack, info)[labels]
    if attack.clean_label:
        pool = np.flatnonzero(labels == wanted)
    elif attack.pool == "non-target":
        pool = np.flatnonzero(labels != wanted)
    else:
        pool = np.arange(len(labels))
    rng = np.random.default_rng(seed_for("poison", dataset.spec(), attack.name, seed))
    return np.sort(rng.permutation(pool)[: budget.count]).astype(np.int64)


def select_cover(
    attack: Attack, info: DatasetInfo, indices: np.ndarray, count: int, seed: int, dataset: Part
) -> tuple[np.ndarray, np.ndarray]:
    """Choose the images that carry a trigger made for another image and keep their label, for attacks that have such.

    Args:
        attack: its ``cover_count(info)`` says how many.
        info: of the data set.
        indices: int64 (P,), the poisoned images; covers are others.
        count: number of training images.
        seed: the cell's seed.
        dataset: for the seed.

    Returns:
        int64 (K,) ascending, and int64 (K,): for each the image whose trigger it carries, never itself.
    """
    many = attack.cover_count(info._replace(train=count))
    rest = np.setdiff1d(np.arange(count), indices)
    if many > len(rest):
        raise Impossible(f"{many} cover images wanted but only {len(rest)} of {count} are not poisoned")
    rng = np.random.default_rng(seed_for("cover", dataset.spec(), attack.name, seed))
    chosen = np.sort(rng.permutation(rest)[:many]).astype(np.int64)
    return chosen, (chosen + rng.integers(1, max(2, count), len(chosen))) % count
