"""Every convolution of every network, computed as the engine computes it, against float64.

Backends have shipped convolutions that were wrong, or wrote where they must not, for few channels and one memory layout
alone; a training then goes on with gradients of its own.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.core.images import Normalisation
from benchbd.engine import Classifier, build, choose_precision
from benchbd.engine.step import training_mode
from benchbd.plugins import registry

pytestmark = pytest.mark.usefixtures("one_thread")
NORMALISATION = Normalisation((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
CLOSE = 1e-5
"""Largest error, as a share of what the terms of the largest sum come to when none cancels another."""


def thin(name: str) -> str:
    """A model's spec, an eighth of the width where it has one to give."""
    fields = {field.name: field.default for field in dataclasses.fields(registry.load("models", name))}
    return f"{name}(width=8)" if fields.get("width") == 64 else name


OURS = str(Path(__file__).parents[2] / "models")
NETWORKS = [thin(e.name) for e in registry.entries("models") if not e.error and str(e.file).startswith(OURS)]


def faults(net: Classifier, size: int, batch: int = 64) -> list[str]:
    """Train one step as the engine does; name each convolution whose output or gradients differ from float64's."""
    if choose_precision(torch.device("cpu"), "fp32").channels_last:
        net.to(memory_format=torch.channels_last)
    training_mode(net, "train")
    seen: dict[str, list[Tensor]] = {}
    parts = {name: part for name, part in net.named_modules() if isinstance(part, nn.Conv2d)}

    def watch(name: str, part: nn.Conv2d) -> None:
        def before(_: nn.Module, given: tuple[Tensor]) -> None:
            seen[name] = [given[0].detach().double().contiguous()]

        def after(_: nn.Module, given: tuple[Tensor], made: Tensor) -> None:
            seen[name].append(made.detach().double().contiguous())
            made.register_hook(lambda gradient: seen[name].append(gradient.double().contiguous()))

        part.register_forward_pre_hook(before)
        part.register_forward_hook(after)

    for name, part in parts.items():
        watch(name, part)
    x01 = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(batch) % net.head.out_features
    F.cross_entropy(net(x01.contiguous(memory_format=torch.channels_last)), labels).backward()

    found = []
    for name, part in parts.items():
        given, made, gradient = seen[name]
        right = reference(part, given, gradient)
        terms = reference(part, given.abs(), gradient.abs(), absolute=True)
        for what, mine in (("output", made), ("filter", part.weight.grad)):
            error = float((mine.double() - right[what]).abs().max() / terms[what].max().clamp_min(1e-12))
            if not error < CLOSE:
                found.append(f"{name}: {what} {error:.1e}")
    return found


def reference(part: nn.Conv2d, given: Tensor, gradient: Tensor, absolute: bool = False) -> dict[str, Tensor]:
    """What a convolution should make of its input, and its filter's gradient, in float64 (of absolute filters)."""
    weight, bias = part.weight.detach().double().contiguous(), part.bias
    bias = None if bias is None else bias.detach().double()
    if absolute:
        weight, bias = weight.abs(), None if bias is None else bias.abs()
    weight.requires_grad_()
    made = F.conv2d(given, weight, bias, part.stride, part.padding, part.dilation, part.groups)
    made.backward(gradient)
    assert weight.grad is not None
    return {"output": made.detach(), "filter": weight.grad}


@pytest.mark.parametrize("spec", NETWORKS)
def test_convolutions_of_every_network(spec):
    model = registry.make("models", spec)
    if lacking := model.missing():
        pytest.skip(lacking)
    net = build(model, 10, 32, NORMALISATION, 3)
    assert faults(net, 32, batch=64 if sum(p.numel() for p in net.parameters()) < 1e6 else 2) == []


class Narrow(nn.Module):
    """A strided 1x1 convolution with the given number of channels in, as the shortcut of a narrow residual network."""

    def __init__(self, channels: int, stride: int | tuple[int, int], bias: bool, padding: str | int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3, padding=1)
        self.shortcut = nn.Conv2d(channels, 6, 1, stride, padding, bias=bias)
        self.head = nn.Linear(6, 10)

    def features(self, x: Tensor) -> Tensor:
        return self.shortcut(self.first(x).relu()).mean((2, 3))


@pytest.mark.parametrize("channels", [1, 2, 3, 7, 8, 9, 15, 16, 17])
@pytest.mark.parametrize(
    ("stride", "bias", "size", "padding"),
    [(2, False, 32, 0), (3, True, 32, 0), ((1, 2), False, 9, 0), (2, False, 32, "valid"), (2, False, 32, 1)],
)
def test_strided_1x1_convolutions_of_anybodys_network(channels, stride, bias, size, padding):
    torch.manual_seed(channels)
    assert faults(Classifier(Narrow(channels, stride, bias, padding), NORMALISATION), size) == []


def test_what_is_computed_another_way_is_stored_the_same_way():
    torch.manual_seed(0)
    mine, theirs = Narrow(4, 2, True), Narrow(4, 2, True)
    theirs.load_state_dict(mine.state_dict())
    wrapped = Classifier(mine, NORMALISATION)
    assert {f"net.{key}" for key in theirs.state_dict()} <= set(wrapped.state_dict())
    x = torch.rand(5, 3, 8, 8)
    torch.testing.assert_close(mine.features(x), theirs.features(x))
    assert isinstance(mine.shortcut, nn.Conv2d)
    assert mine.shortcut.stride == (2, 2)
