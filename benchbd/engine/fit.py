"""The training loop of every model in a benchmark. One straight line; the host reads one value back per epoch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from benchbd.core.recipe import Recipe
from benchbd.core.seeding import seed_for
from benchbd.engine.augment import draw_epoch, resident
from benchbd.engine.batch_buffer import BatchBuffer, too_large
from benchbd.engine.epoch_weights import PerEpochWeights
from benchbd.engine.graph import CudaRecorder, GraphedStep
from benchbd.engine.network import Classifier
from benchbd.engine.precision import Precision, arithmetic
from benchbd.engine.state import make_optimizer, restore, set_lr, snapshot
from benchbd.engine.step import Loss, Perturb, Step, training_mode
from benchbd.errors import BenchbdError, Diverged

PROGRESS_EVERY = 0.2
"""Seconds between two progress reports within an epoch."""


class Fit(NamedTuple):
    """What a training leaves beside the weights.

    Attributes:
        epoch_losses: mean cross-entropy of each epoch, as seen in training (augmented, train mode, unweighted).
        seconds: wall-clock of the training, the parts before a resume included; CUDA graph capture and ``on_epoch``
            excluded.
        steps: optimiser steps done in all.
    """

    epoch_losses: list[float]
    seconds: float
    steps: int


class NotFinite(Diverged):
    """A loss or a weight is not finite.

    Attributes:
        epoch_losses: mean cross-entropy of the epochs until then, the broken one's included.
    """

    def __init__(self, text: str, epoch_losses: list[float]) -> None:
        super().__init__(text)
        self.epoch_losses = epoch_losses


class Checkpoint(Protocol):
    """Where an unfinished training is kept."""

    def due(self) -> bool:
        """Whether to save now. PlannedTrainings after every step, so it must be cheap."""
        ...

    def save(self, state: dict[str, Any], /) -> None:
        """Keep a flat dict of CPU tensors and ints."""
        ...

    def load(self) -> dict[str, Any] | None:
        """What was saved last, or None."""
        ...


def batch_bounds(count: int, batch_size: int) -> list[tuple[int, int]]:
    """Where each batch of an epoch begins and ends.

    Every image is trained on once an epoch. A last batch of a single image joins the one before it: batch norm cannot
    normalise one value per channel.
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


@contextlib.contextmanager
def own_randomness(device: torch.device) -> Iterator[Callable[[int], None]]:
    """Yield what seeds torch's global generators, for dropout and perturbations; afterwards they are as before."""
    index = None
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
    with torch.random.fork_rng(devices=[] if index is None else [index]):

        def reseed(seed: int) -> None:
            torch.default_generator.manual_seed(seed)
            if index is not None:
                torch.cuda.default_generators[index].manual_seed(seed)

        yield reseed


def fit(
    net: Classifier,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe,
    *,
    device: torch.device,
    precision: Precision,
    seed: int,
    weights: Tensor | None = None,
    epoch_weights: PerEpochWeights | None = None,
    loss: Loss | None = None,
    perturb: Perturb | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    on_epoch: Callable[[int, Classifier], None] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Fit:
    """Train a network in place.

    Args:
        net: moved to ``device`` and left there in eval mode, without gradients.
        images: uint8 (N, 3, H, W). Not copied on a CPU.
        labels: int64 (N,).
        recipe: optimiser, schedule, augmentation.
        device: where to train. A set too large for a GPU's memory stays where it is, and its batches come over.
        precision: of :func:`benchbd.engine.choose_precision`.
        seed: of order, augmentation and dropout. Everything random is drawn from (seed, epoch) or (seed, epoch, step).
        weights: float32 (N,), one per image of the set, whatever the order of training; ones where not given.
        reweigh: makes other weights at the start of each epoch.
        loss: what to minimise, from a batch's losses and weights; :func:`weighted_mean` where not given.
        perturb: adversarial training.
        on_progress: told ``epoch`` (from 1), ``epochs``, ``step`` and ``steps`` of the epoch, ``images`` trained on so
            far, a few times a second; at the end of each epoch also ``loss``.
        on_epoch: called after each epoch with its number (from 0) and the network in eval mode, which it must leave on
            its device. After a resume it is not called again for epochs that were finished before.
        checkpoint: where to go on from and to save to; on a CPU the result of a resumed training is bit-identical.

    Raises:
        NotFinite: a loss or a weight is not finite; found at the end of the epoch.
        BenchbdError: there is nothing to train on.
        ValueError: images, labels and weights do not belong together.
    """
    device = torch.device(device)
    count = len(images)
    if count == 0:
        raise BenchbdError("cannot train: no image is left in the training set")
    if images.dtype != torch.uint8 or images.ndim != 4 or labels.shape != (count,):
        raise ValueError(f"fit needs uint8 (N, 3, H, W) and (N,), not {images.dtype} {images.shape}, {labels.shape}")
    if weights is not None and weights.shape != (count,):
        raise ValueError(f"fit needs one weight per image, {count} in all, not {tuple(weights.shape)}")
    classes = net.head.out_features
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        # On a GPU this would surface later, without saying where, and end the process for good.
        raise ValueError(f"fit needs labels 0..{classes - 1}, not {int(labels.min())}..{int(labels.max())}")
    weights = torch.ones(count) if weights is None else weights.to(torch.float32)
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    net.to(device)
    net.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = make_optimizer(net, recipe, device)
    window = None
    if too_large(images, device):
        largest = max(end - start for start, end in batch_bounds(count, recipe.batch_size))
        window = BatchBuffer(images, largest, device)
    else:
        images = resident(images, device)
    step = Step(net, optimizer, images, labels.to(device), weights.to(device), recipe, precision, loss, perturb, window)
    with arithmetic(device, strict=precision.strict, search=not precision.strict), own_randomness(device) as reseed:
        result = _loop(step, count, seed, reseed, epoch_weights, on_progress, on_epoch, checkpoint)
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    net.eval()
    return result


def _loop(
    step: Step,
    count: int,
    seed: int,
    reseed: Callable[[int], None],
    epoch_weights: PerEpochWeights | None,
    on_progress: Callable[[dict[str, Any]], None] | None,
    on_epoch: Callable[[int, Classifier], None] | None,
    checkpoint: Checkpoint | None,
) -> Fit:
    net, optimizer, recipe, device = step.net, step.optimizer, step.recipe, step.device
    bounds = batch_bounds(count, recipe.batch_size)
    first_epoch = first_batch = 0
    losses: list[float] = []
    before = 0.0
    if checkpoint is not None and (saved := checkpoint.load()) is not None:
        restore(net, optimizer, saved)
        step.loss_sum.copy_(saved["loss_sum"])
        step.non_finite.copy_(saved["non_finite"])
        losses, before = saved["epoch_losses"].tolist(), float(saved["seconds"])
        first_epoch, first_batch = int(saved["epoch"]), int(saved["batch"])

    training_mode(net, recipe.bn)
    run = fast_step(step, draw_epoch(seed, 0, count)[: recipe.batch_size].to(device))
    started = time.perf_counter()
    told = -math.inf

    def seconds() -> float:
        return before + time.perf_counter() - started

    def save(epoch: int, batch: int) -> None:
        assert checkpoint is not None
        state: dict[str, Any] = snapshot(net, optimizer)
        state.update(loss_sum=step.loss_sum.cpu().clone(), non_finite=step.non_finite.cpu().clone())
        state.update(epoch_losses=torch.tensor(losses, dtype=torch.float64))
        state.update(seconds=torch.tensor(seconds(), dtype=torch.float64), epoch=epoch, batch=batch)
        checkpoint.save(state)

    for epoch in range(first_epoch, recipe.epochs):
        training_mode(net, recipe.bn)
        set_lr(optimizer, recipe.lr_at(epoch))
        drawn = draw_epoch(seed, epoch, count)
        rows = drawn.to(device)
        if epoch_weights is not None:
            # In place, where a captured graph reads them. A resume in mid-epoch finds the same: the rows are the same.
            step.weights.copy_(epoch_weights(step.images, step.labels, rows, recipe.augment))
        for batch in range(first_batch, len(bounds)):
            start, end = bounds[batch]
            reseed(seed_for(seed, "step", epoch, batch))
            if step.window is not None:
                step.window.load(drawn[start:end, 0])
            run(rows[start:end])
            if batch + 1 == len(bounds):
                break
            if checkpoint is not None and checkpoint.due():
                save(epoch, batch + 1)
            if on_progress is not None and time.monotonic() - told >= PROGRESS_EVERY:
                told = time.monotonic()
                on_progress(_progress(epoch, recipe.epochs, batch + 1, len(bounds), epoch * count + end))
        first_batch = 0
        mean, non_finite = torch.stack([step.loss_sum / count, step.non_finite.double()]).tolist()
        if not (math.isfinite(mean) and math.isfinite(non_finite)):
            raise NotFinite(f"loss is not finite in epoch {epoch + 1} of {recipe.epochs}", [*losses, mean])
        losses.append(mean)
        step.start_epoch()
        if on_progress is not None:
            done = _progress(epoch, recipe.epochs, len(bounds), len(bounds), (epoch + 1) * count)
            on_progress({**done, "loss": mean})
        if on_epoch is not None:
            paused = time.perf_counter()
            net.eval()
            on_epoch(epoch, net)
            optimizer.zero_grad(set_to_none=True)  # what it may have left behind
            before -= time.perf_counter() - paused
        if checkpoint is not None and epoch + 1 < recipe.epochs and checkpoint.due():
            save(epoch + 1, 0)

    # The last step's loss was finite before the step, which may have ruined the weights.
    if not all_finite(net):
        raise NotFinite(f"weights are not finite after epoch {recipe.epochs} of {recipe.epochs}", losses)
    return Fit(losses, seconds(), recipe.epochs * len(bounds))


def all_finite(net: nn.Module) -> bool:
    """Whether every floating-point weight and buffer is finite."""
    return all(bool(torch.isfinite(t).all()) for t in net.state_dict().values() if t.is_floating_point())


def fast_step(step: Step, rows: Tensor) -> Step | GraphedStep:
    """The step as the device runs it best: as it is on a CPU, captured on CUDA, compiled where asked for.

    ``rows`` is any full batch, to warm up with; nothing is captured where the set is smaller than a batch.
    """
    device = step.device
    if device.type != "cuda":
        return step
    if step.precision.compile:
        # Full batches only: each further shape would cost another compilation.
        step.forward = torch.compile(step.net, dynamic=False)
    if not step.precision.graph or step.perturb is not None or len(rows) < step.recipe.batch_size:
        # A perturbation is a plugin's own loop of gradients; whether it can be captured is not ours to promise.
        return step
    return GraphedStep(step, rows, CudaRecorder(device))


def _progress(epoch: int, epochs: int, step: int, steps: int, images: int) -> dict[str, Any]:
    return {"epoch": epoch + 1, "epochs": epochs, "step": step, "steps": steps, "images": images}
