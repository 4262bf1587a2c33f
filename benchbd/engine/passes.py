"""Passes over a whole set for losses, logits or features: float32, eval mode, large batches, in the set's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.engine.augment import unit_range
from benchbd.engine.network import Classifier
from benchbd.engine.precision import arithmetic

PIXELS = {"cuda": 2048 * 32 * 32, "cpu": 256 * 32 * 32}
"""Pixels in a batch: enough to keep the device busy, and a bound on memory that also holds for 224-pixel images.

A GPU needs thousands of small images. A few dozen keep a CPU busy; with a thousand, whose activations leave its caches,
it is slower (measured: up to 1.4 times).
"""

VERSION = 2
"""Part of the keys of stored results: raise it when a result changes in any bit."""

NARROW = 4
"""Channels in half an AVX2 vector."""


def _keeps_planes(net: nn.Module, device: torch.device) -> bool:
    """Whether images stay in one plane per colour instead of channels_last.

    On a CPU, planes are faster if no convolution has more channels than half a vector holds. Measured on one AVX2 core:
    ResNet-S is 2 times as fast, a network of one channel 1.3 times; VGG-S, with up to 32 channels, is 1.3 times slower.
    """
    widths = [part.out_channels for part in net.modules() if isinstance(part, nn.Conv2d)]
    return device.type == "cpu" and max(widths, default=0) <= NARROW


def pass_batch(size: int, device: torch.device) -> int:
    """Return how many images of ``size`` pixels a side make a batch of a pass."""
    return max(8, PIXELS.get(device.type, PIXELS["cpu"]) // (size * size))


@contextmanager
def eval_mode(net: nn.Module) -> Iterator[None]:
    """Put every layer in eval mode, then each back in its own mode (some may be frozen while others train)."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _whole_set(
    net: Classifier, images: Tensor, device: torch.device, each: Callable[[Tensor, int], Tensor]
) -> np.ndarray:
    device = torch.device(device)
    net.to(device)
    step = pass_batch(images.shape[-1], device)
    planes = _keeps_planes(net, device)
    outputs: list[Tensor] = []
    full = torch.autocast(device.type, enabled=False)
    with arithmetic(device, strict=False, search=False), eval_mode(net), torch.inference_mode(), full:
        for start in range(0, len(images), step):
            batch = images[start : start + step].to(device, non_blocking=True)
            outputs.append(each(unit_range(batch, channels_last=not planes), start))
        if not outputs:
            outputs.append(each(torch.empty(0, *images.shape[1:], device=device), 0))
        return torch.cat(outputs).cpu().numpy()


def losses_of(net: Classifier, images: Tensor, labels: Tensor, *, device: torch.device) -> np.ndarray:
    """Compute the cross-entropy of every image: float32 (N,), in the order of ``images``.

    Args:
        net: the network; it is moved to ``device`` and keeps its train or eval mode.
        images: uint8 (N, 3, H, W).
        labels: int64 (N,).
        device: where to compute.
    """

    labels = labels.to(device)

    def each(x01: Tensor, start: int) -> Tensor:
        return F.cross_entropy(net(x01), labels[start : start + len(x01)], reduction="none")

    return _whole_set(net, images, device, each)


def logits_of(net: Classifier, images: Tensor, *, device: torch.device) -> np.ndarray:
    """Compute the logits of every image: float32 (N, classes), in the order of ``images`` (see :func:`losses_of`)."""
    return _whole_set(net, images, device, lambda x01, start: net(x01))


def features_of(net: Classifier, images: Tensor, *, device: torch.device) -> np.ndarray:
    """Compute the penultimate activations of every image: float32 (N, D), pruned channels zero, in order."""
    return _whole_set(net, images, device, lambda x01, start: net.features(x01))
