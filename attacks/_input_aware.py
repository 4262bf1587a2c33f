"""Training of the input-aware attack's networks (Nguyen and Tran 2020). Imported inside methods only.

Both phases draw their random numbers on the CPU, with a seed for each epoch that comes from (seed, phase, epoch).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchbd import Diverged
from benchbd.attacks._generator import Generator, fresh, mask_of, moved, pattern_of, put
from benchbd.core.seeding import seed_for
from benchbd.engine import Classifier
from benchbd.engine.precision import arithmetic

DENSITY = 0.032
"""Mean mask value above which the loss penalises the mask network."""
NORM_WEIGHT = 100.0
"""Weight of that penalty; the diversity loss has weight 1."""
SHARE = 0.1
"""Share of a batch that gets its own trigger, and share that gets another image's trigger (with its true label)."""
CROP = 5
"""Width of the zero padding before a random crop, in pixels."""
DEGREES = 10.0
"""Largest rotation, in degrees."""
MASK_DROPS = (10 / 25, 20 / 25)
CLASSIFIER_DROPS = (100 / 575, 200 / 575, 300 / 575, 400 / 575)
PATTERN_DROPS = (200 / 575, 300 / 575, 400 / 575, 500 / 575)
"""Points at which each network's learning rate falls to a tenth, as shares of its phase's length in the reference."""
LATE_DROPS = (0.75,)
"""The same for short runs: a sixth of a few hundred steps is too early, since nothing is learnt by then."""

Progress = Callable[..., None]


class Schedule(NamedTuple):
    """Settings of a phase.

    Attributes:
        seed: seed of all random numbers.
        epochs: length of the phase.
        batch: images in a batch.
        hflip: mirror images at random.
        device: device to compute on.
        progress: called with stage, epoch, epochs and loss.
        classifier_lr: learning rate of the classifier (phase 2).
        late: lower phase 2's learning rates once, late, instead of at the reference's points.
        std: the data set's standard deviation of each channel, which scales distances between pixels.
    """

    seed: int
    epochs: int
    batch: int
    hflip: bool
    device: torch.device
    progress: Progress
    classifier_lr: float = 0.01
    late: bool = False
    std: tuple[float, ...] = (1.0, 1.0, 1.0)


def apart(first: Tensor, second: Tensor) -> Tensor:
    """Root mean square difference of each pair, (B,)."""
    # The slope of sqrt is infinite at 0, which two equal images reach; the tiny floor keeps the gradient finite.
    return (first - second).square().mean((1, 2, 3)).clamp_min(1e-14).sqrt()


def sameness(images: tuple[Tensor, Tensor], made: tuple[Tensor, Tensor]) -> Tensor:
    """The diversity loss: the distance of two images over the distance of the outputs for them; batch mean."""
    return (apart(*images) / (apart(*made) + 1e-7)).mean()


def normalised(pair: tuple[Tensor, Tensor], std: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Two batches (B, 3, H, W) in units of each channel's deviation; the mean cancels in their distance."""
    unit = pair[0].new_tensor(std).view(1, 3, 1, 1)
    return pair[0] / unit, pair[1] / unit


def _milestones(shares: tuple[float, ...], epochs: int) -> list[int]:
    return [max(1, round(share * epochs)) for share in shares]


def _turned(images: Tensor, draws: Tensor) -> Tensor:
    """Crop, rotate and mirror each image by its (row shift, column shift, radians, mirrored 0/1); nearest pixels."""
    height, width = images.shape[-2:]
    down, right, angle, mirror = draws.to(images.device).unbind(1)
    cosine, sine, side = angle.cos(), angle.sin(), 1 - 2 * mirror
    matrix = torch.stack(
        [
            torch.stack([cosine * side, -sine, 2 * right / width], 1),
            torch.stack([sine * side, cosine, 2 * down / height], 1),
        ],
        1,
    )
    where = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, where, mode="nearest", padding_mode="zeros", align_corners=False)


def pairs(
    images: Tensor, labels: Tensor, plan: Schedule, phase: str, epoch: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Batches of two independently shuffled and augmented passes over the set.

    Yields:
        The images and labels of the first pass, and the images of the second.
    """
    generator = torch.Generator().manual_seed(seed_for(plan.seed, phase, epoch))
    count, size = len(images), min(plan.batch, len(images))
    orders, draws = [], []
    for _ in range(2):
        orders.append(torch.randperm(count, generator=generator).to(plan.device))
        each = torch.empty(count, 4)
        each[:, :2] = torch.randint(-CROP, CROP + 1, (count, 2), generator=generator)
        each[:, 2].uniform_(-math.radians(DEGREES), math.radians(DEGREES), generator=generator)
        each[:, 3] = torch.randint(0, 2, (count,), generator=generator) * int(plan.hflip)
        draws.append(each)
    # An incomplete last batch may be too small for a pair, so it is dropped; the order changes in every epoch.
    for start in range(0, count - size + 1, size):
        part = slice(start, start + size)
        first, second = (
            _turned(images[order[part]].float() / 255, draw[part]).contiguous(memory_format=torch.channels_last)
            for order, draw in zip(orders, draws, strict=True)
        )
        yield first, labels[orders[0][part]], second


def _finite(total: Tensor, what: str, epoch: int, epochs: int) -> float:
    loss = float(total)
    if not math.isfinite(loss):
        raise Diverged(f"{what}: loss is not finite in epoch {epoch + 1} of {epochs}")
    return loss


def train_mask(images: Tensor, width: int, stages: int, plan: Schedule) -> Generator:
    """Phase 1: train masks of mean density 0.032 that differ between images. images: uint8 (N, 3, H, W)."""
    net = fresh(1, width, stages, seed_for(plan.seed, "mask", "init"))
    moved(net, plan.device).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.5, 0.9))
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, _milestones(MASK_DROPS, plan.epochs))
    stored, labels = images.to(plan.device), torch.zeros(len(images), dtype=torch.int64, device=plan.device)
    with arithmetic(plan.device, strict=False, search=False):
        for epoch in range(plan.epochs):
            total, batches = torch.zeros((), device=plan.device), 0
            for first, _, second in pairs(stored, labels, plan, "mask", epoch):
                masks = mask_of(net, first), mask_of(net, second)
                dense = F.relu(masks[0] - DENSITY).mean()
                loss = NORM_WEIGHT * dense + sameness(normalised((first, second), plan.std), masks)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total, batches = total + loss.detach(), batches + 1
            schedule.step()
            loss_of_epoch = _finite(total / batches, "mask network", epoch, plan.epochs)
            plan.progress("dynamic masks", epoch + 1, plan.epochs, loss=loss_of_epoch)
    return net.cpu().eval().requires_grad_(False)


def train_pattern(
    images: Tensor,
    labels: Tensor,
    target: int,
    classifier: Classifier,
    mask: Generator,
    width: int,
    stages: int,
    plan: Schedule,
) -> tuple[Generator, Classifier]:
    """Phase 2: train a classifier and a pattern network together, with the mask network frozen.

    A tenth of each batch carries its own trigger and the target label. Another tenth carries the trigger of a different
    image and keeps its label, so that a trigger works only in its own image. The rest is clean.

    Args:
        images: uint8 (N, 3, H, W), clean.
        labels: int64 (N,).
        target: the target class.
        classifier: an untrained network.
        mask: the mask network from phase 1.
        width: width of the pattern network.
        stages: stages of the pattern network.
        plan: settings of the phase.

    Returns:
        The pattern network, frozen on the CPU, and the classifier in eval mode on the device.
    """
    device = plan.device
    net = fresh(3, width, stages, seed_for(plan.seed, "pattern", "init"))
    moved(net, device).train()
    moved(mask, device)
    moved(classifier, device).train()
    sgd = torch.optim.SGD(classifier.parameters(), lr=plan.classifier_lr, momentum=0.9, weight_decay=5e-4)
    adam = torch.optim.Adam(net.parameters(), lr=0.01, betas=(0.5, 0.9))
    drops = tuple(
        torch.optim.lr_scheduler.MultiStepLR(optimizer, _milestones(LATE_DROPS if plan.late else shares, plan.epochs))
        for optimizer, shares in ((sgd, CLASSIFIER_DROPS), (adam, PATTERN_DROPS))
    )
    stored, true = images.to(device), labels.to(device)
    with arithmetic(device, strict=False, search=False):
        for epoch in range(plan.epochs):
            total, batches = torch.zeros((), device=device), 0
            for first, given, second in pairs(stored, true, plan, "pattern", epoch):
                own = max(1, int(SHARE * len(first)))
                triggered, crossed, other = first[:own], first[own : 2 * own], second[own : 2 * own]
                # Two passes, as in the reference, so that each has its own batch norm statistics.
                patterns = pattern_of(net, triggered), pattern_of(net, other)
                own_trigger = put(triggered, patterns[0], mask_of(mask, triggered))
                other_trigger = put(crossed, patterns[1], mask_of(mask, other))
                batch = torch.cat([own_trigger, other_trigger, first[2 * own :]])
                wanted = torch.cat([torch.full_like(given[:own], target), given[own:]])
                pixels = normalised((triggered, other), plan.std), normalised(patterns, plan.std)
                loss = F.cross_entropy(classifier(batch), wanted) + sameness(*pixels)
                sgd.zero_grad()
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                sgd.step()
                adam.step()
                total, batches = total + loss.detach(), batches + 1
            for drop in drops:
                drop.step()
            loss_of_epoch = _finite(total / batches, "pattern network", epoch, plan.epochs)
            plan.progress("dynamic patterns", epoch + 1, plan.epochs, loss=loss_of_epoch)
    mask.cpu()
    return net.cpu().eval().requires_grad_(False), classifier.eval()
