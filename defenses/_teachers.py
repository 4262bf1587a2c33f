"""LfD's teachers: how long they train, which of several is used, and what a defender sees of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchbd import UsageError

if TYPE_CHECKING:
    from benchbd import TrainedModel, TrainSet, Workbench

CHANCE = 0.01
"""Share of the labels' entropy that a teacher must have learnt; otherwise it counts as being at chance level."""

READY = 0.23
"""Share of the labels' entropy that a teacher must have learnt; otherwise it looks unready.

Measured on ResNet-S, all of CIFAR-10 and BN-G at 10 %, whose labels have an entropy of 2.27, and on nothing else:
teachers that told poison from clean images had a mean loss of at most 1.70 (25 % learnt), the blind ones of at least
1.78 (21 %).
"""


def epochs_of(steps: int, samples: int, batch_size: int) -> int:
    """The fewest whole epochs that make at least ``steps`` optimisation steps.

    A last batch of one sample joins the one before it, since batch norm cannot normalise it.
    """
    return max(1, math.ceil(steps / max(1, math.ceil((samples - 1) / batch_size))))


def label_entropy(labels: np.ndarray) -> float:
    """Entropy in nats of labels int (N,): the lowest mean cross-entropy of a constant prediction."""
    shares = np.bincount(labels) / len(labels)
    shares = shares[shares > 0]
    return float(-(shares * np.log(shares)).sum())


def learnt(mean_loss: float, labels: np.ndarray) -> float:
    """Share of the labels' entropy that a teacher with this mean loss has learnt; 0 for NaN and for a single label."""
    entropy = label_entropy(labels)
    return 1.0 - mean_loss / entropy if entropy > 0 and math.isfinite(mean_loss) else 0.0


def at_chance(losses: np.ndarray, labels: np.ndarray) -> bool:
    """Whether a teacher has learnt no more than the frequency of each label.

    A constant prediction cannot have a mean cross-entropy below the entropy of the labels, and a network whose ReLUs
    are dead predicts a constant.

    Args:
        losses: float64 (N,), the teacher's cross-entropies.
        labels: int64 (N,).
    """
    return not losses.mean() < (1 - CHANCE) * label_entropy(labels)


def best(means: Sequence[float]) -> int:
    """Position of the lowest finite mean loss, the first if several are equal; 0 if none is finite."""
    return int(np.argmin(np.where(np.isfinite(means), means, np.inf)))


def compared(means: Sequence[float], labels: np.ndarray) -> dict[str, Any]:
    """What the record says of several teachers.

    Args:
        means: each teacher's mean loss.
        labels: int64 (N,).

    Returns:
        ``loss_means``, the position ``chosen``, each teacher's loss minus the chosen one's (``behind``), the largest
        loss minus the smallest (``spread``), and the share of the labels' entropy that the chosen one has ``learnt``. A
        loss that is not finite is None.
    """
    chosen = best(means)
    finite = [mean for mean in means if math.isfinite(mean)]
    return {
        "loss_means": [mean if math.isfinite(mean) else None for mean in means],
        "chosen": chosen,
        "behind": [mean - means[chosen] if math.isfinite(mean) else None for mean in means],
        "spread": max(finite) - min(finite) if finite else None,
        "learnt": learnt(means[chosen], labels),
    }


def unready(who: str, means: Sequence[float], labels: np.ndarray) -> str | None:
    """A warning if even the teacher with the lowest mean loss has learnt less than :data:`READY`; None otherwise.

    A teacher that has not learnt the poison yet looks like that, and so may any teacher of a set without poison.
    """
    lowest = means[best(means)]
    if learnt(lowest, labels) >= READY:
        return None
    looks = "the teacher looks" if len(means) == 1 else f"the best of {len(means)} teachers looks"
    share, entropy = learnt(lowest, labels), label_entropy(labels)
    return (
        f"{who}: {looks} unready: its mean loss of {lowest:.2f} is {share:.0%} below the labels' entropy "
        f"of {entropy:.2f}; teachers that had learnt BN-G were {READY:.0%} or more below it"
    )


def train_teachers(
    bench: Workbench, data: TrainSet, model: str, repeats: range, recipe: Mapping[str, Any]
) -> list[TrainedModel]:
    """Teachers of one model on a set, one for each repeat: packed, or one by one if it cannot be packed."""
    try:
        return bench.train_packed(data, repeats=repeats, model=model, **recipe)
    except UsageError:  # a mistake in the arguments shows again below
        return [
            bench.train(data, kind="teacher", name="teacher", model=model, repeat=repeat, **recipe)
            for repeat in repeats
        ]
