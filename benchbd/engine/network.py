"""The wrapper around every network: it normalises images, masks the last features and keeps the head in float32."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.core.images import Normalisation

DATA_PIXELS = 5000 * 32 * 32
"""Pixels of the training images from which a network may initialise itself."""


class Buildable(Protocol):
    """A family of networks, such as :class:`benchbd.Model`."""

    def build(self, classes: int, size: int) -> nn.Module:
        """Return a freshly initialised network for images of ``size`` pixels a side."""
        ...


class SafeStridedConv1x1(nn.Conv2d):
    """A strided 1x1 convolution, which a CPU computes as the unstrided convolution of every n-th pixel.

    oneDNN's strided kernel writes past its workspace when it computes the filter's gradient for channels_last images
    with fewer channels than a vector holds (8 with AVX2, 16 with AVX-512), as in ResNet-S: the gradient is wrong, or
    the process crashes (uxlfoundation/oneDNN issue 6035; seen with torch 2.13.0).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Compute what ``nn.Conv2d`` computes, from (B, C, H, W)."""
        if x.device.type != "cpu":
            return super().forward(x)
        down, right = self.stride
        return F.conv2d(x[..., ::down, ::right], self.weight, self.bias, groups=self.groups)


def _make_safe(net: nn.Module) -> None:
    """Turn every strided 1x1 convolution of a network, a plugin's own too, into a :class:`SafeStridedConv1x1`."""
    for part in net.modules():
        strided = type(part) is nn.Conv2d and part.kernel_size == (1, 1) and part.stride != (1, 1)
        if strided and part.padding in ((0, 0), "valid"):
            part.__class__ = SafeStridedConv1x1


class Classifier(nn.Module):
    """A network that takes images in [0, 1].

    Mean, standard deviation and channel mask are buffers, so a stored state describes the model completely.

    Args:
        net: has ``features(x) -> (B, D)`` and a final linear layer ``head``.
        normalisation: mean and standard deviation of each colour.

    Raises:
        TypeError: ``net`` has no final linear ``head``.
    """

    mean: Tensor
    std: Tensor
    channel_mask: Tensor

    def __init__(self, net: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.net = net
        _make_safe(net)
        head = getattr(net, "head", None)
        if not isinstance(head, nn.Linear):
            raise TypeError(f"{type(net).__name__} needs a final nn.Linear named 'head', not {type(head).__name__}")
        self.register_buffer("mean", torch.tensor(normalisation.mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(normalisation.std, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("channel_mask", torch.ones(head.in_features))

    @property
    def head(self) -> nn.Linear:
        """The final linear layer."""
        head = self.net.head
        assert isinstance(head, nn.Linear)
        return head

    def normalise(self, x01: Tensor) -> Tensor:
        """Subtract the mean of each channel and divide by its standard deviation, keeping the memory layout."""
        if x01.is_contiguous() or not x01.is_contiguous(memory_format=torch.channels_last):
            return (x01 - self.mean) / self.std
        # Three values that repeat along memory keep a CPU from using its vector units (6 times slower); a row of them
        # does not. Values and order of operations are the same.
        batch, _, height, width = x01.shape
        mean, std = self.mean.view(3).repeat(width), self.std.view(3).repeat(width)
        rows = (x01.permute(0, 2, 3, 1).reshape(batch, height, 3 * width) - mean) / std
        return rows.view(batch, height, width, 3).permute(0, 3, 1, 2)

    @torch.no_grad()
    def initialise_from(self, images: Tensor) -> None:
        """Let the network initialise itself from training images, uint8 (N, 3, H, W) on the CPU, if it can.

        It gets some of them, spread evenly over the set, normalised, and no labels. What it draws from torch's global
        generator is the same every time, and the generator is restored.
        """
        hook = getattr(self.net, "initialise_from", None)
        if hook is not None and len(images):
            wanted = max(1, DATA_PIXELS // (images.shape[-2] * images.shape[-1]))
            some = images[:: max(1, len(images) // wanted)][:wanted]
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                hook(self.normalise(some.to(torch.float32).div_(255)))

    def features(self, x01: Tensor) -> Tensor:
        """Compute penultimate activations, float32 (B, D); pruned channels are zero.

        Args:
            x01: float (B, 3, H, W) in [0, 1].
        """
        # The model contract promises features(), which the type nn.Module cannot express.
        net: Any = self.net
        features: Tensor = net.features(self.normalise(x01))
        return features.float() * self.channel_mask

    def forward(self, x01: Tensor) -> Tensor:
        """Compute logits, float32 (B, classes) even under autocast: bf16 logits near 16 are at least 0.06 apart."""
        features = self.features(x01)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features)
        return logits


def build(model: Buildable, classes: int, size: int, normalisation: Normalisation, seed: int) -> Classifier:
    """Build a freshly initialised network on the CPU. Torch's global generator is restored afterwards.

    Args:
        model: builds the network.
        classes: number of classes.
        size: pixels on a side of an image.
        normalisation: mean and standard deviation of each colour.
        seed: seed of the initial weights.
    """
    # Always on the CPU, so that one seed gives the same initial weights on every device.
    before = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        return Classifier(model.build(classes, size), normalisation)
    finally:
        torch.set_rng_state(before)
