"""CBD: a briefly trained network takes up the backdoor; its losses weight the samples of a second one."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchbd import Attack, DatasetInfo, Defense, Training, UsageError, Work, defense

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchbd import Lab, Recipe, TrainedModel
    from benchbd.engine import Classifier, LoopContext

TINY = 1e-8
"""Addend that keeps the quotient of losses finite."""


def deconfounded(biased: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    """Weights of a batch, L_b / (L_b + L_c), scaled to a mean of 1; no gradient flows through them.

    Args:
        biased: float32 (B,), cross-entropies of the biased network.
        losses: float32 (B,), cross-entropies of the network that is trained.
    """
    losses = losses.detach()
    weights = biased / (losses + biased + TINY)
    return weights * len(weights) / weights.sum().clamp(min=TINY)


@dataclasses.dataclass(frozen=True)
class BiasedLosses:
    """The weights that the loss gets are the biased network's losses themselves."""

    def __call__(self, losses: np.ndarray) -> np.ndarray:
        """Losses float32 (N,) -> the same."""
        return losses


@dataclasses.dataclass(frozen=True)
class Deconfounded:
    """The weighted batch mean, with the biased network's losses in place of weights."""

    def __call__(self, losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """``losses`` and ``weights`` (B,) -> scalar."""
        return (deconfounded(weights, losses) * losses).mean()


@dataclasses.dataclass(frozen=True)
class WithInformation:
    """The same training, which also makes the features independent of the biased network's.

    Every epoch goes through the set twice: first the critic learns to tell matching features from mismatched ones, then
    the network learns to classify and to deceive it.
    """

    names: tuple[str, ...]
    arrays: tuple[np.ndarray, ...]
    """State of the biased network."""

    def prepare(self, net: Classifier) -> nn.Module:
        """The biased network and the critic, which the recipe's optimiser does not train."""
        import torch

        from benchbd.defenses._information import Information

        state = {name: torch.from_numpy(np.array(a)) for name, a in zip(self.names, self.arrays, strict=True)}
        return Information(net, state)

    def epoch(self, loop: LoopContext) -> None:
        """Train the critic on every image once, then the network."""
        import torch
        from torch.nn import functional as F

        information: Any = loop.extra_module
        information.biased.eval()
        critic = information.optimizer(loop.epoch)
        for rows in loop.batches(turn=1):
            with torch.no_grad():
                x01 = loop.views(rows)
                with loop.autocast():
                    features = loop.net.features(x01)
                others = information.biased.features(x01)
            information.sharpen(critic, others, features)
        for rows in loop.batches():
            x01, labels = loop.views(rows), loop.labels[rows[:, 0]]
            with torch.no_grad():
                others = information.biased.features(x01)
                biased = F.cross_entropy(information.biased.head(others), labels, reduction="none")
            with loop.autocast():
                features = loop.net.features(x01)
            losses = F.cross_entropy(loop.net.head(features), labels, reduction="none")
            loop.step((deconfounded(biased, losses) * losses).mean() + information(others, features))


@defense("cbd", version=1)
class Cbd(Defense):
    """CBD (2023): weight samples by how badly a briefly trained, backdoored network knows them.

    Source: Zhang et al., CVPR 2023, and the authors' code. Their command leaves the information term out by default.
    Cost: about 1.4 full trainings (5 short epochs, then an additional forward pass per step), 2.1 with the information
    term. As in their code, both networks have initial weights and batch orders of their own. Differences from it:

    - The augmentation is the base recipe's (theirs: crops, flips, and Cutout of 2x2 pixels).
    - With another number of epochs, the learning rate falls at the same shares of the training, but never before the
      first epoch.
    """

    smoke: ClassVar[dict[str, Any]] = {"biased_epochs": 1, "epochs": 1}

    biased_epochs: int = 5
    """Epochs of the biased network."""
    epochs: int = 100
    """Epochs of the final training."""
    information: bool = False
    """Whether the final training also minimises the mutual information of its features and the biased network's."""
    lr: float = 0.1
    """Learning rate, which falls to a tenth after 20 % of the final training, and again after 70 %."""
    batch: int = 64
    """Images in a batch."""

    def __post_init__(self) -> None:
        if min(self.biased_epochs, self.epochs) < 1 or self.batch < 2 or self.lr <= 0:
            raise UsageError("cbd: biased_epochs and epochs must be 1 or more, batch 2 or more, lr positive")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The biased network, shared by variants that train it alike, and the final one."""
        first = ("cbd", self.biased_epochs, self.lr, self.batch)
        return (Training("fine-tune", first), Training("full", (*first, self.epochs, self.information)))

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """The biased network's few epochs, and its pass beside each of the final ones; three passes with a critic."""
        final = self.epochs * info.train
        return (Work(self.biased_epochs * info.train), Work(final, (3 if self.information else 1) * final))

    def train(self, lab: Lab) -> TrainedModel:
        """Train the biased network, then the final one; suspicion scores are the biased network's negative losses."""
        sgd: dict[str, Any] = {
            "optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4, "lr": self.lr,
            "batch_size": self.batch,
        }  # fmt: skip
        biased = lab.train(
            lab.poisoned, kind="fine-tune", name="biased network", repeat=1, trace=True,
            epochs=self.biased_epochs, schedule="constant", **sgd,
        )  # fmt: skip
        lab.suspect(-lab.losses(biased, lab.poisoned))
        lab.note("cbd", {"biased_losses": biased.epoch_losses})
        how: dict[str, Any] = {"scorer": biased, "weight_fn": BiasedLosses(), "loss": Deconfounded()}
        if self.information:
            state = biased.module().state_dict()
            how = {"training_loop": WithInformation(tuple(state), tuple(value.numpy() for value in state.values()))}
        return lab.train(
            lab.poisoned, name="deconfounded training", epochs=self.epochs, schedule="steps",
            milestones=tuple(max(1, round(share * self.epochs)) for share in (0.2, 0.7)), decay=0.1, **how, **sgd,
        )  # fmt: skip
