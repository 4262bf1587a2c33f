"""Pack several small networks of one architecture into one network, whose layers compute all of them side by side."""

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
"""Fewest channels that one group of a packed convolution should have.

Convolution kernels compute whole vectors of channels (8 floats with AVX2): two channels a group cost as much as eight.
Therefore one group holds several models, with zero filters between them, until their channels fill a vector. Measured
on one AVX2 core, 8 ResNet-S of 2 channels train 2.3 times as fast as one by one with one model in a group, 3.6 times
with two, 4.5 times with four (8 channels), 3.5 times with all eight.
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
    return packed


class Packed(nn.Module):
    """``count`` networks of one architecture as one network. Only :meth:`unpack` changes the networks themselves.

    Args:
        nets: the networks, on the CPU. Up to the head they consist of convolutions, batch norms and layers without
            weights that treat each channel by itself.
        lanes: see :data:`LANES`.

    Raises:
        ValueError: the networks differ in architecture, or theirs cannot be packed.
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
        packed: nn.Module
        if type(part) in (nn.Conv2d, SafeStridedConv1x1) and part.padding_mode == "zeros":
            packed = _PackedConv2d(parts, lanes)  # type: ignore[arg-type]
        elif type(part) is nn.BatchNorm2d:
            packed = _packed_norm(parts)  # type: ignore[arg-type]
        elif next(part.parameters(recurse=False), None) is None and not isinstance(part, nn.modules.dropout._DropoutNd):
            return
        else:
            raise ValueError(f"{name} ({type(part).__name__}) cannot be packed")
        parent, _, last = name.rpartition(".")
        setattr(self.net.get_submodule(parent), last, packed)

    def _compare(self, nets: Sequence[Classifier]) -> None:
        """Check that the pack computes what its models compute: a network may mix channels outside its layers."""
        size = 64  # pixels on a side; large enough for every stem
        x01 = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        with torch.no_grad(), eval_mode(self):
            try:
                packed = self(self.inputs([net.normalise(x01) for net in nets]))
            except RuntimeError as error:
                raise ValueError(f"this architecture cannot be packed: {str(error).splitlines()[0]}") from error
            for index, net in enumerate(nets):
                with eval_mode(net):
                    alone = net(x01)
                if not torch.allclose(packed[:, index], alone, rtol=1e-3, atol=1e-3 * float(alone.abs().max())):
                    raise ValueError("this architecture cannot be packed: its models' channels mix")

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
                    if name in packed:
                        whole = packed[name]
                        part = whole.view(self.count, *tensor.shape)[index] if tensor.ndim else whole
                        tensor.copy_(part)
