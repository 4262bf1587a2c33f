"""DBD: learn features without labels, train a head on them, then trust only the labels that this head finds easy."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from benchbd import Attack, DatasetInfo, Defense, Impossible, Training, UsageError, Work, defense
from benchbd.core.recipe import Recipe
from benchbd.defenses._mixmatch import OWN_AUGMENT, MixMatch, reports_pool, train_epoch
from benchbd.defenses._sce import symmetric_cross_entropy
from benchbd.defenses._views import ViewSettings, random_views

if TYPE_CHECKING:
    import torch
    from torch import nn

    from benchbd import Lab, TrainedModel
    from benchbd.engine import Classifier, LoopContext


def nt_xent(projected: torch.Tensor, temperature: float) -> torch.Tensor:
    """SimCLR's loss: the cross-entropy of identifying an image's second view among all other views of the batch.

    Args:
        projected: float32 (2 B, D), rows of length 1; row i and row B + i are views of the same image.
        temperature: divisor of the cosines.

    Returns:
        Scalar, the mean over all 2 B views.
    """
    import torch
    from torch.nn import functional as F

    count = len(projected)
    cosines = projected @ projected.T / temperature
    cosines = cosines.masked_fill(torch.eye(count, dtype=torch.bool, device=cosines.device), -torch.inf)
    return F.cross_entropy(cosines, torch.arange(count, device=cosines.device).roll(count // 2))


@dataclasses.dataclass(frozen=True)
class SelfSupervised:
    """SimCLR: two random views of each image, and a two-layer projection head, which is discarded. Uses no labels."""

    temperature: float
    width: int
    views: ViewSettings

    def prepare(self, net: Classifier) -> nn.Module:
        """The projection head."""
        from torch import nn

        net.head.requires_grad_(False)
        inner = net.head.in_features
        return nn.Sequential(
            nn.Linear(inner, inner), nn.BatchNorm1d(inner), nn.ReLU(inplace=True), nn.Linear(inner, self.width)
        )

    def epoch(self, loop: LoopContext) -> None:
        """Train on every image once."""
        import torch
        from torch.nn import functional as F

        assert loop.extra_module is not None
        for step, rows in enumerate(loop.batches()):
            x01 = loop.views(rows)
            pair = [random_views(x01, self.views, loop.seed_for("view", side, step)) for side in range(2)]
            with loop.autocast():
                projected = loop.extra_module(loop.net.features(torch.cat(pair)))
            loop.step(nt_xent(F.normalize(projected.float()), self.temperature))


@dataclasses.dataclass(frozen=True)
class LinearStage:
    """Trains only the head, by symmetric cross-entropy. Batch norm statistics still update, as in the authors' code."""

    alpha: float
    beta: float

    def prepare(self, net: Classifier) -> None:
        """Freeze all layers but the head."""
        net.requires_grad_(False)
        net.head.requires_grad_(True)

    def epoch(self, loop: LoopContext) -> None:
        """Train on every image once."""
        for rows in loop.batches():
            with loop.autocast():
                logits = loop.net(loop.views(rows))
            loop.step(symmetric_cross_entropy(logits, loop.labels[rows[:, 0]], self.alpha, self.beta).mean())


@dataclasses.dataclass(frozen=True)
class SemiSupervised:
    """MixMatch; in every epoch, the share with the smallest symmetric cross-entropy keeps its labels."""

    share: float
    alpha: float
    beta: float
    before: int
    mixmatch: MixMatch

    def epoch(self, loop: LoopContext) -> None:
        """Split the set, then train for ``mixmatch.iterations`` steps."""
        losses = symmetric_cross_entropy(loop.logits(), loop.labels, self.alpha, self.beta)
        order = losses.argsort(stable=True)
        cut = int(self.share * len(order))
        if reports_pool(loop.epoch, loop.recipe.epochs):
            loop.report_pool("labelled, semi-supervised stage", order[:cut])
        train_epoch(loop, order[:cut], order[cut:], self.mixmatch, self.before)


@defense("dbd", version=2)
class Dbd(Defense):
    """DBD (2022): self-supervised features, a linear stage, semi-supervised fine-tuning on the most credible half.

    Source: Huang et al., ICLR 2022, and the authors' code, whose settings on CIFAR-10 are the defaults. Differences
    from their code:

    - The split uses losses on images without augmentation (theirs: augmented).
    - SimCLR's loss is the mean over both views (theirs: only the first).
    - Each stage starts a new Adam (theirs continues).
    - The final model has the weights of the last epoch.
    """

    smoke: ClassVar[dict[str, Any]] = {
        "ssl_epochs": 1, "ssl_batch": 64, "ssl_lr": 0.05, "linear_epochs": 1, "semi_epochs": 1, "iterations": 4,
        "semi_batch": 16,
    }  # fmt: skip

    ssl_epochs: int = 1000
    """Epochs of the self-supervised stage."""
    ssl_batch: int = 512
    """Images in a batch of the self-supervised stage, each in two views."""
    ssl_lr: float = 0.4
    """Initial learning rate of that stage (SGD, momentum 0.9, weight decay 1e-4), with cosine decay to zero."""
    temperature: float = 0.5
    """Divisor of the cosines in the self-supervised loss."""
    projection: int = 128
    """Outputs of the projection head."""
    crop_min: float = 0.2
    """Smallest share of an image's area that a view keeps, in (0, 1]."""
    jitter: float = 0.4
    """Strength of the views' colour jitter, in [0, 1]; hue gets a quarter of it."""
    blur: float = 0.5
    """Share of views that are blurred, in [0, 1]. The authors' code blurs on CIFAR-10, SimCLR's own does not."""
    linear_epochs: int = 10
    """Epochs of the linear stage."""
    linear_batch: int = 128
    """Images in a batch of the linear stage."""
    alpha: float = 0.1
    """Weight of the cross-entropy in the symmetric cross-entropy."""
    beta: float = 1.0
    """Weight of the reverse cross-entropy in it."""
    labelled: float = 0.5
    """Share of the set whose labels are trusted, in (0, 1)."""
    semi_epochs: int = 190
    """Epochs of the semi-supervised stage."""
    semi_batch: int = 64
    """Labelled images in a batch of the semi-supervised stage; equally many unlabelled ones join in two views each."""
    iterations: int = 1024
    """Steps of each epoch of that stage, independent of the size of the set."""
    augment: tuple[str, ...] = OWN_AUGMENT
    """Augmentation of the last two stages, in the recipe's words, whatever the base recipe's is; the authors' own."""
    lr: float = 0.002
    """Adam's constant learning rate in the last two stages."""
    unlabelled_weight: float = 15.0
    """Final weight of the unlabelled images' loss, which grows over semi_epochs, counted from the linear stage on."""

    def __post_init__(self) -> None:
        if min(self.ssl_epochs, self.linear_epochs, self.semi_epochs) < 1:
            raise UsageError("dbd: ssl_epochs, linear_epochs and semi_epochs must be 1 or more")
        if min(self.ssl_batch, self.linear_batch, self.semi_batch) < 2 or self.projection < 1:
            raise UsageError("dbd: batches must be of 2 images or more, projection 1 or more")
        if min(self.ssl_lr, self.lr, self.temperature) <= 0 or min(self.alpha, self.beta) < 0:
            raise UsageError("dbd: learning rates and temperature must be positive, alpha and beta not negative")
        if not 0 < self.labelled < 1 or not 0 < self.crop_min <= 1:
            raise UsageError("dbd: labelled is a share in (0, 1), crop_min one in (0, 1]")
        if not 0 <= self.jitter <= 1 or not 0 <= self.blur <= 1:
            raise UsageError("dbd: jitter and blur must be in [0, 1]")
        Recipe(augment=self.augment)
        self._mixmatch()

    def _mixmatch(self) -> MixMatch:
        return MixMatch(iterations=self.iterations, weight=self.unlabelled_weight, rampup=self.semi_epochs)

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Check that the set is large enough for a batch of labelled images and a batch of unlabelled ones."""
        cut = int(self.labelled * info.train)
        if min(cut, info.train - cut) < 2:
            raise Impossible(f"dbd: labelled {self.labelled:g} of {info.train} images leaves under two on one side")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The self-supervised stage is a feature model, the linear one a fine-tuning, the last one a full training."""
        views = (self.crop_min, self.jitter, self.blur)
        first = ("dbd", self.ssl_epochs, self.ssl_batch, self.ssl_lr, self.temperature, self.projection, *views)
        second = (*first, self.linear_epochs, self.linear_batch, self.lr, self.alpha, self.beta, self.augment)
        third = (*second, self.labelled, self.semi_epochs, self.semi_batch, self.iterations, self.unlabelled_weight)
        return (Training("feature-model", first), Training("fine-tune", second), Training("full", third))

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """Two views of each image, then the head alone, then MixMatch's steps and a pass over the set in each epoch."""
        steps = self.semi_epochs * self.iterations * self.semi_batch
        return (
            Work(2 * self.ssl_epochs * info.train),
            Work(0, self.linear_epochs * info.train),
            Work(3 * steps, 2 * steps + self.semi_epochs * info.train),
        )

    def train(self, lab: Lab) -> TrainedModel:
        """Run the three stages; suspicion scores are the losses after the second stage, which first split the set."""
        data = lab.poisoned
        views = ViewSettings(self.crop_min, self.jitter, self.blur)
        model = lab.train(
            data, kind="feature-model", name="self-supervised",
            training_loop=SelfSupervised(self.temperature, self.projection, views),
            epochs=self.ssl_epochs, batch_size=self.ssl_batch, augment=(), schedule="cosine",
            horizon=self.ssl_epochs, optimizer="sgd", lr=self.ssl_lr, momentum=0.9, nesterov=False, weight_decay=1e-4,
        )  # fmt: skip
        facts: dict[str, Any] = {"self_supervised_losses": model.epoch_losses}
        adam: dict[str, Any] = {
            "optimizer": "adam", "lr": self.lr, "weight_decay": 0.0, "schedule": "constant", "augment": self.augment,
        }  # fmt: skip
        model = lab.train(
            data, kind="fine-tune", name="linear stage", start=model, trace=True,
            training_loop=LinearStage(self.alpha, self.beta),
            epochs=self.linear_epochs, batch_size=self.linear_batch, **adam,
        )  # fmt: skip
        facts["linear_losses"] = model.epoch_losses
        # With one-hot labels, the symmetric cross-entropy grows with the plain one, so both give the same order.
        losses = lab.losses(model, data)
        unbelieved = np.argsort(losses, kind="stable")[int(self.labelled * len(data)) :]
        lab.suspect(losses, unbelieved)
        believed = np.setdiff1d(np.arange(len(data)), unbelieved)
        lab.report_pool("labelled, after the linear stage", believed)
        model = lab.train(
            data, name="semi-supervised", start=model,
            training_loop=SemiSupervised(self.labelled, self.alpha, self.beta, self.linear_epochs, self._mixmatch()),
            epochs=self.semi_epochs, batch_size=self.semi_batch, **adam,
        )  # fmt: skip
        for pool in model.pools:
            lab.report_pool(pool.name, pool.members(), pool.epoch)
        lab.note("dbd", {**facts, "semi_supervised_losses": model.epoch_losses})
        return model
