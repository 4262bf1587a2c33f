"""D-BR: poisoned samples have features that change most under transformations; unlearn these, relearn the steadiest."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchbd import UNDEFENDED, Attack, DatasetInfo, Defense, Diverged, Impossible, Training, UsageError, Work, defense
from benchbd.defenses._rotation import rotated

if TYPE_CHECKING:
    from torch import Tensor

    from benchbd import Lab, Recipe, TrainedModel
    from benchbd.engine import LoopContext

SHIFT = 0.2
"""Largest shift of an image, as a share of its side."""
CHUNK = 4096
"""Images that are transformed at once."""


def transformed(images: Tensor, seed: int) -> Tensor:
    """Images uint8 (N, 3, S, S), each turned by any angle, then shifted, with nearest pixels and zeros from outside."""
    import torch
    from torch.nn import functional as F

    size, pad = images.shape[-1], round(SHIFT * images.shape[-1])
    u = torch.rand(len(images), 3, generator=torch.Generator().manual_seed(seed))
    places = pad - ((2 * u[:, 1:] - 1) * SHIFT * size).round().long()
    found = []
    for start in range(0, len(images), CHUNK):
        part = slice(start, start + CHUNK)
        turned = rotated(images[part].float(), (2 * u[part, 0] - 1) * 180)
        windows = F.pad(turned, (pad,) * 4).unfold(2, size, 1).unfold(3, size, 1)
        found.append(windows[torch.arange(len(turned)), :, places[part, 0], places[part, 1]].to(torch.uint8))
    return torch.cat(found)


def similarity_of_classes(features: Tensor, labels: Tensor) -> Tensor:
    """Mean cosine between the mean features of a batch's classes, a class's cosine with itself counted as 0.

    Args:
        features: float32 (B, D).
        labels: int64 (B,).
    """
    import torch
    from torch.nn import functional as F

    present = torch.unique(labels)
    members = (labels.unsqueeze(0) == present.unsqueeze(1)).float()
    centres = F.normalize(members @ features / members.sum(1, keepdim=True), dim=1)
    cosines = centres @ centres.T
    return cosines.masked_fill(torch.eye(len(present), dtype=torch.bool, device=cosines.device), 0.0).mean()


@dataclasses.dataclass(frozen=True)
class ClassesApart:
    """Moves the mean features of different classes apart; the head is not trained."""

    def epoch(self, loop: LoopContext) -> None:
        """Train on every image once."""
        for rows in loop.batches():
            with loop.autocast():
                features = loop.net.features(loop.views(rows))
            loop.step(similarity_of_classes(features, loop.labels[rows[:, 0]]))


@dataclasses.dataclass(frozen=True)
class UnlearnRelearn:
    """Every epoch ascends on the first samples of the set, then descends on the others."""

    poison: int
    """Number of samples to unlearn."""

    def epoch(self, loop: LoopContext) -> None:
        """Go through both parts once."""
        import torch
        from torch.nn import functional as F

        parts = (-1, torch.arange(self.poison)), (1, torch.arange(self.poison, len(loop.images)))
        for sign, positions in parts:
            generator = torch.Generator().manual_seed(loop.seed_for("order", sign))
            order = positions[torch.randperm(len(positions), generator=generator)]
            for step, picks in enumerate(order.split(loop.recipe.batch_size)):
                if len(picks) == 1 < len(order):  # batch norm needs two
                    continue
                rows = loop.rows(picks, sign, step)
                with loop.autocast():
                    logits = loop.net(loop.views(rows))
                loop.step(sign * F.cross_entropy(logits, loop.labels[rows[:, 0]]))


@defense("d-br", version=1)
class DBr(Defense):
    """D-BR (2022): find poison by how much its features change when images are turned; unlearn it, relearn the rest.

    Source: Chen et al., NeurIPS 2022, and the authors' code. Cost: one full training, which is the undefended model's,
    and 17 epochs: 12 on the whole set and 20 on a quarter of it. These are 1.1 full trainings of their 200 epochs, 1.2
    of 80. Differences from their code:

    - The backdoored model is the undefended one of the row, trained with the base recipe.
    - That model and the second stage have the base recipe's augmentation. Theirs has crops from 4 pixels of zeros and
      flips; on GTSRB, the second stage has no flips.
    - The result is the model after the last epoch (theirs: the epoch with the best difference of CA and ASR in test).
    - Thresholds and selection use the same random transformations (theirs: new ones for the selection).
    - The second stage starts with new momentum and at the initial learning rate (theirs goes on).
    - Their other method, D-ST, is left out.
    """

    smoke: ClassVar[dict[str, Any]] = {"first_epochs": 1, "apart_epochs": 1, "unlearn_epochs": 1}

    first_epochs: int = 2
    """Epochs of the network that gives the features, without augmentation."""
    apart_epochs: int = 10
    """Epochs in which it moves the classes apart."""
    clean_ratio: float = 0.2
    """Share of the set to relearn, that whose features change least, in (0, 1)."""
    poison_ratio: float = 0.05
    """Share of the set to unlearn, that whose features change most, in (0, 1)."""
    unlearn_epochs: int = 20
    """Epochs of unlearning and relearning."""
    lr: float = 0.01
    """Initial learning rate of the network that gives the features, a cosine over 100 epochs that stops early."""
    unlearn_lr: float = 1e-4
    """Learning rate of unlearning and relearning."""
    batch: int = 128
    """Images in a batch of all these stages."""

    def __post_init__(self) -> None:
        if min(self.clean_ratio, self.poison_ratio) <= 0.0 or self.clean_ratio + self.poison_ratio >= 1.0:
            raise UsageError("d-br: clean_ratio and poison_ratio are shares above 0 that sum to less than 1")
        if min(self.first_epochs, self.apart_epochs, self.unlearn_epochs) < 1 or self.batch < 2:
            raise UsageError("d-br: first_epochs, apart_epochs and unlearn_epochs must be 1 or more, batch 2 or more")
        if min(self.lr, self.unlearn_lr) <= 0:
            raise UsageError("d-br: learning rates must be positive")

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that there is something to unlearn and to relearn."""
        if int(info.train * min(self.clean_ratio, self.poison_ratio)) < 2:
            raise Impossible(f"d-br: a share of {info.train} images to unlearn or relearn is under two of them")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """Three short ones, and the undefended model, which ``none`` shares."""
        first = ("d-br", self.first_epochs, self.lr, self.batch)
        second = (*first, self.apart_epochs)
        third = (*second, self.clean_ratio, self.poison_ratio, self.unlearn_epochs, self.unlearn_lr)
        return (
            *(Training("fine-tune", shared) for shared in (first, second)),
            UNDEFENDED,
            Training("fine-tune", third),
        )

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """Each stage has epochs of its own; the last sees the samples to unlearn and to relearn only."""
        last = self.unlearn_epochs * (self.clean_ratio + self.poison_ratio)
        every = (self.first_epochs, self.apart_epochs, recipe.epochs, last)
        return tuple(Work(epochs * info.train) for epochs in every)

    def train(self, lab: Lab) -> TrainedModel:
        """Find the steadiest and the least steady samples, then unlearn and relearn.

        Raises:
            Diverged: the features of all samples, or of nearly all, change alike.
        """
        data = lab.poisoned
        sgd: dict[str, Any] = {
            "optimizer": "sgd", "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4, "batch_size": self.batch,
        }  # fmt: skip
        early: dict[str, Any] = {
            "kind": "fine-tune",
            "lr": self.lr,
            "schedule": "cosine",
            "horizon": 100,
            "augment": (),
        }
        first = lab.train(data, name="features", epochs=self.first_epochs, **early, **sgd)
        apart = lab.train(
            data,
            name="classes apart",
            start=first,
            training_loop=ClassesApart(),
            epochs=self.apart_epochs,
            **early,
            **sgd,
        )
        turned = data.replace(images=transformed(data.images, lab.seed_for("d-br transformations")))
        scores = np.square(lab.features(apart, data) - lab.features(apart, turned)).mean(1, dtype=np.float64)
        ordered = np.sort(scores)
        poison = scores >= ordered[len(ordered) - int(self.poison_ratio * len(ordered))]
        clean = (scores <= ordered[int(self.clean_ratio * len(ordered))]) & ~poison
        if np.isfinite(scores).all() and not clean.any():
            raise Diverged("d-br: the features of too many samples change alike, so none can be relearnt")
        lab.suspect(scores, poison)
        labels = data.labels.numpy()
        lab.note(
            "d-br",
            {
                "unlearnt_per_class": np.bincount(labels[poison], minlength=lab.classes).tolist(),
                "relearnt_per_class": np.bincount(labels[clean], minlength=lab.classes).tolist(),
            },
        )
        model = lab.train(data)
        both = np.concatenate([np.flatnonzero(poison), np.flatnonzero(clean)])
        return lab.train(
            data.subset(both), kind="fine-tune", name="unlearning", start=model,
            training_loop=UnlearnRelearn(int(poison.sum())), epochs=self.unlearn_epochs, lr=self.unlearn_lr,
            schedule="constant", **sgd,
        )  # fmt: skip
