"""One training step on a batch given by its rows: it reads no value back and does not depend on the host."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.core.recipe import Recipe
from benchbd.engine.augment import batch_of, unit_range
from benchbd.engine.batch_buffer import BatchBuffer
from benchbd.engine.network import Classifier
from benchbd.engine.passes import eval_mode
from benchbd.engine.precision import Autocast, Precision
from benchbd.engine.update import Update


class Loss(Protocol):
    """Maps a batch's float32 cross-entropies (B,) and weights (B,) to the number that a training minimises.

    Plugins pass frozen dataclasses; their repr is part of the key under which a training is stored.
    """

    def __call__(self, losses: Tensor, weights: Tensor, /) -> Tensor:
        """Return a scalar that gradients flow through, without reading values back (``item``, ``if loss > 0``)."""
        ...


class Perturb(Protocol):
    """Adversarial training: changes a batch after augmentation. Every layer of ``net`` is in eval mode meanwhile."""

    def __call__(self, net: Classifier, x01: Tensor, labels: Tensor, /) -> Tensor:
        """Return float (B, 3, H, W) in [0, 1]."""
        ...


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of the weighted losses, a scalar: the default loss."""
    return (losses * weights).mean()


def smoothed(losses: Tensor, logits: Tensor, share: float) -> Tensor:
    """Cross-entropies (...) with label smoothing, from those without it and logits (..., classes)."""
    return (1 - share) * losses - share * F.log_softmax(logits, -1).mean(-1)


class Step:
    """A training step and the sums it accumulates on the device.

    Attributes:
        loss_sum: float64 scalar, the summed cross-entropy of this epoch's images so far.
        non_finite: float32 scalar, 0 as long as every loss of this epoch is finite, NaN from the first that is not.
        buffer: holds each batch's images when the set (``images``) stays on the host.
        forward: computes the logits of full batches; torch.compile may replace it.
    """

    def __init__(
        self,
        net: Classifier,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        labels: Tensor,
        weights: Tensor,
        recipe: Recipe,
        precision: Precision,
        loss: Loss | None = None,
        perturb: Perturb | None = None,
        buffer: BatchBuffer | None = None,
    ) -> None:
        self.net, self.optimizer, self.buffer = net, optimizer, buffer
        optimizer.zero_grad(set_to_none=True)  # a step ends without gradients and expects none
        self.images, self.labels, self.weights = images, labels, weights
        self.recipe, self.precision = recipe, precision
        self.loss: Loss = loss or weighted_mean
        # A plugin's loss compares cross-entropies with thresholds and with those of a pass: it gets them plain.
        self.smoothing = recipe.label_smoothing if loss is None else 0.0
        self.update = Update(net, optimizer, recipe)
        self.perturb = perturb
        self.forward: Callable[[Tensor], Tensor] = net
        self.device = labels.device
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.non_finite = torch.zeros((), dtype=torch.float32, device=self.device)

    def __call__(self, rows: Tensor) -> None:
        """Train on one batch. ``rows`` int64 (B, 4 or more) as drawn by :func:`benchbd.engine.augment.draw_epoch`."""
        picks = rows[:, 0]
        labels, weights = self.labels.index_select(0, picks), self.weights.index_select(0, picks)
        images, rows = (self.images, rows) if self.buffer is None else (self.buffer.images, self.buffer.rows(rows))
        x01 = unit_range(batch_of(images, rows, self.recipe.augment), self.precision.channels_last)
        forward = self.forward if len(rows) == self.recipe.batch_size else self.net
        with Autocast(x01.device, self.precision.dtype):
            if self.perturb is not None:
                with eval_mode(self.net):
                    x01 = self.perturb(self.net, x01, labels).detach()
                self.optimizer.zero_grad(set_to_none=True)  # its backward passes may leave gradients behind
            logits = forward(x01)
        losses = F.cross_entropy(logits, labels, reduction="none")
        loss = self.loss(smoothed(losses, logits, self.smoothing) if self.smoothing else losses, weights)
        self.update(loss)
        self.loss_sum += losses.detach().sum(dtype=torch.float64)
        self.non_finite += loss.detach() * 0.0  # NaN for an infinite or NaN loss; finding out reads nothing back

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that a step changes, by name."""
        return {**self.update.tensors(), "loss_sum": self.loss_sum, "non_finite": self.non_finite}

    def start_epoch(self) -> None:
        """Set the sums to zero."""
        self.loss_sum.zero_()
        self.non_finite.zero_()

    def saved_sums(self, next_batch: int) -> dict[str, Any]:
        """Return a checkpoint's entries for the sums, copied to the CPU, and for the batch that comes next."""
        sums = {"loss_sum": self.loss_sum, "non_finite": self.non_finite}
        return {**{name: tensor.cpu().clone() for name, tensor in sums.items()}, "batch": next_batch}

    def restore_sums(self, saved: Mapping[str, Any]) -> None:
        """Write the sums of a checkpoint back in place."""
        self.loss_sum.copy_(saved["loss_sum"])
        self.non_finite.copy_(saved["non_finite"])


def training_mode(net: nn.Module, bn: str) -> None:
    """Switch to train mode; with ``bn='eval'``, batch norm layers use their running statistics and keep them."""
    net.train()
    if bn == "eval":
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
