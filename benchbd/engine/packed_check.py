"""Compare a pack of networks with the networks themselves, and name the layer at which they differ."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from benchbd.engine.network import Classifier
from benchbd.engine.passes import eval_mode

REMEDY = (
    "up to the head, use convolutions, batch norms and layers without trained weights that treat each channel by "
    "itself, or train the networks one by one"
)
"""What to do about an architecture that cannot be packed."""
SIZE = 64
"""Pixels on a side of the images on which networks are compared; large enough for every stem."""


class PackLike(Protocol):
    """A pack: a module that computes logits (B, count, classes) from joined batches."""

    count: int

    def inputs(self, batches: Sequence[Tensor], /) -> Tensor:
        """Join one normalised batch for each model."""
        ...

    def __call__(self, x: Tensor, /) -> Tensor:
        """Logits of all models."""
        ...


def differing_parameter(trained: Collection[str], nets: Sequence[nn.Module]) -> str | None:
    """Say which parameter a pack would train otherwise than its networks do; None if there is none.

    Args:
        trained: names of the parameters that the pack trains.
        nets: the networks; those of their parameters count that have gradients.
    """
    for net in nets:
        every = dict(net.named_parameters(remove_duplicate=False))
        if twice := every.keys() - dict(net.named_parameters()).keys():
            return f"{min(twice)} cannot be packed: it shares its weights with another layer"
        alone = {name for name, p in every.items() if p.requires_grad}
        if other := alone.symmetric_difference(trained):
            name = min(other)
            has = "trained" if name in alone else "frozen or absent"
            return f"{name} cannot be packed: it is {has} in one network, but not in the pack or in another network"
    return None


def compute_alike(pack: PackLike, packed: nn.Module, nets: Sequence[Classifier]) -> str | None:
    """Say in one line which layer computes something else in a pack than in its networks; None if all agree.

    Args:
        pack: the pack.
        packed: its network without the head.
        nets: the networks.
    """
    x01 = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    layers = {name: type(part).__name__ for name, part in nets[0].net.named_modules() if name != "head"}
    alone = [_Run(net.net, layers, lambda net=net: net(x01)) for net in nets]  # type: ignore[misc]
    for run in alone:
        if run.error:
            return (
                f"{run.failed} cannot be packed: it fails on images of {SIZE}x{SIZE} pixels, on which packs are tried"
            )
    run = _Run(packed, layers, lambda: pack(pack.inputs([net.normalise(x01) for net in nets])))
    if run.error:
        return f"{run.failed} cannot be packed: it fails on the joined channels of several models"
    # Features too: logits hide a difference where the biases of the head outweigh what a new network computes.
    features = _features(packed, pack.inputs([net.normalise(x01) for net in nets])).view(len(x01), pack.count, -1)
    if all(
        _agree(run.result[:, index], one.result)
        and _agree(features[:, index], _features(net.net, net.normalise(x01)).flatten(1))
        for index, (one, net) in enumerate(zip(alone, nets, strict=True))
    ):
        return None
    for index, one in enumerate(alone):
        for (name, mine), (other, theirs) in zip(run.outputs, one.outputs, strict=False):
            if name != other:
                break
            if not _agree_on(mine, theirs, index, pack.count):
                return f"{name} ({layers[name]}) cannot be packed: in it, channels of different models mix"
    return f"features ({layers['']}) cannot be packed: in it, channels of different models mix"


def _features(net: nn.Module, x: Tensor) -> Tensor:
    """Inputs of the head in eval mode."""
    with torch.no_grad(), eval_mode(net):
        found: Tensor = net.features(x)  # type: ignore[operator]
        return found


class _Run:
    """What the layers of a network return in one call of it, in eval mode and without gradients.

    Attributes:
        result: what the call returns.
        outputs: name and output of each call of a layer, in the order in which they end.
        error: what the call raises instead.
        failed: the innermost known layer in which it raises, with its type.
    """

    result: Tensor

    def __init__(self, net: nn.Module, layers: dict[str, str], call: Callable[[], Tensor]) -> None:
        self.outputs: list[tuple[str, object]] = []
        self.error: Exception | None = None
        self._entered: list[str] = []
        with torch.no_grad(), eval_mode(net), self._watching(net, layers):
            try:
                self.result = call()
            except Exception as error:  # a network may raise anything
                self.error = error
        name = self._entered[-1] if self._entered else ""
        self.failed = f"{name or 'features'} ({layers[name]})"

    @contextlib.contextmanager
    def _watching(self, net: nn.Module, layers: Collection[str]) -> Iterator[None]:
        handles = []
        for name, part in net.named_modules():
            if name and name in layers:
                handles.append(part.register_forward_pre_hook(lambda _, __, name=name: self._entered.append(name)))
                handles.append(part.register_forward_hook(lambda _, __, out, name=name: self._leave(name, out)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _leave(self, name: str, output: object) -> None:
        self._entered.pop()
        self.outputs.append((name, output))


def _agree(mine: Tensor, theirs: Tensor) -> bool:
    return mine.shape == theirs.shape and torch.allclose(
        mine, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()) if theirs.numel() else 0.0
    )


def _agree_on(whole: object, theirs: object, index: int, count: int) -> bool:
    """Whether a layer's output (B, count * C, ...) has a model's (B, C, ...) in its place; True for other outputs."""
    if not (isinstance(whole, Tensor) and isinstance(theirs, Tensor)) or min(whole.ndim, theirs.ndim) < 2:
        return True
    return whole.shape[1] % count == 0 and _agree(torch.unflatten(whole, 1, (count, -1))[:, index], theirs)
