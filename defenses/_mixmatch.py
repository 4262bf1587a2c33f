"""MixMatch (Berthelot et al., NeurIPS 2019): training on labelled and unlabelled images at once, for DBD and ASD.

Guessed labels and mixed images go through the network in one pass each, so that batch norm sees labelled and unlabelled
images together; the original reaches the same by interleaving batches.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from benchbd import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from benchbd.engine import LoopContext


@dataclasses.dataclass(frozen=True)
class MixMatch:
    """Settings of MixMatch; the defaults are those that DBD's and ASD's code share."""

    iterations: int = 1024
    """Steps of an epoch."""
    temperature: float = 0.5
    """Of the sharpening of guessed labels."""
    alpha: float = 0.75
    """Both parameters of the beta distribution that images are mixed by."""
    weight: float = 15.0
    """Of the unlabelled images' loss, once it has grown up."""
    rampup: int = 190
    """Epochs over which that weight grows from 0; 0 for at once."""

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.temperature <= 0 or self.alpha <= 0 or self.weight < 0 or self.rampup < 0:
            raise UsageError(
                "mixmatch: iterations must be 1 or more, temperature and alpha above 0, weight and rampup 0 or more"
            )

    def weight_at(self, epochs: float) -> float:
        """The unlabelled images' weight after so many epochs."""
        return self.weight * (min(1.0, epochs / self.rampup) if self.rampup else 1.0)


def sharpened(probabilities: Tensor, temperature: float) -> Tensor:
    """(B, C) raised to the power of 1 / temperature, each row scaled to a sum of 1."""
    powers = probabilities ** (1 / temperature)
    return powers / powers.sum(1, keepdim=True)


def guessed(logits: Tensor, temperature: float) -> Tensor:
    """Labels (B, C) for images of which two views gave logits (2 B, C), first all first ones: the sharpened mean."""
    first, second = logits.softmax(1).chunk(2)
    return sharpened((first + second) / 2, temperature)


def mixed(values: Tensor, order: Tensor, share: float) -> Tensor:
    """Each row with another one: ``share`` of itself and the rest of the row that ``order`` int64 (N,) names."""
    return share * values + (1 - share) * values[order]


def mixing_share(rng: np.random.Generator, alpha: float) -> float:
    """A draw of beta(alpha, alpha), turned so that it is 1/2 at least: a mixed image is nearer to its own label."""
    drawn = float(rng.beta(alpha, alpha))
    return max(drawn, 1 - drawn)


def losses(logits: Tensor, targets: Tensor, labelled: int) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the first ``labelled`` rows, and squared distance of the others' probabilities to the target.

    Args:
        logits: float32 (N, C).
        targets: float32 (N, C), rows of sum 1.
        labelled: how many rows are labelled ones.

    Returns:
        Two means: over images, and over images and classes.
    """
    near = -(logits[:labelled].log_softmax(1) * targets[:labelled]).sum(1).mean()
    far = (logits[labelled:].softmax(1) - targets[labelled:]).square().mean()
    return near, far


def passes(positions: Tensor, size: int, steps: int, seed: int) -> Tensor:
    """Batches int64 (steps, size) of positions int64 (M,) on the CPU: shuffled over and over, remainders left out."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    each = len(positions) // size
    rounds = [
        positions[torch.randperm(len(positions), generator=generator)[: each * size]].view(each, size)
        for _ in range(-(-steps // each))
    ]
    return torch.cat(rounds)[:steps]


def train_epoch(loop: LoopContext, labelled: Tensor, unlabelled: Tensor, how: MixMatch, before: int = 0) -> None:
    """One epoch of MixMatch.

    Args:
        run: the training.
        labelled: int64 (L,), positions in the set whose labels are believed.
        unlabelled: int64 (U,), positions whose labels are not looked at.
        how: settings.
        before: epochs that the ramp counts as done before this training.
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
