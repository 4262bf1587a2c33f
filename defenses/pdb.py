"""PDB: plant a backdoor of one's own, reversible and stronger than the attacker's, and use it on every test image."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from benchbd import Attack, DatasetInfo, Defense, Impossible, Patch, TestTransform, UsageError, Work, defense
from benchbd.defenses._rotation import rotated

if TYPE_CHECKING:
    from torch import Tensor

    from benchbd import Lab, Recipe, TrainedModel
    from benchbd.engine import LoopContext

COPIES = 5
"""Copies of every defensive sample in the training set."""
DIMMED, DARKEST = 0.2, 0.5
"""Share of the defensive views that are dimmed, and the smallest factor."""
ROTATED, DEGREES = 0.5, 10
"""Share of the defensive views that are rotated, and the largest angle."""
PAD = 4
"""Zero pixels on each side of an image before it is cropped."""


def defensive_views(x01: Tensor, seed: int) -> Tensor:
    """Views of stamped images: some dimmed, some rotated, then cropped, and half of them mirrored.

    Args:
        x01: float32 (B, 3, S, S), stamped; values may lie outside [0, 1].
        seed: seed of all random numbers, which are drawn on the CPU.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    u = torch.rand(len(x01), 5, generator=generator).to(x01.device)
    places = torch.randint(0, 2 * PAD + 1, (2, len(x01)), generator=generator).to(x01.device)
    factor = torch.where(u[:, 0] < DIMMED, DARKEST + (1 - DARKEST) * u[:, 1], torch.ones_like(u[:, 1]))
    turned = rotated(x01 * factor.view(-1, 1, 1, 1), (2 * u[:, 3] - 1) * DEGREES * (u[:, 2] < ROTATED))
    crops = cropped(turned, places[0], places[1])
    return torch.where((u[:, 4] < 0.5).view(-1, 1, 1, 1), crops.flip(3), crops)


def cropped(x: Tensor, top: Tensor, left: Tensor) -> Tensor:
    """Images (B, 3, S, S) padded with :data:`PAD` zeros and cropped to their size at int64 (B,) places."""
    import torch
    from torch.nn import functional as F

    size = x.shape[-1]
    windows = F.pad(x, (PAD,) * 4).unfold(2, size, 1).unfold(3, size, 1)
    return windows[torch.arange(len(x), device=x.device), :, top, left]


@dataclasses.dataclass(frozen=True)
class Defensive:
    """Plain training on a set whose last samples are defensive: stamped first, then augmented in a way of their own."""

    stamp: Patch
    defensive: int
    """Number of defensive samples."""

    def epoch(self, loop: LoopContext) -> None:
        """Train on every image once."""
        from torch.nn import functional as F

        first = len(loop.images) - self.defensive
        for step, rows in enumerate(loop.batches()):
            x01, positions = loop.views(rows), rows[:, 0]
            ours = (positions >= first).nonzero().squeeze(1)
            if len(ours):
                stamped = self.stamp.on(loop.images[positions[ours]].float() / 255)
                x01[ours] = defensive_views(stamped, loop.seed_for("defensive", step))
            with loop.autocast():
                logits = loop.net(x01)
            loop.step(F.cross_entropy(logits, loop.labels[positions]))


@defense("pdb", version=1)
class Pdb(Defense):
    """PDB (2024): train on stamped clean images with shifted labels too; stamp every test image, undo the shift.

    Source: Wei et al., NeurIPS 2024, and the authors' code with its settings for CIFAR-10. Cost: about 1.5 full
    trainings, because the set grows by half. Differences from their code:

    - The other samples have the base recipe's augmentation (theirs: crops and flips).
    - The last batch of an epoch is kept even if it is smaller.
    - The clean images are chosen by their true class, those that the attack left alone first (theirs: by the label in
      the poisoned set).
    """

    needs: ClassVar[tuple[str, ...]] = ("clean",)
    test_transform: ClassVar[bool] = True
    smoke: ClassVar[dict[str, Any]] = {"epochs": 1}

    clean_frac: float = 0.1
    """Share of the clean training set that the defense gets, in (0, 1]."""
    side: int = 7
    """Side of the stamp in the top left corner, in pixels."""
    value: float = 2.0
    """Value of the stamp, in units of the image, whose pixels lie in [0, 1]."""
    shift: int = 1
    """A stamped image of class y has the label y + shift, modulo the number of classes."""
    epochs: int = 100
    """Epochs."""
    lr: float = 0.01
    """Initial learning rate of the cosine (SGD, momentum 0.9, weight decay 5e-4)."""
    batch: int = 256
    """Images in a batch."""

    def __post_init__(self) -> None:
        if not 0.0 < self.clean_frac <= 1.0:
            raise UsageError(f"pdb: clean_frac is a share in (0, 1], such as 0.1, not {self.clean_frac:g}")
        if min(self.side, self.epochs) < 1 or self.batch < 2 or self.lr <= 0:
            raise UsageError("pdb: side and epochs must be 1 or more, batch 2 or more, lr positive")

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that the stamp fits the images and the shift changes labels."""
        if self.side > info.size:
            raise Impossible(f"pdb: a stamp of {self.side} pixels does not fit into {info.size}x{info.size} images")
        if self.shift % info.classes == 0:
            raise Impossible(f"pdb: a shift by {self.shift} changes no label of {info.classes} classes")

    def clean_fraction(self) -> float:
        """The parameter ``clean_frac``."""
        return self.clean_frac

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """The set with the defensive samples, in each epoch."""
        return (Work(self.epochs * (1 + COPIES * self.clean_frac) * info.train),)

    def train(self, lab: Lab) -> TrainedModel:
        """Add the defensive samples, train; the returned model stamps what it sees and undoes the shift."""
        import torch

        label_map = tuple((label + self.shift) % lab.classes for label in range(lab.classes))
        stamp = Patch(0, 0, self.side, self.side, (self.value, self.value, self.value))
        defensive = COPIES * len(lab.clean)
        shifted = torch.tensor(label_map)[lab.clean.labels]
        data = lab.poisoned.replace(
            images=torch.cat([lab.poisoned.images, *[lab.clean.images] * COPIES]),
            labels=torch.cat([lab.poisoned.labels, *[shifted] * COPIES]),
        )
        model = lab.train(
            data, training_loop=Defensive(stamp, defensive), epochs=self.epochs, batch_size=self.batch,
            optimizer="sgd", lr=self.lr, momentum=0.9, nesterov=False, weight_decay=5e-4, schedule="cosine",
            horizon=self.epochs,
        )  # fmt: skip
        lab.note("pdb", {"clean_images": len(lab.clean), "defensive_samples": defensive})
        lab.trace("without the stamp", model)
        return lab.with_test_transform(model, TestTransform(stamp, label_map))
