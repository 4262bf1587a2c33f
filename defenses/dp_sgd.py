"""Baseline: differentially private SGD, which bounds the influence of every single sample."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

from benchbd import Defense, UsageError, Work, defense
from benchbd.defenses._privacy import epsilon

if TYPE_CHECKING:
    from torch import Tensor

    from benchbd import Attack, DatasetInfo, Lab, Recipe, TrainedModel
    from benchbd.engine import Classifier, LoopContext

CHUNK = 2**27
"""Gradients of single samples that are in memory at once, in numbers."""


def clipped_sum(net: Classifier, x01: Tensor, labels: Tensor, norm: float) -> tuple[dict[str, Tensor], Tensor]:
    """Sum of single samples' gradients, each shortened to a norm of ``norm`` at most.

    Args:
        net: its batch norm layers must be in eval mode; otherwise samples have no gradients of their own.
        x01: float32 (B, 3, H, W) in [0, 1].
        labels: int64 (B,).
        norm: the longest gradient, over all trainable weights together.

    Returns:
        The sums by the weight's name, and the cross-entropies (B,).
    """
    import torch
    from torch.func import functional_call, grad_and_value, vmap
    from torch.nn import functional as F

    weights = {name: p.detach() for name, p in net.named_parameters() if p.requires_grad}
    fixed = {name: t.detach() for name, t in (*net.named_parameters(), *net.named_buffers()) if name not in weights}

    def loss(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(net, (weights, fixed), (image.unsqueeze(0),))
        return F.cross_entropy(logits, label.unsqueeze(0))

    each = vmap(grad_and_value(loss), in_dims=(None, 0, 0), randomness="different")
    sums = {name: torch.zeros_like(value) for name, value in weights.items()}
    losses = [x01.new_zeros(0)]
    if not len(x01):
        return sums, losses[0]
    many = max(1, CHUNK // sum(value.numel() for value in weights.values()))
    for images, targets in zip(x01.contiguous().split(many), labels.split(many), strict=True):
        gradients, values = each(weights, images, targets)
        lengths = torch.stack([g.flatten(1).square().sum(1) for g in gradients.values()]).sum(0).sqrt()
        factors = (norm / lengths.clamp(min=1e-12)).clamp(max=1.0)
        for name, gradient in gradients.items():
            sums[name] += torch.tensordot(factors, gradient, 1)
        losses.append(values)
    return sums, torch.cat(losses)


@dataclasses.dataclass(frozen=True)
class Private:
    """Steps on clipped gradients plus noise. Each sample takes part in a step with the same probability."""

    sigma: float
    norm: float

    def epoch(self, loop: LoopContext) -> None:
        """Do as many steps as the set has batches."""
        import torch

        count, lot = len(loop.images), min(loop.recipe.batch_size, len(loop.images))
        generator = torch.Generator().manual_seed(loop.seed_for("private"))
        named = {name: p for name, p in loop.net.named_parameters() if p.requires_grad}
        for step in range(steps_of_epoch(count, lot)):
            picks = (torch.rand(count, generator=generator) < lot / count).nonzero().squeeze(1)
            rows = loop.rows(picks, step)
            sums, losses = clipped_sum(loop.net, loop.views(rows), loop.labels[rows[:, 0]], self.norm)
            # A sum over weights times constants has these constants as its gradient.
            total = torch.zeros((), device=loop.device)
            for name, parameter in named.items():
                noise = torch.randn(parameter.shape, generator=generator).to(loop.device)
                total = total + (parameter * ((sums[name] + self.sigma * self.norm * noise) / lot)).sum()
            loop.step(total - total.detach() + losses.sum() / lot)


def steps_of_epoch(count: int, lot: int) -> int:
    """Steps of an epoch: with lots of ``lot`` samples on average, as many as go through ``count`` samples once."""
    return max(1, round(count / lot))


@defense("dp-sgd", version=1)
class DpSgd(Defense):
    """Baseline: DP-SGD (2016), which clips each sample's gradient and adds noise; poison has little influence then.

    Source: Abadi et al., CCS 2016; the defaults are those of Opacus' example for CIFAR-10, with another network. Cost:
    one full training in steps; a step costs several times as much, because it needs a gradient for each sample.

    - Batch norm mixes samples, so its layers keep their initial statistics, which normalise nothing. Opacus refuses
      batch norm and recommends group norm, which the row's models do not have. Expect a low clean accuracy from them.
    - The record has an epsilon: Renyi divergence of whole orders (Mironov et al. 2019), converted as in Mironov 2017.
      Tighter accountants are left out. It assumes noise that nobody can predict, but here the seed is known.
    - The cosine starts at the full rate and reaches zero after the last epoch. That of the example starts one epoch
      further on and takes one epoch more.
    - A network that initialises itself from training images has no epsilon.
    """

    smoke: ClassVar[dict[str, Any]] = {"epochs": 1}

    sigma: float = 1.5
    """Standard deviation of the noise, in units of norm."""
    norm: float = 10.0
    """Largest norm of a sample's gradient."""
    delta: float = 1e-5
    """Delta of the epsilon that the record shows."""
    epochs: int = 90
    """Epochs, without augmentation."""
    batch: int = 2000
    """Samples in a step on average, or the whole set if it is smaller."""
    lr: float = 0.1
    """Initial learning rate of the cosine (SGD, momentum 0.9, no weight decay)."""

    def __post_init__(self) -> None:
        if min(self.sigma, self.norm, self.lr) <= 0 or min(self.epochs, self.batch) < 1:
            raise UsageError("dp-sgd: sigma, norm and lr must be above 0, epochs and batch 1 or more")
        if not 0.0 < self.delta < 1.0:
            raise UsageError(f"dp-sgd: delta is a probability in (0, 1), such as 1e-5, not {self.delta:g}")

    def training_work(self, attack: Attack, recipe: Recipe, info: DatasetInfo) -> tuple[Work, ...]:
        """Every step of the training, at the measured speed of steps with a gradient for each sample.

        The batch alone decides about the speed: the noise is drawn once for it.
        """
        lot = min(self.batch, info.train)
        steps = self.epochs * steps_of_epoch(info.train, lot)
        return (Work(steps * lot, loop=f"dp-sgd(batch={self.batch})"),)

    def timed_loop(self) -> tuple[Private, dict[str, Any]]:
        """Steps on clipped gradients, and the recipe of Opacus' example."""
        return Private(self.sigma, self.norm), {
            "epochs": self.epochs, "batch_size": self.batch, "optimizer": "sgd", "lr": self.lr, "momentum": 0.9,
            "nesterov": False, "weight_decay": 0.0, "schedule": "cosine", "horizon": self.epochs, "bn": "eval",
            "augment": (),
        }  # fmt: skip

    def train(self, lab: Lab) -> TrainedModel:
        """Train once on the whole set, and note how private the result is."""
        training_loop, changes = self.timed_loop()
        model = lab.train(lab.poisoned, training_loop=training_loop, **changes)
        count = len(lab.poisoned)
        lot = min(self.batch, count)
        steps = self.epochs * steps_of_epoch(count, lot)
        private = not callable(getattr(model.module().net, "initialise_from", None))
        spent = epsilon(lot / count, self.sigma, steps, self.delta) if private else None
        lab.note("dp-sgd", {"epsilon": spent, "delta": self.delta, "steps": steps, "sample_rate": lot / count})
        return model
