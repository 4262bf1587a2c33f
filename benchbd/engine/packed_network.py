"""Several small networks of one architecture as one network, whose layers compute all of them side by side."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.engine.network import Classifier, SafeStridedConv1x1
from benchbd.engine.passes import eval_mode

LANES = 8
"""Channels that one group of a packed convolution should have at least.

Convolution kernels compute whole vectors of channels (8 floats with AVX2): two channels a group cost as much as eight.
Models are therefore put together in one group, with zero filters between them, until their channels fill a vector.
Measured on one AVX2 core, 8 ResNet-S of 2 channels: 2.3 times as fast as one by one with a group for each model, 3.6
with two models in a group, 4.5 with four (8 channels), 3.5 with all eight.
"""


class _PackedConv2d(nn.Module):
    """The same convolution of ``count`` models. Input (B, count * in, H, W), output (B, count * out, H, W)."""

    def __init__(self, parts: Sequence[nn.Conv2d], lanes: int) -> None:
        super().__init__()
        first, count = parts[0], len(parts)
        self.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]))
        bias = [part.bias.detach() for part in parts if part.bias is not None]
        self.bias = nn.Parameter(torch.cat(bias)) if bias else None
        self.padding, self.dilation = first.padding, first.dilation
        self.stride: tuple[int, ...] = first.stride
        self.slices: tuple[int, ...] | None = None
        if isinstance(first, SafeStridedConv1x1):  # the same fault of the same library, whatever the number of groups
            self.slices, self.stride, self.padding = first.stride, (1, 1), (0, 0)
        # Convolutions that have groups of their own (depthwise) keep them.
        self.merged = 1
        if first.groups == 1:
            widest = max(first.in_channels, first.out_channels)
            self.merged = next(m for m in range(1, count + 1) if count % m == 0 and (m == count or m * widest >= lanes))
        self.groups = first.groups * count // self.merged
        # (1, merged, 1, merged, 1, 1, 1): which model's filters look at which model's channels.
        self.register_buffer("own", torch.eye(self.merged).view(1, self.merged, 1, self.merged, 1, 1, 1), False)

    own: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """As the models' own convolutions."""
        weight: Tensor = self.weight
        if self.merged > 1:
            out, into, height, width = weight.shape
            filters = weight.view(self.groups, self.merged, -1, 1, into, height, width) * self.own
            weight = filters.reshape(out, self.merged * into, height, width)
        if self.slices is not None:
            x = x[..., :: self.slices[0], :: self.slices[1]]
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def _packed_norm(parts: Sequence[nn.BatchNorm2d]) -> nn.BatchNorm2d:
    """One batch norm over all models' channels, which is each model's own."""
    first = parts[0]
    made = nn.BatchNorm2d(
        first.num_features * len(parts), first.eps, first.momentum, first.affine, first.track_running_stats
    )
    state = [part.state_dict() for part in parts]
    made.load_state_dict({k: torch.cat([s[k] for s in state]) if v.ndim else v for k, v in state[0].items()})
    return made


class Packed(nn.Module):
    """``count`` networks of one architecture as one. The networks themselves change only in :meth:`unpack`.

    Args:
        nets: on the CPU. Of convolutions, batch norms and what treats every channel alike, up to the head.
        lanes: see :data:`LANES`.

    Raises:
        ValueError: the networks are not of one architecture, or of one that cannot be packed.
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
        for name, part in list(self.net.named_modules()):
            self._replace(name, part, [net.net.get_submodule(name) for net in nets if name != "head"], lanes)
        self.head_weight = nn.Parameter(torch.stack([head.weight.detach() for head in heads]))
        biases = [head.bias.detach() for head in heads if head.bias is not None]
        self.head_bias = nn.Parameter(torch.stack(biases)) if biases else None
        self.register_buffer("channel_mask", torch.stack([net.channel_mask for net in nets]))
        self._compare(nets)

    def _replace(self, name: str, part: nn.Module, parts: Sequence[nn.Module], lanes: int) -> None:
        made: nn.Module
        if type(part) in (nn.Conv2d, SafeStridedConv1x1) and part.padding_mode == "zeros":
            made = _PackedConv2d(parts, lanes)  # type: ignore[arg-type]
        elif type(part) is nn.BatchNorm2d:
            made = _packed_norm(parts)  # type: ignore[arg-type]
        elif next(part.parameters(recurse=False), None) is None and not isinstance(part, nn.modules.dropout._DropoutNd):
            return
        else:
            raise ValueError(f"{name} ({type(part).__name__}) cannot be packed")
        parent, _, last = name.rpartition(".")
        setattr(self.net.get_submodule(parent), last, made)

    def _compare(self, nets: Sequence[Classifier]) -> None:
        """A network may mix channels where no layer shows it; then the pack computes something else than its models."""
        size = 64  # pixels; any that is enough for every stem
        x01 = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), eval_mode(self):
            try:
                mine = self(self.inputs([net.normalise(x01) for net in nets]))
            except RuntimeError as error:
                raise ValueError(f"this architecture cannot be packed: {str(error).splitlines()[0]}") from error
            for number, net in enumerate(nets):
                with eval_mode(net):
                    theirs = net(x01)
                if not torch.allclose(mine[:, number], theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max())):
                    raise ValueError("this architecture cannot be packed: its models' channels mix")

    @staticmethod
    def inputs(batches: Sequence[Tensor]) -> Tensor:
        """One batch (B, 3, H, W) for each model, normalised, to (B, count * 3, H, W)."""
        return torch.cat(list(batches), 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, float32 (B, count, classes), of :meth:`inputs`."""
        # A plugin's network: that it has features() is its contract, which nn.Module cannot say.
        net: Any = self.net
        features: Tensor = net.features(x)
        features = features.float().view(len(x), self.count, -1) * self.channel_mask
        with torch.autocast(features.device.type, enabled=False):
            logits = torch.einsum("bkd,kcd->bkc", features, self.head_weight)
            return logits if self.head_bias is None else logits + self.head_bias

    def unpack(self, nets: Sequence[Classifier]) -> None:
        """Write each model's weights and statistics back into its network."""
        mine = {f"net.{name}": tensor for name, tensor in self.net.state_dict().items()}
        mine["net.head.weight"] = self.head_weight.detach()
        if self.head_bias is not None:
            mine["net.head.bias"] = self.head_bias.detach()
        for number, net in enumerate(nets):
            with torch.no_grad():
                for name, tensor in net.state_dict().items():
                    if name in mine:
                        whole = mine[name]
                        part = whole.view(self.count, *tensor.shape)[number] if tensor.ndim else whole
                        tensor.copy_(part)
