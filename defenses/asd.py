"""ASD: split the set into a clean and a polluted pool in every epoch, starting with a few clean images per class."""

from __future__ import annotations

import copy
import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchbd import Attack, DatasetInfo, Defense, Impossible, Training, UsageError, Work, defense
from benchbd.core.recipe import Recipe
from benchbd.defenses._mixmatch import OWN_AUGMENT, MixMatch, reports_pool, train_epoch
from benchbd.defenses._sce import symmetric_cross_entropy

if TYPE_CHECKING:
    import torch

    from benchbd import Lab, TrainedModel
    from benchbd.engine import Classifier, LoopContext


def lowest(losses: torch.Tensor, share: float) -> torch.Tensor:
    """Whether each of losses (N,) is among the floor(share N) lowest, bool (N,); ties go by position."""
    import torch

    chosen = torch.zeros(len(losses), dtype=torch.bool, device=losses.device)
    chosen[losses.argsort(stable=True)[: int(share * len(losses))]] = True
    return chosen


def lowest_of_each_class(losses: torch.Tensor, labels: torch.Tensor, count: int) -> torch.Tensor:
    """Whether each of losses (N,) is among the ``count`` lowest of all samples with its label, bool (N,)."""
    import torch

    chosen = torch.zeros(len(losses), dtype=torch.bool, device=losses.device)
    for label in torch.unique(labels):
        members = (labels == label).nonzero().squeeze(1)
        chosen[members[losses[members].argsort(stable=True)[:count]]] = True
    return chosen


def freeze_first_half(net: Classifier) -> None:
    """Freeze every layer before the middle convolution; in a ResNet-18, these are the stem and the first two stages."""
    from torch import nn

    layers = [part for part in net.modules() if not list(part.children())]
    left = sum(isinstance(part, nn.Conv2d) for part in layers) // 2
    for part in layers:
        left -= isinstance(part, nn.Conv2d)
        if left < 0:
            return
        part.requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """MixMatch on a clean and a polluted pool, which are chosen at the start of each epoch.

    Before epoch ``second``, the clean pool is the last ``seeds`` images of the set and a growing number of samples with
    the lowest losses in each class. Before epoch ``third``, it is the share with the lowest losses. From then on, it is
    the share whose loss falls least while a copy of the network is briefly trained on the whole set: poison is learnt
    at once, but hard clean images are not.
    """

    seeds: int
    second: int
    third: int
    every: int
    add: int
    share: float
    alpha: float
    beta: float
    meta_lr: float
    meta_epochs: int
    meta_batch: int
    mixmatch: MixMatch

    def epoch(self, loop: LoopContext) -> None:
        """Split the set, then train for ``mixmatch.iterations`` steps."""
        clean = self.clean_pool(loop)
        if reports_pool(loop.epoch, loop.recipe.epochs):
            loop.report_pool(f"clean pool, {self.phase(loop.epoch)}", clean)
        train_epoch(loop, clean.nonzero().squeeze(1), (~clean).nonzero().squeeze(1), self.mixmatch)

    def phase(self, epoch: int) -> str:
        """Name of the phase of an epoch (from 0)."""
        return ("growing per class", "lowest losses", "smallest falls")[(epoch >= self.second) + (epoch >= self.third)]

    def clean_pool(self, loop: LoopContext) -> torch.Tensor:
        """Which samples are in the clean pool in this epoch, bool (N,)."""
        import torch

        losses = self._losses(loop, loop.net)
        if loop.epoch < self.second:
            others = len(losses) - self.seeds
            count = self.add * (loop.epoch // self.every)
            found = lowest_of_each_class(losses[:others], loop.labels[:others], count)
            return torch.cat([found, torch.ones(self.seeds, dtype=torch.bool, device=found.device)])
        if loop.epoch >= self.third:
            losses = losses - self._losses(loop, self.virtual(loop))
        return lowest(losses, self.share)

    def _losses(self, loop: LoopContext, net: Classifier) -> torch.Tensor:
        return symmetric_cross_entropy(loop.logits(net), loop.labels, self.alpha, self.beta)

    def virtual(self, loop: LoopContext) -> Classifier:
        """A copy of the network whose second half was trained on the whole set with the given labels."""
        from torch.nn import functional as F

        from benchbd.engine.state import make_optimizer

        net = copy.deepcopy(loop.net).train()
        freeze_first_half(net)
        optimizer = make_optimizer(net, loop.recipe.but(optimizer="adam", lr=self.meta_lr), loop.device)
        for turn in range(self.meta_epochs):
            for rows in loop.batches(self.meta_batch, turn):
                with loop.autocast():
                    logits = net(loop.views(rows))
                F.cross_entropy(logits, loop.labels[rows[:, 0]]).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return net


@defense("asd", version=2)
class Asd(Defense):
    """ASD (2023): MixMatch on a clean and a polluted pool, split by losses and by how fast a loss falls.

    Source: Gao et al., CVPR 2023, and the authors' code, whose settings on CIFAR-10 are the defaults. Differences from
    their code:

    - The seeds are clean images added to the poisoned set (theirs: members of it that are known to be clean).
    - Splits use losses on images without augmentation (theirs: augmented).
    - For networks other than ResNet-18, the virtual model trains the layers from the middle convolution on.
    """

    needs: ClassVar[tuple[str, ...]] = ("clean",)
    smoke: ClassVar[dict[str, Any]] = {
        "seeds": 1, "epochs": 3, "second": 1, "third": 2, "iterations": 4, "batch": 16, "meta_batch": 64,
    }  # fmt: skip

    seeds: int = 10
    """Clean images of each class in the initial clean pool."""
    epochs: int = 120
    """Total number of epochs."""
    second: int = 60
    """Epoch from which the clean pool is the share with the lowest losses; before, a growing number per class."""
    third: int = 90
    """Epoch from which the clean pool is the share whose loss falls least in the virtual model."""
    every: int = 5
    """Number of epochs after which the first phase adds samples to the clean pool."""
    add: int = 10
    """Samples of each class added each time."""
    share: float = 0.5
    """Share of the set in the clean pool from the second phase on, in (0, 1)."""
    alpha: float = 0.1
    """Weight of the cross-entropy in the symmetric cross-entropy, which splits the pools."""
    beta: float = 1.0
    """Weight of the reverse cross-entropy in it."""
    meta_lr: float = 0.015
    """Adam's learning rate for the virtual model."""
    meta_epochs: int = 1
    """Epochs of the virtual model's training."""
    meta_batch: int = 128
    """Images in a batch of the virtual model's training."""
    batch: int = 64
    """Images of the clean pool in a batch; equally many of the polluted pool join in two views each."""
    iterations: int = 1024
    """Steps of each epoch, independent of the size of the set."""
    augment: tuple[str, ...] = OWN_AUGMENT
    """Augmentation, in the recipe's words, whatever the base recipe's is; the authors' own on CIFAR-10."""
    lr: float = 0.002
    """Adam's constant learning rate."""
    unlabelled_weight: float = 15.0
    """Final weight of the polluted pool's loss, which grows from 0 over all epochs."""

    def __post_init__(self) -> None:
        if min(self.seeds, self.epochs, self.every, self.meta_epochs) < 1 or self.add < 0:
            raise UsageError("asd: seeds, epochs, every and meta_epochs must be 1 or more, add 0 or more")
        if not 0 <= self.second <= self.third:
            raise UsageError(f"asd: second must not come after third, {self.second} and {self.third} are given")
        if min(self.batch, self.meta_batch) < 2:
            raise UsageError("asd: batches must be of 2 images or more")
        if not 0 < self.share < 1 or min(self.lr, self.meta_lr) <= 0 or min(self.alpha, self.beta) < 0:
            raise UsageError(
                "asd: share must be in (0, 1), learning rates must be positive, alpha and beta not negative"
            )
        Recipe(augment=self.augment)
        self._mixmatch()

    def _mixmatch(self) -> MixMatch:
        return MixMatch(iterations=self.iterations, weight=self.unlabelled_weight, rampup=self.epochs)

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that every class has enough clean images for the seeds."""
        counts = info.class_counts or (info.train // info.classes,)
        handed = max(1, round(self.clean_share * min(counts)))
        if handed < self.seeds:
            raise Impossible(
                f"asd: seeds {self.seeds} of each class, but {self.clean_share:.0%} of the smallest class are {handed} "
                "images; lower seeds"
            )

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """One full training, which includes the virtual models of its last phase."""
        return (Training("full", ("asd", *dataclasses.astuple(self))),)

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """MixMatch's steps, a pass over the set in each epoch, and the virtual models."""
        virtual = max(0, self.epochs - self.third)
        steps = self.epochs * self.iterations * self.batch
        trained = 3 * steps + virtual * self.meta_epochs * info.train
        return (Work(trained, 2 * steps + (self.epochs + virtual) * info.train),)

    def train(self, lab: Lab) -> TrainedModel:
        """Add the seeds to the set and train on its pools; suspicion scores are the final model's losses.

        No sample is flagged, because the pools change in every epoch.
        """
        import torch

        seeds = self._seeds(lab)
        data = lab.poisoned.replace(
            images=torch.cat([lab.poisoned.images, lab.clean.images[seeds]]),
            labels=torch.cat([lab.poisoned.labels, lab.clean.labels[seeds]]),
        )
        model = lab.train(
            data, name="adaptive splitting",
            training_loop=Adaptive(
                len(seeds), self.second, self.third, self.every, self.add, self.share, self.alpha, self.beta,
                self.meta_lr, self.meta_epochs, self.meta_batch, self._mixmatch(),
            ),
            epochs=self.epochs, batch_size=self.batch, optimizer="adam", lr=self.lr, weight_decay=0.0,
            schedule="constant", augment=self.augment,
        )  # fmt: skip
        for pool in model.pools:
            lab.report_pool(pool.name, pool.members()[: len(lab.poisoned)], pool.epoch)  # without the seeds
        lab.suspect(lab.losses(model, lab.poisoned))
        lab.note("asd", {"seeds": len(seeds), "losses": model.epoch_losses})
        return model

    def _seeds(self, lab: Lab) -> torch.Tensor:
        """Positions of the seeds in the clean images, int64, with equally many of each class."""
        import torch

        labels = lab.clean.labels.numpy()
        rng = np.random.default_rng(lab.seed_for("asd seeds"))
        found = [rng.permutation(np.flatnonzero(labels == label))[: self.seeds] for label in np.unique(labels)]
        if min(map(len, found)) < self.seeds:
            raise Impossible(f"asd: seeds {self.seeds} of each class, but of one only {min(map(len, found))} are clean")
        return torch.from_numpy(np.concatenate(found))
