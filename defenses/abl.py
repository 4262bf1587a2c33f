"""Anti-Backdoor Learning: isolate the samples learnt first, train on, then unlearn the isolated samples."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from benchbd import Attack, DatasetInfo, Defense, Diverged, Impossible, Training, UsageError, Work, defense

if TYPE_CHECKING:
    import torch

    from benchbd import Lab, Recipe, TrainedModel
    from benchbd.engine import Loss

EXPLODED = 1e4
"""Mean cross-entropy of the isolated samples in one epoch, above which the ascent counts as exploded.

The aim of unlearning is a large loss, so tens or hundreds are not an error, and a model that loses its clean accuracy
on the way is a result to show. At 10,000 nats the logits are a thousand times those of any trained classifier: the
ascent is out of control and only the number format still limits it.
"""


@dataclasses.dataclass(frozen=True)
class LocalGradientAscent:
    """LGA: descend while the loss is above ``gamma`` and ascend while it is below, so that easy samples stand out.

    The value is the mean of ``sign(loss - gamma) * loss``, where loss is the batch mean, as in the authors' code, or
    the loss of each sample.
    """

    gamma: float
    level: Literal["batch", "sample"] = "batch"

    def __call__(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """``losses`` and ``weights`` (B,) -> scalar."""
        loss = losses * weights
        loss = loss.mean() if self.level == "batch" else loss
        return ((loss - self.gamma).sign() * loss).mean()


@dataclasses.dataclass(frozen=True)
class Flooding:
    """Flooding keeps the loss near ``gamma``: ``|loss - gamma| + gamma``, of the batch mean or of each sample.

    Its gradient equals LGA's, so both train the same network. Only the value of the loss differs.
    """

    gamma: float
    level: Literal["batch", "sample"] = "batch"

    def __call__(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """``losses`` and ``weights`` (B,) -> scalar."""
        loss = losses * weights
        loss = loss.mean() if self.level == "batch" else loss
        return ((loss - self.gamma).abs() + self.gamma).mean()


@dataclasses.dataclass(frozen=True)
class GlobalGradientAscent:
    """GGA on the isolated samples: the negative mean loss."""

    def __call__(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """``losses`` and ``weights`` (B,) -> scalar."""
        return -(losses * weights).mean()


def isolate(losses: np.ndarray, ratio: float) -> np.ndarray:
    """Positions of the floor(N ratio) lowest losses, int64, lowest first; ties go by position."""
    return np.argsort(losses, kind="stable")[: int(len(losses) * ratio)]


@defense("abl", version=2)
class Abl(Defense):
    """ABL (2021): isolate the 1 % easiest samples of a short training, train on the rest, unlearn them by ascent."""

    smoke: ClassVar[dict[str, Any]] = {"turning_epochs": 1, "finetune_epochs": 1, "unlearn_epochs": 1}

    loss: Literal["lga", "flooding"] = "lga"
    """Loss of the isolation stage: local gradient ascent as published, or flooding as in the authors' code. Their
    gradients are equal."""
    gamma: float = 0.5
    """Loss below which the isolation stage ascends."""
    sign_level: Literal["batch", "sample"] = "batch"
    """Whether the batch mean or each sample decides between descent and ascent; per sample is a different method."""
    turning_epochs: int = 20
    """Epochs of the isolation stage, without augmentation."""
    ratio: float = 0.01
    """Share of the training set to isolate, in (0, 1)."""
    finetune_epochs: int = 60
    """Epochs of ordinary training after isolation."""
    finetune_data: Literal["rest", "all"] = "rest"
    """Data of this training: the samples that are not isolated (the authors' code), or all of them (LfD's text)."""
    unlearn_steps: int = 80
    """Fewest steps of ascent on the isolated samples, rounded up to whole epochs. 80 are the 20 published epochs on
    CIFAR-10, where 500 samples are isolated; a small set has a single step an epoch."""
    unlearn_epochs: int | None = None
    """Epochs of ascent, instead of unlearn_steps. The paper has 20."""
    lr: float = 0.1
    """Learning rate of isolation, and of fine-tuning unless finetune_lr is set. GTSRB: 0.01."""
    finetune_lr: float | None = None
    """Learning rate of fine-tuning; it falls to a tenth for the last third of the epochs."""
    unlearn_lr: float = 1e-4
    """Learning rate of unlearning."""
    bn_mode: Literal["train", "eval"] = "train"
    """Batch norm during unlearning: statistics of the isolated batches (the authors' code), or frozen ones."""

    def __post_init__(self) -> None:
        if not 0.0 < self.ratio < 1.0:
            raise UsageError(f"abl: ratio is a share in (0, 1), such as 0.01, not {self.ratio:g}")
        if self.turning_epochs < 1 or min(self.finetune_epochs, self.unlearn_steps, self.unlearn_epochs or 0) < 0:
            counts = "finetune_epochs, unlearn_steps and unlearn_epochs"
            raise UsageError(f"abl: turning_epochs must be 1 or more, {counts} 0 or more")
        if min(self.lr, self._finetune_lr(), self.unlearn_lr) <= 0:
            raise UsageError("abl: learning rates must be positive")

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that isolation finds at least one sample."""
        if int(info.train * self.ratio) < 1:
            raise Impossible(f"abl: ratio {self.ratio:g} of {info.train} images isolates none of them")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The three stages: isolation and unlearning are short, and the one between them is the full training."""
        first = ("abl", self.loss, self.gamma, self.sign_level, self.turning_epochs, self.lr)
        left_out = self.ratio if self.finetune_data == "rest" else 0.0
        second = (*first, left_out, self.finetune_epochs, self._finetune_lr())
        ascent = ("steps", self.unlearn_steps) if self.unlearn_epochs is None else ("epochs", self.unlearn_epochs)
        third = (*second, self.ratio, *ascent, self.unlearn_lr, self.bn_mode)
        return (
            Training("fine-tune", first),
            *([Training("full", second)] if self.finetune_epochs else []),
            *([Training("fine-tune", third)] if ascent[1] else []),
        )

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """Each stage has epochs of its own; the last sees the isolated samples only."""
        last = self._ascent(int(info.train * self.ratio), recipe.batch_size)
        every = (self.turning_epochs, self.finetune_epochs, last * self.ratio)
        return tuple(Work(epochs * info.train) for epochs in every if epochs)

    def train(self, lab: Lab) -> TrainedModel:
        """Isolate, train on, unlearn.

        Every stage has its own SGD settings. Batch size and augmentation are the base recipe's.

        Raises:
            Diverged: a loss became infinite (the engine says in which epoch), or the ascent exploded.
        """
        n = len(lab.poisoned)
        sgd: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
        lga = self.loss == "lga"
        hold: Loss = (LocalGradientAscent if lga else Flooding)(self.gamma, self.sign_level)

        model = lab.train(
            lab.poisoned, kind="fine-tune", name="isolation", trace=True, loss=hold,
            epochs=self.turning_epochs, lr=self.lr, schedule="constant", augment=(), **sgd,
        )  # fmt: skip
        losses = lab.losses(model, lab.poisoned)
        isolated = isolate(losses, self.ratio)
        lab.suspect(-losses, isolated)
        facts: dict[str, Any] = {
            "isolation_losses": model.epoch_losses,
            "isolated_per_class": np.bincount(lab.poisoned.labels.numpy()[isolated], minlength=lab.classes).tolist(),
        }
        lab.note("abl", facts)

        if self.finetune_epochs:
            rest = lab.poisoned.subset(np.setdiff1d(np.arange(n), isolated))
            model = lab.train(
                rest if self.finetune_data == "rest" else lab.poisoned, name="fine-tuning", trace=True, start=model,
                epochs=self.finetune_epochs, lr=self._finetune_lr(),
                schedule="steps", milestones=(round(self.finetune_epochs * 2 / 3),), decay=0.1, **sgd,
            )  # fmt: skip
            facts["finetuning_losses"] = model.epoch_losses
            lab.note("abl", facts)

        ascent = self._ascent(len(isolated), lab.recipe.batch_size)
        if ascent:
            model = lab.train(
                lab.poisoned.subset(isolated), kind="fine-tune", name="unlearning", trace=True, start=model,
                loss=GlobalGradientAscent(), bn=self.bn_mode,
                epochs=ascent, lr=self.unlearn_lr, schedule="constant", augment=(), **sgd,
            )  # fmt: skip
            facts["unlearning_losses"] = model.epoch_losses
            lab.note("abl", facts)
        for epoch, loss in enumerate(facts.get("unlearning_losses", ()), start=1):
            if loss > EXPLODED:
                raise Diverged(
                    f"abl: unlearning exploded in epoch {epoch} of {ascent}: "
                    f"mean cross-entropy {loss:.3g} on the isolated samples"
                )
        return model

    def _ascent(self, isolated: int, batch_size: int) -> int:
        """Epochs of ascent on this number of isolated samples."""
        if self.unlearn_epochs is not None:
            return self.unlearn_epochs
        # A last batch of one sample joins the one before it, since batch norm cannot normalise it.
        return math.ceil(self.unlearn_steps / max(1, math.ceil((isolated - 1) / batch_size)))

    def _finetune_lr(self) -> float:
        return self.lr if self.finetune_lr is None else self.finetune_lr
