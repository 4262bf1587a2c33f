"""Baseline: strong augmentation and no other idea."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from benchbd import Attack, Defense, Training, UsageError, defense

if TYPE_CHECKING:
    from torch import Tensor

    from benchbd import Lab, TrainedModel
    from benchbd.engine import LoopContext

CUTMIX_SHARE = 0.5
"""Share of the batches that CutMix mixes; the other batches stay as they are."""


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of an image, ends excluded."""

    top: int
    bottom: int
    left: int
    right: int


def box(size: int, share: float, row: int, column: int) -> Box:
    """The square around a pixel that covers ``1 - share`` of an image; what sticks out is cut off.

    Args:
        size: side of the image in pixels.
        share: share of the image to keep, in [0, 1].
        row: row of the centre.
        column: column of the centre.
    """
    half = int(size * np.sqrt(1 - share)) // 2
    return Box(max(0, row - half), min(size, row + half), max(0, column - half), min(size, column + half))


def cut_and_pasted(x01: Tensor, others: Tensor, where: Box) -> tuple[Tensor, float]:
    """Images (B, 3, S, S) with a box from other images (B, 3, S, S), and the share that is left of the first."""
    out = x01.clone()
    top, bottom, left, right = where
    out[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return out, 1 - (bottom - top) * (right - left) / x01.shape[-1] ** 2


@dataclasses.dataclass(frozen=True)
class Mixing:
    """Trains on mixtures of two images of a batch; the loss is that of both labels, weighted by the shares."""

    policy: Literal["cutmix", "mixup"]
    alpha: float

    def epoch(self, loop: LoopContext) -> None:
        """Train on every image once."""
        import torch
        from torch.nn import functional as F

        rng = np.random.default_rng(loop.seed_for("mixing"))
        smoothing = loop.recipe.label_smoothing
        for rows in loop.batches():
            x01, labels = loop.views(rows), loop.labels[rows[:, 0]]
            order = torch.from_numpy(rng.permutation(len(rows))).to(loop.device)
            share = float(rng.beta(self.alpha, self.alpha))
            row, column = (int(place) for place in rng.integers(0, x01.shape[-1], 2))
            if self.policy == "mixup":
                x01 = share * x01 + (1 - share) * x01[order]
            elif rng.random() < CUTMIX_SHARE:
                x01, share = cut_and_pasted(x01, x01[order], box(x01.shape[-1], share, row, column))
            else:
                share = 1.0
            with loop.autocast():
                logits = loop.net(x01)
            own, other = (
                F.cross_entropy(logits, given, label_smoothing=smoothing) for given in (labels, labels[order])
            )
            loop.step(share * own + (1 - share) * other)


@defense("augment", version=1)
class Augment(Defense):
    """Baseline: CutMix, mixup or Cutout on top of the base recipe. A defense that claims more should beat it.

    Source: Borgnia et al. 2021 ("Strong data augmentation sanitizes poisoning and backdoor attacks"), who compare these
    three; each is as published (Yun et al. 2019, Zhang et al. 2018, DeVries and Taylor 2017). Cost: one full training.
    Their MaxUp is left out, which trains on the worst of several views.
    """

    policy: Literal["cutmix", "mixup", "cutout"] = "cutmix"
    """cutmix: half of the batches get boxes from other images; mixup: every image is mixed with another; cutout: a grey
    square of half the side (16 pixels of 32)."""
    alpha: float = 1.0
    """cutmix, mixup: both parameters of the beta distribution from which a batch's share is drawn."""

    def __post_init__(self) -> None:
        if self.alpha <= 0:
            raise UsageError(f"augment: alpha must be above 0, not {self.alpha:g}")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """One full training; cutout has no alpha."""
        return (Training("full", ("augment", self.policy, None if self.policy == "cutout" else self.alpha)),)

    def train(self, lab: Lab) -> TrainedModel:
        """Train once on the whole set."""
        if self.policy == "cutout":
            return lab.train(lab.poisoned, augment=tuple(dict.fromkeys((*lab.recipe.augment, "cutout"))))
        return lab.train(lab.poisoned, training_loop=Mixing(self.policy, self.alpha))
