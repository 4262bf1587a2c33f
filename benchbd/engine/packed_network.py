"""Pack several small networks of one architecture into one network, whose layers compute all of them side by side."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.engine.network import Classifier, SafeStridedConv1x1
from benchbd.engine.packed_check import REMEDY, compute_alike, differing_parameter

LANES = 8
"""Fewest channels that one group of a packed convolution should have.

Convolution kernels compute whole vectors of channels (8 floats with AVX2): two channels a group cost as much as eight.
Therefore one group holds several models, with zero filters between them, until their channels fill a vector. Measured
on one AVX2 core, 8 ResNet-S of 2 channels train 2.3 times as fast as one by one with one model in a group, 3.6 times
with two, 4.5 times with four (8 channels), 3.5 times with all eight.
"""


def _joined(parameters: Sequence[Tensor], join: Callable[[list[Tensor]], Tensor] = torch.cat) -> nn.Parameter:
    """One parameter with those of all models one after another along the first axis; frozen if they are."""
    return nn.Parameter(join([p.detach() for p in parameters]), requires_grad=parameters[0].requires_grad)


class _PackedConv2d(nn.Module):
    """The same convolution of ``count`` models. Input (B, count * in, H, W), output (B, count * out, H, W)."""

    def __init__(self, parts: Sequence[nn.Conv2d], lanes: int) -> None:
        super().__init__()
        first, count = parts[0], len(parts)
        self.weight = _joined([part.weight for part in parts])
        bias = [part.bias for part in parts if part.bias is not None]
        self.bias = _joined(bias) if bias else None
        self.padding, self.dilation = first.padding, first.dilation
        self.stride: tuple[int, ...] = first.stride
        self.slices: tuple[int, ...] | None = None
        if isinstance(first, SafeStridedConv1x1):  # the library has the same fault with any number of groups
            self.slices, self.stride, self.padding = first.stride, (1, 1), (0, 0)
        # Convolutions that already have groups (depthwise) keep them.
        self.merged = 1
        if first.groups == 1:
            widest = max(first.in_channels, first.out_channels)
            self.merged = next(m for m in range(1, count + 1) if count % m == 0 and (m == count or m * widest >= lanes))
        self.groups = first.groups * count // self.merged
        # (1, merged, 1, merged, 1, 1, 1): 1 where a model's filters meet the same model's channels, else 0.
        self.register_buffer("own", torch.eye(self.merged).view(1, self.merged, 1, self.merged, 1, 1, 1), False)

    own: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Compute the models' own convolutions."""
        weight: Tensor = self.weight
        if self.merged > 1:
            out, into, height, width = weight.shape
            filters = weight.view(self.groups, self.merged, -1, 1, into, height, width) * self.own
            weight = filters.reshape(out, self.merged * into, height, width)
        if self.slices is not None:
            x = x[..., :: self.slices[0], :: self.slices[1]]
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def _packed_norm(parts: Sequence[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    """Return one batch norm over all models' channels; it treats each channel as the model's own does."""
    first = parts[0]
    packed = nn.BatchNorm2d(
        first.num_features * len(parts), first.eps, first.momentum, first.affine, first.track_running_stats
    )
    state = [part.state_dict() for part in parts]
    packed.load_state_dict({k: torch.cat([s[k] for s in state]) if v.ndim else v for k, v in state[0].items()})
    for name, parameter in first.named_parameters():
        packed.get_parameter(name).requires_grad_(parameter.requires_grad)
    return packed


class _SideBySide(nn.Module):
    """A layer of which nothing is trained, such as a convolution with a buffer; each model's sees its own channels."""

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(copy.deepcopy(part) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, count * in, ...) to (B, count * out, ...)."""
        own = torch.unflatten(x, 1, (len(self.parts), -1)).unbind(1)
        return torch.cat([part(mine) for part, mine in zip(self.parts, own, strict=True)], 1)


class Packed(nn.Module):
    """``count`` networks of one architecture as one network. Only :meth:`unpack` changes the networks themselves.

    Args:
        nets: the networks, on the CPU. Up to the head they consist of convolutions, batch norms, layers without weights
            that treat each channel by itself, and layers whose tensors are all buffers or frozen. What is frozen stays
            frozen.
        lanes: see :data:`LANES`.

    Raises:
        ValueError: the networks differ in architecture, or theirs cannot be packed; the message names the layer.
    """

    channel_mask: Tensor

    def __init__(self, nets: Sequence[Classifier], lanes: int = LANES) -> None:
        super().__init__()
        self.count, shapes = len(nets), [{k: v.shape for k, v in net.state_dict().items()} for net in nets]
        if not nets or any(other != shapes[0] for other in shapes):
            raise ValueError("only networks of one architecture can be packed")
        self.net = copy.deepcopy(nets[0].net)
        heads = [net.head for net in nets]
        self.net.head = nn.Identity()
        self._beside: list[str] = []
        for name, part in list(self.net.named_modules()):
            if name != "head" and not name.startswith(tuple(f"{other}." for other in self._beside)):
                self._replace(name, part, [net.net.get_submodule(name) for net in nets], lanes)
        self.head_weight = _joined([head.weight for head in heads], torch.stack)
        biases = [head.bias for head in heads if head.bias is not None]
        self.head_bias = _joined(biases, torch.stack) if biases else None
        self.register_buffer("channel_mask", torch.stack([net.channel_mask for net in nets]))
        self._compare(nets)

    def _replace(self, name: str, part: nn.Module, parts: Sequence[nn.Module], lanes: int) -> None:
        packed: nn.Module
        own = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        if type(part) in (nn.Conv2d, SafeStridedConv1x1) and part.padding_mode == "zeros":
            packed = _PackedConv2d(parts, lanes)  # type: ignore[arg-type]
        elif type(part) is nn.BatchNorm2d:
            packed = _packed_norm(parts)  # type: ignore[arg-type]
        elif isinstance(part, nn.modules.dropout._DropoutNd):
            raise ValueError(f"{name} ({type(part).__name__}) cannot be packed: it is dropout; {REMEDY}")
        elif not own:
            return
        elif name and not any(p.requires_grad for p in part.parameters()):
            packed = _SideBySide(parts)
            self._beside.append(name)
        elif next(part.parameters(recurse=False), None) is None and _same_buffers(parts):
            return
        else:
            which = "trained weights" if any(t.requires_grad for t in own) else "tensors of its own"
            raise ValueError(
                f"{name or 'the network'} ({type(part).__name__}) cannot be packed: it has {which}; {REMEDY}"
            )
        parent, _, last = name.rpartition(".")
        setattr(self.net.get_submodule(parent), last, packed)

    def _compare(self, nets: Sequence[Classifier]) -> None:
        """Check that the pack computes and trains what its models do: a network may hide from its layers what it does.

        It may mix channels, share weights between layers or compute weights from others.
        """
        own = dict(self.net.named_parameters())
        own |= {f"head.{k}": p for k, p in (("weight", self.head_weight), ("bias", self.head_bias)) if p is not None}
        trained = {name for name, p in own.items() if p.requires_grad}
        if fault := differing_parameter(trained, [net.net for net in nets]) or compute_alike(self, self.net, nets):
            raise ValueError(f"{fault}; {REMEDY}")

    @staticmethod
    def inputs(batches: Sequence[Tensor]) -> Tensor:
        """Join one normalised batch (B, 3, H, W) for each model to (B, count * 3, H, W)."""
        return torch.cat(list(batches), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits, float32 (B, count, classes), from :meth:`inputs`."""
        # The model contract promises features(), which the type nn.Module cannot express.
        net: Any = self.net
        features: Tensor = net.features(x)
        features = features.float().view(len(x), self.count, -1) * self.channel_mask
        with torch.autocast(features.device.type, enabled=False):
            logits = torch.einsum("bkd,kcd->bkc", features, self.head_weight)
            return logits if self.head_bias is None else logits + self.head_bias

    def unpack(self, nets: Sequence[Classifier]) -> None:
        """Write each model's weights and statistics back into its network."""
        packed = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        packed["net.head.weight"] = self.head_weight.detach()
        if self.head_bias is not None:
            packed["net.head.bias"] = self.head_bias.detach()
        for index, net in enumerate(nets):
            with torch.no_grad():
                for name, tensor in net.state_dict().items():
                    whole = packed.get(self._entry(name, index))
                    if whole is not None:
                        joined = whole.shape != tensor.shape
                        tensor.copy_(whole.view(self.count, *tensor.shape)[index] if joined else whole)

    def _entry(self, name: str, index: int) -> str:
        """Where the pack keeps an entry of a model's state."""
        for layer in self._beside:
            if name.startswith(f"net.{layer}."):
                return f"net.{layer}.parts.{index}.{name.removeprefix(f'net.{layer}.')}"
        return name


def _same_buffers(parts: Sequence[nn.Module]) -> bool:
    first = dict(parts[0].named_buffers(recurse=False))
    return all(torch.equal(first[k], v) for part in parts for k, v in part.named_buffers(recurse=False))
