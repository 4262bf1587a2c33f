"""Train a network with a plugin's own loop, one epoch at a time: self-supervised, semi-supervised, two batches at once.

The engine still does what such a loop shares with :func:`benchbd.engine.fit`: optimiser and schedule of the recipe,
seeds, precision, mean losses, checkpoints between epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from benchbd.core.pools import Pool, check_number
from benchbd.core.seeding import seed_for
from benchbd.engine.augment import alternating, batch_of, draw_epoch, draw_views, resident, unit_range
from benchbd.engine.epochs import Epochs, Fit, all_finite, batch_bounds, own_randomness
from benchbd.engine.passes import logits_of
from benchbd.engine.precision import Autocast, Precision, arithmetic
from benchbd.engine.state import make_optimizer, set_lr
from benchbd.engine.update import Update
from benchbd.errors import Diverged

if TYPE_CHECKING:
    from benchbd.core.recipe import Recipe
    from benchbd.engine.epochs import Checkpoint
    from benchbd.engine.network import Classifier


class TrainingLoop(Protocol):
    """A plugin's own training loop: a frozen dataclass whose fields and source are part of the key.

    Required: :meth:`epoch`.

    Optional: ``prepare(net) -> nn.Module | None``. The engine calls it once, on the CPU and with torch's generator
    seeded, before it makes the optimiser. It may freeze weights (``requires_grad_(False)``), and may return a module to
    train beside the network and discard afterwards, such as a projection head.
    """

    def epoch(self, run: LoopContext, /) -> None:
        """Train one epoch: call :meth:`LoopContext.step` once for each batch."""
        ...


class LoopContext:
    """The training that a plugin's loop works on. The network is in training mode when an epoch begins.

    Attributes:
        net: the network, on the device.
        extra_module: the module that ``prepare`` returned, on the device, or None.
        trained: network and extra module together.
        images: uint8 (N, 3, H, W), the whole set, on the device.
        labels: int64 (N,), on the device.
        recipe: the training's recipe.
        device: where the training runs.
        epoch: number of the current epoch, from 0.
        optimizer: the recipe's optimiser, over every trainable weight of ``trained``.
        loss_sum: float64 scalar, sum of the losses that :meth:`step` minimised in this epoch.
        steps: number of steps so far, over all epochs.
        pools: the pools reported so far, over all epochs.
    """

    def __init__(
        self,
        net: Classifier,
        extra_module: nn.Module | None,
        images: Tensor,
        labels: Tensor,
        recipe: Recipe,
        precision: Precision,
        seed: int,
    ) -> None:
        self.net, self.extra_module, self.images, self.labels, self.recipe = net, extra_module, images, labels, recipe
        self.device, self.epoch = images.device, 0
        self.trained = nn.ModuleList([net] if extra_module is None else [net, extra_module])
        self.optimizer = make_optimizer(self.trained, recipe, self.device)
        self._update = Update(self.trained, self.optimizer, recipe)
        self._precision, self._seed, self._first_step = precision, seed, 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.steps = 0
        self.pools: list[Pool] = []

    def seed_for(self, *purpose: Any) -> int:
        """Return a seed for a purpose within this epoch; it does not depend on anything drawn before."""
        return seed_for(self._seed, "routine", self.epoch, *purpose)

    def batches(self, size: int | None = None, turn: int = 0) -> list[Tensor]:
        """Return the batches of this epoch, which hold each image once.

        Args:
            size: images in a batch; the recipe's batch size by default.
            turn: chooses another order, for a loop that goes through the set more than once.

        Returns:
            Rows int64 (B, 4 or more) for :meth:`views`, one tensor per batch; first is the position in the set.
        """
        count, augment = len(self.images), self.recipe.augment
        # The flips alternate from epoch to epoch of the training; the seed below is another in each.
        flips = alternating(self._seed, self.epoch, count) if "flip_alternate" in augment else None
        rows = draw_epoch(self.seed_for("batches", turn), 0, count, augment, flips).to(self.device)
        return [rows[a:b] for a, b in batch_bounds(len(rows), size or self.recipe.batch_size)]

    def rows(self, picks: Tensor, *purpose: Any) -> Tensor:
        """Draw views of the images at ``picks`` int64 (M,): rows int64 (M, 4 or more), in the order of ``picks``."""
        return draw_views(self.seed_for("views", *purpose), picks.cpu(), self.recipe.augment).to(self.device)

    def views(self, rows: Tensor) -> Tensor:
        """Return the images of ``rows`` int64 (B, 4 or more), augmented: float32 (B, 3, H, W) in [0, 1]."""
        return unit_range(batch_of(self.images, rows, self.recipe.augment), self._precision.channels_last)

    def autocast(self) -> torch.autocast:
        """Return a context for forward passes in the precision of this training."""
        return Autocast(self.device, self._precision.dtype)

    def logits(self, net: Classifier | None = None) -> Tensor:
        """Compute logits of the whole set, float32 (N, classes), on the device: eval mode, not augmented, in order."""
        return torch.from_numpy(logits_of(net or self.net, self.images, device=self.device)).to(self.device)

    def step(self, loss: Tensor) -> None:
        """Do one optimiser step on a scalar loss, and count the loss in the epoch's mean.

        A recipe whose learning rate changes by step takes an epoch to have as many steps as the set has batches. A loop
        that makes more stays at the rate of the epoch's end.
        """
        if self.recipe.per_step():
            steps = len(batch_bounds(len(self.images), self.recipe.batch_size))
            set_lr(self.optimizer, self.recipe.lr_at(self.epoch + min(1.0, (self.steps - self._first_step) / steps)))
        self._update(loss)
        self.loss_sum += loss.detach().double()
        self.steps += 1

    def report_pool(self, name: str, members: Tensor) -> None:
        """Keep the samples of a pool of this epoch; they are in the trained model's ``pools``.

        Args:
            name: the pool's name, with the phase of the method.
            members: bool (N,), or positions int64 (M,), in the order of ``images``.

        Raises:
            UsageError: the members do not fit the set, or there are too many pools.
        """
        check_number(self.pools, name)
        self.pools.append(Pool.of(name, self.epoch + 1, members.detach().cpu().numpy(), len(self.images)))


def fit_with_loop(
    training_loop: TrainingLoop,
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    device: torch.device,
    precision: Precision,
    seed: int,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    on_epoch: Callable[[int, Classifier], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Train a network in place with a plugin's own loop.

    The other arguments are those of :func:`benchbd.engine.fit`. Torch's global generators are seeded from (seed, epoch)
    before each epoch and restored at the end. Checkpoints are saved between epochs only.

    Args:
        training_loop: trains each epoch.

    Returns:
        The training's result; ``epoch_losses`` are means of the losses that the loop minimised.

    Raises:
        NotFinite: a loss or a weight is not finite; found at the end of the epoch.
        Diverged: an epoch made no step.
    """
    device = torch.device(device)
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    with arithmetic(device, strict=precision.strict, search=not precision.strict), own_randomness(device) as reseed:
        reseed(seed_for(seed, "prepare"))
        extra_module = getattr(training_loop, "prepare", lambda net: None)(net)
        net.to(device)
        net.to(memory_format=layout)  # type: ignore[call-overload]
        extra_module = None if extra_module is None else extra_module.to(device)
        context = LoopContext(net, extra_module, resident(images, device), labels.to(device), recipe, precision, seed)
        epochs = Epochs(
            context.trained,
            context.optimizer,
            recipe,
            on_progress=on_progress,
            on_epoch=None if on_epoch is None else lambda epoch: on_epoch(epoch, net),
            checkpoint=checkpoint,
            own_state=lambda next_batch: _state_of(context),
            average=context._update.average,
        )
        result = _loop(epochs, training_loop, context, lambda epoch: reseed(seed_for(seed, "epoch", epoch)))
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    net.requires_grad_(True).eval()
    return result


def _state_of(context: LoopContext) -> dict[str, Any]:
    """The loop's own entries of a checkpoint."""
    pools = {"pools": [pool.as_json() for pool in context.pools]} if context.pools else {}
    return {"steps": context.steps, **pools}


def _loop(epochs: Epochs, training_loop: TrainingLoop, context: LoopContext, reseed: Callable[[int], None]) -> Fit:
    if (saved := epochs.resume()) is not None:
        context.steps = int(saved["steps"])
        context.pools = [Pool.from_json(values) for values in saved.get("pools", ())]
    for epoch, _ in epochs:
        context.epoch, context._first_step = epoch, context.steps
        reseed(epoch)
        context.loss_sum.zero_()
        training_loop.epoch(context)
        steps = context.steps - context._first_step
        if steps == 0:
            raise Diverged(
                f"epoch {epoch + 1} of {context.recipe.epochs} made no step: the set is too small for a batch"
            )
        mean = float(context.loss_sum) / steps
        epochs.end_epoch(epoch, mean, finite=all_finite(context.trained), step=1, steps=1)
    epochs.finish()
    # Every epoch checked the weights.
    return Fit(epochs.losses, epochs.seconds(), context.steps, tuple(context.pools))
