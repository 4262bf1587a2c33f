"""Train one network: one straight line from images to weights; the host reads one value back per epoch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchbd.core.allocator import kept_if_little
from benchbd.core.recipe import Recipe
from benchbd.core.seeding import seed_for
from benchbd.engine.augment import draw_epoch, resident
from benchbd.engine.batch_buffer import BatchBuffer, too_large
from benchbd.engine.epoch_weights import PerEpochWeights
from benchbd.engine.epochs import Checkpoint, Epochs, Fit, batch_bounds, own_randomness
from benchbd.engine.graph import CudaRecorder, GraphedStep
from benchbd.engine.network import Classifier
from benchbd.engine.precision import Precision, arithmetic
from benchbd.engine.state import make_optimizer
from benchbd.engine.step import Loss, Perturb, Step, training_mode
from benchbd.errors import BenchbdError


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
        net: the network; it ends up on ``device``, in eval mode, without gradients.
        images: uint8 (N, 3, H, W). A CPU does not copy them.
        labels: int64 (N,).
        recipe: optimiser, schedule, augmentation.
        device: where to train. A set too large for a GPU's memory stays on the host, and its batches are copied over.
        precision: from :func:`benchbd.engine.choose_precision`.
        seed: seed of order, augmentation and dropout. Everything random is drawn from (seed, epoch) or
            (seed, epoch, step).
        weights: float32 (N,), one per image in the order of ``images``; ones by default.
        epoch_weights: computes other weights at the start of each epoch.
        loss: maps a batch's losses and weights to what is minimised; :func:`weighted_mean` by default.
        perturb: adversarial training.
        on_progress: receives ``epoch`` (from 1), ``epochs``, ``step`` and ``steps`` of the epoch, and ``images``, the
            number trained on so far, a few times a second; at the end of each epoch also ``loss``.
        on_epoch: called after each epoch with its number (from 0) and the network in eval mode, which it must leave on
            its device. A resumed training does not call it again for epochs that were finished before.
        checkpoint: where to resume from and to save to; on a CPU the result of a resumed training is bit-identical.

    Raises:
        NotFinite: a loss or a weight is not finite; found at the end of the epoch.
        BenchbdError: the training set is empty.
        ValueError: the shapes of images, labels and weights do not match, or a label is out of range.
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
        # A GPU would report this later, without saying where, and the process could not go on.
        raise ValueError(f"fit needs labels 0..{classes - 1}, not {int(labels.min())}..{int(labels.max())}")
    weights = torch.ones(count) if weights is None else weights.to(torch.float32)
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    net.to(device)
    net.to(memory_format=layout)  # type: ignore[call-overload]
    optimizer = make_optimizer(net, recipe, device)
    buffer = None
    if too_large(images, device):
        largest = max(end - start for start, end in batch_bounds(count, recipe.batch_size))
        buffer = BatchBuffer(images, largest, device)
    else:
        images = resident(images, device)
    step = Step(net, optimizer, images, labels.to(device), weights.to(device), recipe, precision, loss, perturb, buffer)
    with arithmetic(device, strict=precision.strict, search=not precision.strict), own_randomness(device) as reseed:
        epochs = Epochs(
            net,
            optimizer,
            recipe,
            on_progress=on_progress,
            on_epoch=None if on_epoch is None else lambda epoch: on_epoch(epoch, net),
            checkpoint=checkpoint,
            own_state=step.saved_sums,
            average=step.update.average,
        )
        with contextlib.ExitStack() as allocator:
            result = _loop(epochs, step, count, seed, reseed, epoch_weights, allocator)
    net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    net.eval()
    return result


def _loop(
    epochs: Epochs,
    step: Step,
    count: int,
    seed: int,
    reseed: Callable[[int], None],
    epoch_weights: PerEpochWeights | None,
    allocator: contextlib.ExitStack,
) -> Fit:
    recipe, device = step.recipe, step.device
    bounds = batch_bounds(count, recipe.batch_size)
    steps = len(bounds)
    if (saved := epochs.resume()) is not None:
        step.restore_sums(saved)
    training_mode(step.net, recipe.bn)
    run = fast_step(step, draw_epoch(seed, 0, count, recipe.augment)[: recipe.batch_size].to(device))
    measure_memory = device.type == "cpu"
    for epoch, first_batch in epochs:
        drawn = draw_epoch(seed, epoch, count, recipe.augment)
        rows = drawn.to(device)
        if epoch_weights is not None:
            # In place, where a captured graph reads them. A resume within the epoch computes the same weights, because
            # it draws the same rows.
            step.weights.copy_(epoch_weights(step.images, step.labels, rows, recipe.augment))
        for batch in range(first_batch, steps):
            start, end = bounds[batch]
            reseed(seed_for(seed, "step", epoch, batch))
            if step.buffer is not None:
                step.buffer.load(drawn[start:end, 0])
            epochs.set_rate(epoch, batch, steps)
            run(rows[start:end])
            if measure_memory:  # a step is over: the process has taken what all take
                measure_memory = False
                allocator.enter_context(kept_if_little())
            if batch + 1 < steps:
                epochs.between_batches(epoch, batch + 1, step=batch + 1, steps=steps, images=epoch * count + end)
        mean, non_finite = torch.stack([step.loss_sum / count, step.non_finite.double()]).tolist()
        step.start_epoch()
        facts = {"step": steps, "steps": steps, "images": (epoch + 1) * count}
        epochs.end_epoch(epoch, mean, finite=math.isfinite(non_finite), **facts)
    return epochs.result(recipe.epochs * steps)


def fast_step(step: Step, rows: Tensor) -> Step | GraphedStep:
    """Return the step as the device runs it fastest: unchanged on a CPU, captured on CUDA, compiled if requested.

    ``rows`` is any full batch, to warm up with. A set smaller than a batch is not captured.
    """
    device = step.device
    if device.type != "cuda":
        return step
    if step.precision.compile:
        # Full batches only: every other shape would cost another compilation.
        step.forward = torch.compile(step.net, dynamic=False)
    if not step.precision.graph or step.perturb is not None or len(rows) < step.recipe.batch_size:
        # A perturbation is a plugin's own loop of gradients: the engine cannot know whether a graph can capture it.
        return step
    return GraphedStep(step, rows, CudaRecorder(device))
