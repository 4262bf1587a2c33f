"""The training recipe, which every training follows unless a defense changes it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from benchbd.core import params
from benchbd.errors import UsageError, did_you_mean

AUGMENTATIONS = ("crop4", "hflip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser, schedule and augmentation of one training. Defaults: LfD section 5.1 (80 epochs of Adam, cosine)."""

    epochs: int = 80
    """Passes over the training set."""
    batch_size: int = 128
    """Images in a batch; the last batch of an epoch may be smaller."""
    optimizer: Literal["adam", "sgd"] = "adam"
    """Adam with betas (0.9, 0.999), or SGD with momentum."""
    lr: float = 1e-3
    """Learning rate at the start."""
    momentum: float = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Nesterov momentum of SGD."""
    weight_decay: float = 0.0
    """L2 penalty added to the gradients."""
    schedule: Literal["cosine", "constant", "steps"] = "cosine"
    """How the learning rate changes after each epoch."""
    horizon: int | None = None
    """Epochs until a cosine schedule reaches zero; the value of epochs if not given."""
    milestones: tuple[int, ...] = ()
    """Epochs at which a steps schedule multiplies the learning rate by decay."""
    decay: float = 0.1
    """Factor of a steps schedule."""
    augment: tuple[str, ...] = ("crop4", "hflip")
    """Augmentations of training images: crop4 (random crop, 4 pixels of zero padding), hflip."""
    bn: Literal["train", "eval"] = "train"
    """Batch norm layers use batch statistics (train) or stay frozen (eval)."""

    def __post_init__(self) -> None:
        for name in self.augment:
            if name not in AUGMENTATIONS:
                raise UsageError(f"recipe: augmentation {name!r} is unknown{did_you_mean(name, AUGMENTATIONS)}")
        wrong = [text for text, fine in self._rules() if not fine]
        if wrong:
            raise UsageError(f"recipe: {wrong[0]}")

    def _rules(self) -> list[tuple[str, bool]]:
        return [
            (f"epochs must be 0 or more, not {self.epochs}", self.epochs >= 0),
            (f"batch_size must be 1 or more, not {self.batch_size}", self.batch_size >= 1),
            (f"lr must be 0 or more, not {self.lr}", self.lr >= 0),
            (f"momentum must be in [0, 1), not {self.momentum}", 0 <= self.momentum < 1),
            ("nesterov needs a momentum above 0", not self.nesterov or self.momentum > 0),
            (f"weight_decay must be 0 or more, not {self.weight_decay}", self.weight_decay >= 0),
            (f"horizon must be 1 or more, not {self.horizon}", self.horizon is None or self.horizon >= 1),
            (f"milestones must be 0 or more, not {list(self.milestones)}", all(m >= 0 for m in self.milestones)),
            (f"decay must be above 0, not {self.decay}", self.decay > 0),
            ("augment names an augmentation twice", len(set(self.augment)) == len(self.augment)),
        ]

    @classmethod
    def parse(cls, given: dict[str, Any], where: str = "recipe") -> Recipe:
        """Make a recipe from the entries of a matrix file. Raises UsageError for unknown or ill-typed entries."""
        return cls(**params.resolve(cls, given, where))

    def but(self, **changes: Any) -> Recipe:
        """The same recipe with some entries changed; ``augment=False`` or None means no augmentation.

        Raises:
            UsageError: an entry is unknown or has the wrong type.
        """
        if "augment" in changes:
            changes["augment"] = changes["augment"] or ()
        return Recipe.parse({**self.spec(), **changes})

    def lr_at(self, epoch: int) -> float:
        """Learning rate during an epoch (0-based)."""
        if self.schedule == "cosine":
            span = self.horizon or self.epochs
            return 0.5 * self.lr * (1 + math.cos(math.pi * min(epoch, span) / span)) if span else self.lr
        if self.schedule == "steps":
            return self.lr * self.decay ** sum(epoch >= m for m in self.milestones)
        return self.lr

    def decisive(self) -> dict[str, Any]:
        """:meth:`spec` for the cache key of a training: a missing horizon becomes the number of epochs."""
        return {**self.spec(), "horizon": self.horizon or self.epochs}

    def spec(self) -> dict[str, Any]:
        """Every entry, as JSON types."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}
