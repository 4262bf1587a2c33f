"""Trainings whose loop is a plugin's own, one epoch at a time: self-supervised, semi-supervised, two batches at once.

What such a loop shares with :func:`benchbd.engine.fit` is done here: optimiser and schedule of the recipe, seeds,
precision, the sum of the losses, checkpoints between epochs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from benchbd.core.seeding import seed_for
from benchbd.engine.augment import batch_of, draw_epoch, draw_views, resident, unit_range
from benchbd.engine.fit import Fit, NotFinite, all_finite, batch_bounds, own_randomness
from benchbd.engine.passes import logits_of
from benchbd.engine.precision import Precision, arithmetic
from benchbd.engine.state import make_optimizer, restore, set_lr, snapshot
from benchbd.engine.step import training_mode
from benchbd.errors import Diverged

if TYPE_CHECKING:
    from benchbd.core.recipe import Recipe
    from benchbd.engine.fit import Checkpoint
    from benchbd.engine.network import Classifier


class TrainingLoop(Protocol):
    """A training loop of a plugin's own: a frozen dataclass, whose fields and source are part of the key.

    It may also have ``prepare(net) -> nn.Module | None``, called once before the optimiser is made, on the CPU and with
    torch's generator seeded: to freeze what shall not be trained (``requires_grad_(False)``), and to return what is
    trained beside the network and thrown away afterwards, such as a projection head.
    """

    def epoch(self, run: LoopContext, /) -> None:
        """Train one epoch: one :meth:`Run.step` for each batch."""
        ...


class LoopContext:
    """A training as its routine sees it. The network is in training mode when an epoch begins.

    Attributes:
        net: the network, on the device.
        beside: what ``prepare`` returned.
        images: uint8 (N, 3, H, W), the whole set, on the device.
        labels: int64 (N,), there too.
        recipe: of this training.
        device: where it computes.
        number: the epoch's, from 0.
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
        self._precision, self._seed = precision, seed
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=self.device)
        self.steps = 0

    def seed_for(self, *purpose: Any) -> int:
        """A seed for a purpose within this epoch, whatever else was drawn before."""
        return seed_for(self._seed, "routine", self.epoch, *purpose)

    def batches(self, size: int | None = None, turn: int = 0) -> list[Tensor]:
        """Batches of this epoch, each image once: rows int64 (B, 4) for :meth:`views`, positions in the first column.

        Args:
            size: images in a batch; the recipe's where not given.
            turn: another order, for a routine that goes through the set more than once.
        """
        rows = draw_epoch(self.seed_for("batches", turn), 0, len(self.images)).to(self.device)
        return [rows[a:b] for a, b in batch_bounds(len(rows), size or self.recipe.batch_size)]

    def rows(self, picks: Tensor, *purpose: Any) -> Tensor:
        """Rows int64 (M, 4) for the images at ``picks`` int64 (M,), in their order; crops and flips drawn anew."""
        return draw_views(self.seed_for("views", *purpose), picks.cpu()).to(self.device)

    def views(self, rows: Tensor) -> Tensor:
        """The images of some rows, augmented as the recipe says: float (B, 3, H, W) in [0, 1]."""
        return unit_range(batch_of(self.images, rows, self.recipe.augment), self._precision.channels_last)

    def autocast(self) -> torch.autocast:
        """A context for forward passes: the precision class of this device."""
        low = self._precision.dtype
        return torch.autocast(self.device.type, dtype=low, enabled=low is not None)

    def logits(self, net: Classifier | None = None) -> Tensor:
        """Logits of the whole set, float32 (N, classes), on the device: eval mode, no augmentation, in its order."""
        return torch.from_numpy(logits_of(net or self.net, self.images, device=self.device)).to(self.device)

    def step(self, loss: Tensor) -> None:
        """Go down the gradient of a scalar, and count it in the epoch's mean loss."""
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss_sum += loss.detach().double()
        self.steps += 1


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
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Train a network in place by a routine.

    Arguments as for :func:`benchbd.engine.fit`. Torch's global generators are seeded from (seed, epoch) before each
    epoch and are afterwards as they were; a checkpoint is saved between epochs only.

    Returns:
        The mean of what was minimised, epoch by epoch; seconds, the parts before a resume included; steps.

    Raises:
        NotFinite: a loss is not finite; found at the end of the epoch.
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
        run = LoopContext(net, extra_module, resident(images, device), labels.to(device), recipe, precision, seed)
        result = _loop(
            training_loop, run, lambda epoch: reseed(seed_for(seed, "epoch", epoch)), on_progress, checkpoint
        )
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    net.requires_grad_(True).eval()
    return result


def _loop(
    training_loop: TrainingLoop,
    run: LoopContext,
    reseed: Callable[[int], None],
    on_progress: Callable[[dict[str, Any]], None] | None,
    checkpoint: Checkpoint | None,
) -> Fit:
    epochs, losses, first, before = run.recipe.epochs, [], 0, 0.0
    if checkpoint is not None and (saved := checkpoint.load()) is not None:
        restore(run.trained, run.optimizer, saved)
        losses, before, first = saved["epoch_losses"].tolist(), float(saved["seconds"]), int(saved["epoch"])
        run.steps = int(saved["steps"])
    started = time.perf_counter()
    for epoch in range(first, epochs):
        run.epoch, steps = epoch, run.steps
        reseed(epoch)
        training_mode(run.trained, run.recipe.bn)
        set_lr(run.optimizer, run.recipe.lr_at(epoch))
        run.loss_sum.zero_()
        training_loop.epoch(run)
        if run.steps == steps:
            raise Diverged(f"epoch {epoch + 1} of {epochs} made no step: the set is too small for a batch")
        losses.append(float(run.loss_sum) / (run.steps - steps))
        if not (torch.isfinite(run.loss_sum) and all_finite(run.trained)):
            raise NotFinite(f"loss is not finite in epoch {epoch + 1} of {epochs}", losses)
        if on_progress is not None:
            on_progress({"epoch": epoch + 1, "epochs": epochs, "step": 1, "steps": 1, "loss": losses[-1]})
        if checkpoint is not None and epoch + 1 < epochs and checkpoint.due():
            state: dict[str, Any] = snapshot(run.trained, run.optimizer)
            state["epoch_losses"] = torch.tensor(losses, dtype=torch.float64)
            state["seconds"] = torch.tensor(before + time.perf_counter() - started, dtype=torch.float64)
            checkpoint.save({**state, "epoch": epoch + 1, "steps": run.steps})
    return Fit(losses, before + time.perf_counter() - started, run.steps)
