"""Train several small networks at once: one alone fills neither the vector units of a core nor a GPU.

Each model sees the batches that :func:`benchbd.engine.fit` would give it, in the same order and with the same
augmentation, and has its own loss, batch statistics and optimiser state. Results equal those of ``fit`` up to the order
in which a convolution adds up its products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchbd.core.recipe import Recipe
from benchbd.engine.augment import batch_of, draw_epoch, resident, unit_range
from benchbd.engine.epochs import Epochs, Fit, batch_bounds
from benchbd.engine.fit import fit
from benchbd.engine.graph import CudaRecorder, GraphedStep
from benchbd.engine.network import Classifier
from benchbd.engine.packed_network import LANES, Packed
from benchbd.engine.precision import Autocast, Precision, arithmetic
from benchbd.engine.state import make_optimizer
from benchbd.engine.step import Loss, smoothed, training_mode, weighted_mean
from benchbd.engine.update import Update
from benchbd.errors import BenchbdError


class PackedStep:
    """A training step of all models of a pack.

    Attributes:
        loss_sum: float64 (count,), the summed cross-entropy of each model's images in this epoch so far.
        non_finite: float32 (count,), for each model 0 as long as every loss of this epoch is finite, NaN from the first
            that is not.
    """

    def __init__(
        self,
        pack: Packed,
        nets: Sequence[Classifier],
        optimizer: torch.optim.Optimizer,
        images: Sequence[Tensor],
        labels: Tensor,
        weights: Tensor,
        recipe: Recipe,
        precision: Precision,
        loss: Loss | None,
    ) -> None:
        self.pack, self.nets, self.optimizer = pack, nets, optimizer
        self.images, self.labels, self.weights = images, labels, weights
        self.recipe, self.precision = recipe, precision
        self.loss: Loss = loss or weighted_mean
        self.smoothing = recipe.label_smoothing if loss is None else 0.0
        self.update = Update(pack, optimizer, recipe, pack.count)
        device = labels.device
        self.loss_sum = torch.zeros(pack.count, dtype=torch.float64, device=device)
        self.non_finite = torch.zeros(pack.count, dtype=torch.float32, device=device)

    def __call__(self, rows: Tensor) -> None:
        """Train on one batch of each model. ``rows`` int64 (B, count, 4 or more): rows of ``draw_epoch``."""
        picks = rows[..., 0].t()
        labels, weights = self.labels.gather(1, picks), self.weights.gather(1, picks)
        batches = []
        for index, (images, net) in enumerate(zip(self.images, self.nets, strict=True)):
            batch = batch_of(images, rows[:, index], self.recipe.augment)
            batches.append(net.normalise(unit_range(batch, self.precision.channels_last)))
        x = self.pack.inputs(batches)
        with Autocast(x.device, self.precision.dtype):
            logits = self.pack(x)
        losses = F.cross_entropy(logits.transpose(0, 1).flatten(0, 1), labels.flatten(), reduction="none")
        losses = losses.view(labels.shape)
        given = smoothed(losses, logits.transpose(0, 1), self.smoothing) if self.smoothing else losses
        minimised = torch.stack([self.loss(of_one, w) for of_one, w in zip(given, weights, strict=True)])
        # The sum gives each model the gradient it has alone: no weight contributes to two of the losses.
        self.update(minimised.sum())
        self.loss_sum += losses.detach().sum(1, dtype=torch.float64)
        self.non_finite += minimised.detach() * 0.0

    def tensors(self) -> dict[str, Tensor]:
        """Return every tensor that a step changes, by name."""
        return {**self.update.tensors(), "loss_sum": self.loss_sum, "non_finite": self.non_finite}

    def start_epoch(self) -> None:
        """Set the sums to zero."""
        self.loss_sum.zero_()
        self.non_finite.zero_()


def fit_packed(
    nets: Sequence[Classifier],
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    recipe: Recipe,
    *,
    device: torch.device,
    precision: Precision,
    seeds: Sequence[int],
    weights: Sequence[Tensor | None] | None = None,
    loss: Loss | None = None,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
    lanes: int = LANES,
) -> list[Fit]:
    """Train networks of one architecture in place, all in one.

    Args:
        nets: the networks, without dropout; they end up on ``device``, in eval mode, without gradients.
        images: uint8 (N, 3, H, W) for each model; several may share one tensor.
        labels: int64 (N,) for each model.
        recipe: the recipe of all models.
        device: where to train.
        precision: from :func:`benchbd.engine.choose_precision`; torch.compile is not used.
        seeds: one for each model, used as in :func:`benchbd.engine.fit`.
        weights: float32 (N,) for each model; ones by default.
        loss: what each model minimises.
        on_progress: receives ``epoch`` (from 1), ``epochs`` and the models' mean ``loss`` at the end of each epoch.
        lanes: see :data:`benchbd.engine.packed_network.LANES`.

    Returns:
        Each model's training; ``seconds`` is its share of the pack's wall-clock time.

    Raises:
        NotFinite: a loss or a weight of any model is not finite. A model that diverges spoils the others of its group,
            so no network keeps what it learnt: train them one by one.
        BenchbdError: the training set is empty.
        ValueError: the networks or sets cannot be trained as one.
    """
    device, count = torch.device(device), len(nets)
    sizes = {len(given) for given in (*images, *labels)}
    if not len(images) == len(labels) == len(seeds) == count or len(sizes) > 1:
        raise ValueError(f"a pack needs images, labels and a seed for each of {count} models, and sets of one size")
    size = sizes.pop() if sizes else 0
    if size == 0:
        raise BenchbdError("cannot train: no image is left in the training set")
    classes = nets[0].head.out_features
    if any(int(given.min()) < 0 or int(given.max()) >= classes for given in labels):
        raise ValueError(f"a pack needs labels 0..{classes - 1}")
    ones = torch.ones(size)
    given = [ones if w is None else w.to(torch.float32) for w in weights or [None] * count]
    pack = Packed(nets, lanes).to(device)
    for net in nets:
        net.to(device)
    if precision.channels_last:
        pack.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    moved = {id(tensor): resident(tensor, device) for tensor in images}
    step = PackedStep(
        pack,
        nets,
        make_optimizer(pack, recipe, device, count),
        [moved[id(tensor)] for tensor in images],
        torch.stack(list(labels)).to(device),
        torch.stack(given).to(device),
        recipe,
        precision,
        loss,
    )
    with arithmetic(device, strict=precision.strict, search=not precision.strict):
        subjects = ("a loss of the pack", "weights of the pack")
        epochs = Epochs(
            pack, step.optimizer, recipe, on_progress=on_progress, average=step.update.average, subjects=subjects
        )
        fits = _loop(epochs, step, size, seeds)
    pack.unpack(nets)
    for net in nets:
        net.eval()
    return fits


def packing_fault(nets: Sequence[Classifier]) -> str | None:
    """Say in one line why these networks cannot be packed, and what to do; None if they can. Trains nothing."""
    try:
        Packed(nets)
    except ValueError as error:
        return str(error)
    return None


def packing_pays(net: Classifier, device: torch.device) -> bool:
    """Whether a pack of such networks trains faster than one after another.

    One such network never fills a GPU. It fills a core if its first convolution, the one at full resolution, has more
    channels than a vector. Measured on one AVX2 core: four ResNet-S in one pack are 2.4 times as fast with a stem of 2
    channels, 1.3 times with 8, as fast with 16 or 32; four ResNet-18 with a first stage of 8, whose later stages have
    up to 64, are 0.7 times as fast.
    """
    widths = [part.out_channels for part in net.net.modules() if isinstance(part, torch.nn.Conv2d)]
    return device.type == "cuda" or (widths[0] <= LANES and max(widths) <= 2 * LANES)


def fit_several(
    nets: Sequence[Classifier],
    images: Sequence[Tensor],
    labels: Sequence[Tensor],
    recipe: Recipe,
    *,
    device: torch.device,
    precision: Precision,
    seeds: Sequence[int],
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> list[Fit]:
    """Train networks as :func:`fit_packed` does if a pack is faster, else one by one.

    Raises:
        NotFinite: a loss or a weight of any model is not finite. If they train one by one, the networks before the one
            that diverges keep what they learnt.
        ValueError: the networks cannot be packed; raised even if a pack would not be faster.
    """
    if packing_pays(nets[0], device):
        return fit_packed(
            nets, images, labels, recipe, device=device, precision=precision, seeds=seeds, on_progress=on_progress
        )
    Packed(nets)
    return [
        fit(net, x, y, recipe, device=device, precision=precision, seed=seed, on_progress=on_progress)
        for net, x, y, seed in zip(nets, images, labels, seeds, strict=True)
    ]


def _rows(seeds: Sequence[int], epoch: int, size: int, step: PackedStep) -> Tensor:
    augment = step.recipe.augment
    return torch.stack([draw_epoch(seed, epoch, size, augment) for seed in seeds], 1).to(step.labels.device)


def _loop(epochs: Epochs, step: PackedStep, size: int, seeds: Sequence[int]) -> list[Fit]:
    pack, recipe, device = step.pack, step.recipe, step.labels.device
    bounds = batch_bounds(size, recipe.batch_size)
    training_mode(pack, recipe.bn)
    run: Callable[[Tensor], None] = step
    if device.type == "cuda" and step.precision.graph and size >= recipe.batch_size:
        run = GraphedStep(step, _rows(seeds, 0, size, step)[: recipe.batch_size], CudaRecorder(device))
    by_epoch: list[list[float]] = []
    for epoch, _ in epochs:
        rows = _rows(seeds, epoch, size, step)
        for batch, (start, end) in enumerate(bounds):
            epochs.set_rate(epoch, batch, len(bounds))
            run(rows[start:end])
        means, non_finite = torch.stack([step.loss_sum / size, step.non_finite.double()]).tolist()
        step.start_epoch()
        by_epoch.append(means)
        epochs.end_epoch(epoch, sum(means) / len(means), finite=all(map(math.isfinite, non_finite)))
    whole = epochs.result(recipe.epochs * len(bounds))
    seconds = whole.seconds / pack.count
    return [Fit([means[model] for means in by_epoch], seconds, whole.steps) for model in range(pack.count)]
