"""The wrapper around every network: it normalises images, masks the last features and keeps the head in float32."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.core.images import Normalisation
from benchbd.core.transform import TestTransform
from benchbd.errors import UsageError, one_line, with_article

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

    Attributes:
        test_transform: changes every image and the order of the logits, of a model that a defense declared so. It is
            not part of the state.

    Raises:
        TypeError: ``net`` has no final linear ``head``.
    """

    mean: Tensor
    std: Tensor
    channel_mask: Tensor

    def __init__(self, net: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.net = net
        self.test_transform: TestTransform | None = None
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

    def set_normalisation(self, normalisation: Normalisation) -> None:
        """Subtract another mean from now on, and divide by another standard deviation."""
        for buffer, values in ((self.mean, normalisation.mean), (self.std, normalisation.std)):
            buffer.copy_(torch.tensor(values).view(1, 3, 1, 1))

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
        if self.test_transform is not None and self.test_transform.stamp is not None:
            x01 = self.test_transform.stamp.on(x01)
        features: Tensor = net.features(self.normalise(x01))
        return features.float() * self.channel_mask

    def forward(self, x01: Tensor) -> Tensor:
        """Compute logits, float32 (B, classes) even under autocast: bf16 logits near 16 are at least 0.06 apart."""
        features = self.features(x01)
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.head(features)
        if self.test_transform is not None and self.test_transform.label_map is not None:
            logits = logits[:, list(self.test_transform.label_map)]
        return logits


def build(
    model: Buildable, classes: int, size: int, normalisation: Normalisation, seed: int, *, to_load: bool = False
) -> Classifier:
    """Build a freshly initialised network on the CPU. Torch's global generator is restored afterwards.

    Args:
        model: builds the network.
        classes: number of classes.
        size: pixels on a side of an image.
        normalisation: mean and standard deviation of each colour.
        seed: seed of the initial weights.
        to_load: whether the whole state of the network is loaded afterwards, so that no file of weights need be read.

    Raises:
        UsageError: the network cannot be trained or stored (:func:`network_fault`); the message names the model.
    """
    # Always on the CPU, so that one seed gives the same initial weights on every device.
    before = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        net = (getattr(model, "build_to_load", model.build) if to_load else model.build)(classes, size)
    finally:
        torch.set_rng_state(before)
    if fault := network_fault(net, classes):
        raise UsageError(f"model {getattr(model, 'name', type(model).__name__)!r}: {fault}")
    return Classifier(net, normalisation)


def network_fault(net: Any, classes: int) -> str | None:
    """Say in one line why the engine cannot work with what a model's ``build`` returned, and what to do; else None.

    Looks at types, layers and parameters only, so it costs microseconds; :func:`trial_fault` computes something.
    """
    if not isinstance(net, nn.Module):
        return f"build returned {_kind_of(net)}, not a network; end it with `return net`, a torch.nn.Module"
    if isinstance(net, torch.jit.ScriptModule):
        return "build returned a scripted module, whose layers cannot be read; return the nn.Module it was made from"
    head = getattr(net, "head", None)
    if not isinstance(head, nn.Linear):
        return f"{type(net).__name__} needs a final nn.Linear named 'head', not {_kind_of(head)}"
    for name, tensor in (*net.named_parameters(), *net.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            return f"{name} has no size yet (a lazy layer); give the layer its number of inputs"
        if tensor.device.type != "cpu":
            return f"{name} is on {tensor.device}; build the network on the CPU, the harness moves it"
    for name, parameter in net.named_parameters():
        if parameter.dtype != torch.float32 and (parameter.is_floating_point() or parameter.is_complex()):
            return f"parameter {name} is {parameter.dtype}; build the network in float32, as net.float() does"
    if head.out_features != classes:
        return f"its head has {head.out_features} outputs for {classes} classes; make it nn.Linear(..., classes)"
    if not any(parameter.requires_grad for parameter in net.parameters()):
        return "all its parameters are frozen, so there is nothing to train; leave requires_grad True"
    return None


def trial_fault(net: Classifier, size: int) -> str | None:
    """Say in one line what is wrong with the features and gradients of a freshly built network; None if nothing is.

    Args:
        net: is left in training mode, with other batch norm statistics and gradients: throw it away.
        size: pixels on a side of an image.
    """
    x01 = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))
    wanted = f"return one float tensor (B, {net.head.in_features}), the inputs of the head"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        for training in (False, True):
            net.train(training)
            try:
                with torch.no_grad():
                    found: Any = net.net.features(net.normalise(x01))  # type: ignore[operator]
            except Exception as error:
                return f"features() fails on images of {size} pixels: {type(error).__name__}: {one_line(error)}"
            if not isinstance(found, Tensor):
                return f"features() returns {_kind_of(found)}; {wanted}"
            if tuple(found.shape) != (len(x01), net.head.in_features) or not found.is_floating_point():
                return f"features() returns {found.dtype} {tuple(found.shape)} for {len(x01)} images; {wanted}"
            if not torch.isfinite(found).all():
                return "a new network's features are not finite; check its initial weights"
        if not torch.isfinite(net.head(found.float())).all():
            return "a new network's logits are not finite; check the head's initial weights"
        for step in (1, 2):
            try:
                net(x01).square().mean().backward()
            except Exception as error:
                again = "" if step == 1 else ", as it keeps tensors of the step before; detach() what it keeps"
                return f"a training step fails{again}: {type(error).__name__}: {one_line(error)}"
    return None


def _kind_of(value: Any) -> str:
    return "None" if value is None else with_article(type(value).__name__)
