"""MixMatch (Berthelot et al., NeurIPS 2019): training on labelled and unlabelled images together, for DBD and ASD.

One forward pass guesses the labels and one handles all mixed images, so that batch norm sees labelled and unlabelled
images together. The original interleaves batches for the same purpose.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from benchbd import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from benchbd.engine import LoopContext


OWN_AUGMENT = ("crop4_reflect", "hflip")
"""The augmentation of DBD's and ASD's code on CIFAR-10: crops from 4 pixels of reflection, then flips."""


@dataclasses.dataclass(frozen=True)
class MixMatch:
    """Settings of MixMatch; the defaults are those of both DBD's and ASD's code."""

    iterations: int = 1024
    """Steps of an epoch."""
    temperature: float = 0.5
    """Temperature that sharpens guessed labels."""
    alpha: float = 0.75
    """Both parameters of the beta distribution from which mixing shares are drawn."""
    weight: float = 15.0
    """Final weight of the unlabelled images' loss."""
    rampup: int = 190
    """Epochs over which that weight grows from 0; with 0 it has its final value from the start."""

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.temperature <= 0 or self.alpha <= 0 or self.weight < 0 or self.rampup < 0:
            raise UsageError(
                "mixmatch: iterations must be 1 or more, temperature and alpha above 0, weight and rampup 0 or more"
            )

    def weight_at(self, epochs: float) -> float:
        """Weight of the unlabelled images' loss after a number of epochs."""
        return self.weight * (min(1.0, epochs / self.rampup) if self.rampup else 1.0)


MOST_REPORTED = 500
"""A longer stage does not record its pools in every epoch."""


def reports_pool(epoch: int, epochs: int) -> bool:
    """Whether an epoch (from 0) of ``epochs`` records its pools: every ceil(epochs / 500)-th does, and the last."""
    return epoch % -(-epochs // MOST_REPORTED) == 0 or epoch == epochs - 1


def sharpened(probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities (B, C) raised to the power of 1 / temperature, each row scaled to a sum of 1."""
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum(1, keepdim=True)


def guessed(logits: Tensor, temperature: float) -> Tensor:
    """Guessed labels (B, C): the sharpened mean prediction for two views. logits: (2 B, C), all first views first."""
    first, second = logits.softmax(1).chunk(2)
    return sharpened((first + second) / 2, temperature)


def mixed(values: Tensor, order: Tensor, share: float) -> Tensor:
    """Mix rows (N, ...): row i becomes ``share`` of itself and ``1 - share`` of row ``order[i]``, order int64 (N,)."""
    return share * values + (1 - share) * values[order]


def mixing_share(rng: np.random.Generator, alpha: float) -> float:
    """A draw s from beta(alpha, alpha), as max(s, 1 - s): a mixed image then stays nearer to its own label."""
    drawn = float(rng.beta(alpha, alpha))
    return max(drawn, 1 - drawn)


def losses(logits: Tensor, targets: Tensor, labelled: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the first ``labelled`` rows, and squared error of the probabilities in the other rows.

    Args:
        logits: float32 (N, C).
        targets: float32 (N, C), with rows that sum to 1.
        labelled: number of labelled rows.

    Returns:
        The mean cross-entropy over images, and the mean squared error over images and classes.
    """
    near = -(logits[:labelled].log_softmax(1) * targets[:labelled]).sum(1).mean()
    far = (logits[labelled:].softmax(1) - targets[labelled:]).square().mean()
    return near, far


def passes(positions: Tensor, size: int, steps: int, seed: int) -> Tensor:
    """Batches int64 (steps, size) of positions int64 (M,), on the CPU: repeated shuffled passes without remainders."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    each = len(positions) // size
    rounds = [
        positions[torch.randperm(len(positions), generator=generator)[: each * size]].view(each, size)
        for _ in range(-(-steps // each))
    ]
    return torch.cat(rounds)[:steps]


def train_epoch(loop: LoopContext, labelled: Tensor, unlabelled: Tensor, how: MixMatch, before: int = 0) -> None:
    """Train for one epoch with MixMatch.

    Args:
        loop: the context of the training loop.
        labelled: int64 (L,), positions in the set whose labels are trusted.
        unlabelled: int64 (U,), positions whose labels are ignored.
        how: settings.
        before: epochs before this training that count for the growth of the unlabelled weight.
    """
    import torch
    from torch.nn import functional as F

    size = min(loop.recipe.batch_size, len(labelled), len(unlabelled))
    if size == 0:
        return
    ours = passes(labelled.cpu(), size, how.iterations, loop.seed_for("labelled"))
    others = passes(unlabelled.cpu(), size, how.iterations, loop.seed_for("unlabelled"))
    rng = np.random.default_rng(loop.seed_for("mixing"))
    for step in range(how.iterations):
        rows = loop.rows(torch.cat([ours[step], others[step], others[step]]), step)
        images = loop.views(rows)
        labels = F.one_hot(loop.labels[rows[:size, 0]], loop.net.head.out_features).float()
        with torch.no_grad(), loop.autocast():
            guesses = guessed(loop.net(images[size:]), how.temperature)
        order = torch.from_numpy(rng.permutation(len(images))).to(loop.device)
        share = mixing_share(rng, how.alpha)
        targets = mixed(torch.cat([labels, guesses, guesses]), order, share)
        with loop.autocast():
            logits = loop.net(mixed(images, order, share))
        near, far = losses(logits, targets, size)
        loop.step(near + how.weight_at(before + loop.epoch + step / how.iterations) * far)
