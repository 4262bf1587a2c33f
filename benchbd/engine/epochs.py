"""The epochs of a training: resume, learning rate, finiteness, progress, checkpoints and clock, whichever loop trains.

:func:`benchbd.engine.fit`, :func:`benchbd.engine.fit_with_loop` and :func:`benchbd.engine.packed.fit_packed` write only
the steps of an epoch themselves.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from benchbd.core.pools import Pool
from benchbd.core.recipe import Recipe
from benchbd.engine.state import restore, set_lr, snapshot
from benchbd.engine.step import training_mode
from benchbd.engine.update import Average
from benchbd.errors import Diverged

PROGRESS_EVERY = 0.2
"""Seconds between two progress reports within an epoch."""


class Fit(NamedTuple):
    """What a training returns beside the weights.

    Attributes:
        epoch_losses: mean cross-entropy of each epoch, as seen in training (augmented, train mode, unweighted).
        seconds: wall-clock time of the training, including the parts before a resume, excluding CUDA graph capture and
            ``on_epoch``.
        steps: number of optimiser steps, including those before a resume.
        pools: pools that a plugin's own loop reported, including those before a resume.
    """

    epoch_losses: list[float]
    seconds: float
    steps: int
    pools: tuple[Pool, ...] = ()


class NotFinite(Diverged):
    """A loss or a weight is not finite.

    Attributes:
        epoch_losses: mean cross-entropy of each epoch so far, including the one that diverged; of a pack, the mean over
            its models.
    """

    def __init__(self, text: str, epoch_losses: list[float]) -> None:
        super().__init__(text)
        self.epoch_losses = epoch_losses


class Checkpoint(Protocol):
    """Keeps the state of an unfinished training."""

    def due(self) -> bool:
        """Whether to save now. It is called after every step, so it must be cheap."""
        ...

    def save(self, state: dict[str, Any], /) -> None:
        """Keep a flat dict of CPU tensors and JSON values."""
        ...

    def load(self) -> dict[str, Any] | None:
        """Return the state that was saved last, or None."""
        ...


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Return where each batch of an epoch over ``count`` images begins and ends.

    Each epoch trains on every image once. A last batch of a single image joins the one before it: batch norm cannot
    normalise one value per channel.
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[Callable[[int], None]]:
    """Yield a function that seeds torch's global generators, for dropout and perturbations; restore them afterwards."""
    index = None
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
    with torch.random.fork_rng(devices=[] if index is None else [index]):

        def reseed(seed: int) -> None:
            torch.default_generator.manual_seed(seed)
            if index is not None:
                torch.cuda.default_generators[index].manual_seed(seed)

        yield reseed


def all_finite(net: nn.Module) -> bool:
    """Whether every floating-point weight and buffer is finite. Reads one value back from the device."""
    found = [torch.isfinite(t).all() for t in net.state_dict().values() if t.is_floating_point()]
    return not found or bool(torch.stack(found).all())


class Epochs:
    """The epochs of one training. A loop resumes, iterates, and hands each epoch's mean loss to :meth:`end_epoch`.

    Reads values back from the device only to save a checkpoint that is due and to check the weights in :meth:`result`.

    Args:
        net: the module that is trained, on its device.
        optimizer: its optimiser, whose learning rate follows the recipe.
        recipe: number of epochs, schedule, mode of batch norm.
        on_progress: receives ``epoch`` (from 1), ``epochs`` and the facts that the loop adds; at the end of each epoch
            also ``loss``.
        on_epoch: called after each epoch with its number (from 0), with the network in eval mode and the clock stopped.
        checkpoint: where the state is saved to and loaded from.
        own_state: returns the loop's own entries of a checkpoint, given the batch (from 0) that comes next.
        average: the average of the weights, if the recipe asks for one: ``on_epoch`` sees it, and :meth:`finish` makes
            it the result.
        subjects: how error messages name the loss and the weights.

    Attributes:
        losses: mean loss of each finished epoch.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        *,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
        on_epoch: Callable[[int], None] | None = None,
        checkpoint: Checkpoint | None = None,
        own_state: Callable[[int], dict[str, Any]] | None = None,
        average: Average | None = None,
        subjects: tuple[str, str] = ("loss", "weights"),
    ) -> None:
        self.net, self.optimizer, self.recipe = net, optimizer, recipe
        self._on_progress, self._on_epoch, self._checkpoint = on_progress, on_epoch, checkpoint
        self._own_state, self._average, self._subjects = own_state, average, subjects
        self.losses: list[float] = []
        self._first_epoch = self._first_batch = 0
        self._seconds_before = 0.0
        self._started = time.perf_counter()
        self._last_report = -math.inf

    def resume(self) -> dict[str, Any] | None:
        """Restore network, optimiser, losses, clock and position; return the checkpoint, or None if there is none."""
        saved = None if self._checkpoint is None else self._checkpoint.load()
        if saved is not None:
            restore(self.net, self.optimizer, saved)
            if self._average is not None:
                self._average.restore(saved)
            self.losses, self._seconds_before = saved["epoch_losses"].tolist(), float(saved["seconds"])
            self._first_epoch, self._first_batch = int(saved["epoch"]), int(saved.get("batch", 0))
        return saved

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Start the clock; yield each epoch and its first batch (from 0), in training mode at its learning rate."""
        self._started = time.perf_counter()
        for epoch in range(self._first_epoch, self.recipe.epochs):
            training_mode(self.net, self.recipe.bn)
            set_lr(self.optimizer, self.recipe.lr_at(epoch))
            yield epoch, self._first_batch if epoch == self._first_epoch else 0

    def set_rate(self, epoch: int, step: int, steps: int) -> None:
        """Set the learning rate of a step (from 0) of an epoch, where the recipe changes it by step."""
        if self.recipe.per_step():
            set_lr(self.optimizer, self.recipe.lr_at(epoch + step / steps))

    def seconds(self) -> float:
        """Wall-clock time of the training so far, including the parts before a resume."""
        return self._seconds_before + time.perf_counter() - self._started

    def between_batches(self, epoch: int, next_batch: int, **facts: int) -> None:
        """Save a checkpoint if one is due, and report progress a few times a second."""
        if self._checkpoint is not None and self._checkpoint.due():
            self._save(self._checkpoint, epoch, next_batch)
        if self._on_progress is not None and time.monotonic() - self._last_report >= PROGRESS_EVERY:
            self._last_report = time.monotonic()
            self._on_progress({"epoch": epoch + 1, "epochs": self.recipe.epochs, **facts})

    def end_epoch(self, epoch: int, mean: float, *, finite: bool = True, **facts: int) -> None:
        """Record an epoch's mean loss, report it, call ``on_epoch``, and save a checkpoint if one is due.

        Args:
            epoch: its number, from 0.
            mean: its mean loss.
            finite: whether everything else that the loop checks is finite too.
            **facts: entries of the progress report.

        Raises:
            NotFinite: the mean or something else is not finite.
        """
        epochs = self.recipe.epochs
        self.losses.append(mean)
        if not (math.isfinite(mean) and finite):
            raise NotFinite(f"{self._subjects[0]} is not finite in epoch {epoch + 1} of {epochs}", self.losses)
        if self._on_progress is not None:
            self._on_progress({"epoch": epoch + 1, "epochs": epochs, **facts, "loss": mean})
        if self._on_epoch is not None:
            paused = time.perf_counter()
            self.net.eval()
            with contextlib.nullcontext() if self._average is None else self._average.in_use():
                self._on_epoch(epoch)
            self.optimizer.zero_grad(set_to_none=True)  # on_epoch may leave gradients behind
            self._seconds_before -= time.perf_counter() - paused
        if self._checkpoint is not None and epoch + 1 < epochs and self._checkpoint.due():
            self._save(self._checkpoint, epoch + 1, 0)

    def finish(self) -> None:
        """Leave the averaged weights in the network, if the recipe asks for an average."""
        if self._average is not None:
            self._average.swap()

    def result(self, steps: int) -> Fit:
        """Finish, check the weights and return the finished training.

        Raises:
            NotFinite: a weight is not finite. The last step's loss was finite before the step, which may have ruined
                the weights.
        """
        self.finish()
        if not all_finite(self.net):
            epochs = self.recipe.epochs
            raise NotFinite(f"{self._subjects[1]} are not finite after epoch {epochs} of {epochs}", self.losses)
        return Fit(self.losses, self.seconds(), steps)

    def _save(self, checkpoint: Checkpoint, epoch: int, batch: int) -> None:
        state: dict[str, Any] = snapshot(self.net, self.optimizer)
        if self._own_state is not None:
            state.update(self._own_state(batch))
        if self._average is not None:
            state.update(self._average.saved())
        state["epoch_losses"] = torch.tensor(self.losses, dtype=torch.float64)
        state["seconds"] = torch.tensor(self.seconds(), dtype=torch.float64)
        checkpoint.save({**state, "epoch": epoch})
