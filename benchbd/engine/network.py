"""The wrapper around every network: normalisation as its first layer, a mask on its last features, a float32 head."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.core.images import Normalisation


class Buildable(Protocol):
    """A family of networks, such as :class:`benchbd.Model`."""

    def build(self, classes: int, size: int) -> nn.Module:
        """A freshly initialised network for images of ``size`` pixels a side."""
        ...


class SafeStridedConv1x1(nn.Conv2d):
    """A strided 1x1 convolution: the unstrided one of every n-th pixel, and on a CPU computed as that.

    oneDNN's own way writes past its workspace when it computes the filter's gradient of channels_last images with fewer
    channels than a vector holds (8 with AVX2, 16 with AVX-512), as in ResNet-S: the gradient is wrong, or the process
    crashes (uxlfoundation/oneDNN issue 6035; seen with torch 2.13.0).
    """

    def forward(self, x: Tensor) -> Tensor:
        """As ``nn.Conv2d``."""
        if x.device.type != "cpu":
            return super().forward(x)
        down, right = self.stride
        return F.conv2d(x[..., ::down, ::right], self.weight, self.bias, groups=self.groups)


def _make_safe(net: nn.Module) -> None:
    """Let every strided 1x1 convolution of a network, whoever wrote it, be computed the safe way."""
    for part in net.modules():
        strided = type(part) is nn.Conv2d and part.kernel_size == (1, 1) and part.stride != (1, 1)
        if strided and part.padding in ((0, 0), "valid"):
            part.__class__ = SafeStridedConv1x1


class Classifier(nn.Module):
    """A network that takes images in [0, 1].

    ``net`` has ``features(x) -> (B, D)`` and a final linear ``head``. The mean, the standard deviation and the channel
    mask are buffers, so that a stored state says all there is to say about a model.
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
        """Subtract the mean and divide by the standard deviation of each channel, keeping the memory layout."""
        if x01.is_contiguous() or not x01.is_contiguous(memory_format=torch.channels_last):
            return (x01 - self.mean) / self.std
        # Three values that repeat along memory keep a CPU from using its vectors (6 times slower); a row of them does
        # not. Same values, same order of operations.
        batch, _, height, width = x01.shape
        mean, std = self.mean.view(3).repeat(width), self.std.view(3).repeat(width)
        rows = (x01.permute(0, 2, 3, 1).reshape(batch, height, 3 * width) - mean) / std
        return rows.view(batch, height, width, 3).permute(0, 3, 1, 2)

    def features(self, x01: Tensor) -> Tensor:
        """Penultimate activations, float32 (B, D), pruned channels zero.

        Args:
            x01: float (B, 3, H, W) in [0, 1].
        """
        # A plugin's network: that it has features() is its contract, which nn.Module cannot say.
        net: Any = self.net
        features: Tensor = net.features(self.normalise(x01))
        return features.float() * self.channel_mask

    def forward(self, x01: Tensor) -> Tensor:
        """Logits, float32 (B, classes), under autocast too: bf16 logits of size 16 differ by no less than 0.06."""
        features = self.features(x01)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features)
        return logits


def build(model: Buildable, classes: int, size: int, normalisation: Normalisation, seed: int) -> Classifier:
    """A freshly initialised network on the CPU; torch's global generator is left as it was."""
    # Drawn on the CPU whatever the device, so that one seed means the same initial weights everywhere.
    before = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        return Classifier(model.build(classes, size), normalisation)
    finally:
        torch.set_rng_state(before)
