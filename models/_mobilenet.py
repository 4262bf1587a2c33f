"""MobileNetV2: inverted residual blocks of depthwise convolutions, in CIFAR or ImageNet form."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.models._base import Network, initialise, pooled


class Unit(NamedTuple):
    """One block: channels between its 1x1 convolutions, output channels, stride."""

    inner: int
    out: int
    stride: int


class Bottleneck(nn.Module):
    """1x1 expansion, 3x3 depthwise convolution and linear 1x1 projection; with stride 1, the input is added.

    Args:
        before: input channels.
        unit: sizes of the block.
        project: if the channels change, add a 1x1 projection of the input (otherwise such a block has no shortcut).
    """

    def __init__(self, before: int, unit: Unit, *, project: bool) -> None:
        super().__init__()
        inner, out, stride = unit
        self.expand = nn.Conv2d(before, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.project = nn.Conv2d(inner, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module | None = None
        if stride == 1 and before == out:
            self.shortcut = nn.Identity()
        elif stride == 1 and project:
            self.shortcut = nn.Sequential(nn.Conv2d(before, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = F.relu(self.bn1(self.expand(x)), inplace=True)
        y = F.relu(self.bn2(self.depthwise(y)), inplace=True)
        y = self.bn3(self.project(y))
        return y if self.shortcut is None else y + self.shortcut(x)


class MobileNetV2(Network):
    """3x3 stem, blocks, 1x1 convolution, global average pooling, linear head.

    Args:
        stem: channels of the stem.
        stem_stride: stride of the stem.
        units: sizes of the blocks.
        last: channels of the last 1x1 convolution, which are the features.
        project: see :class:`Bottleneck`.
        classes: outputs of the head.
    """

    def __init__(
        self, *, stem: int, stem_stride: int, units: tuple[Unit, ...], last: int, project: bool, classes: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stem_stride, 1, bias=False), nn.BatchNorm2d(stem), nn.ReLU(inplace=True)
        )
        blocks: list[nn.Module] = []
        before = stem
        for unit in units:
            blocks.append(Bottleneck(before, unit, project=project))
            before = unit.out
        self.blocks = nn.Sequential(*blocks)
        self.last = nn.Sequential(nn.Conv2d(before, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU(inplace=True))
        self.head = nn.Linear(last, classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Channel means of the last convolution, (B, last)."""
        return pooled(self.last(self.blocks(self.stem(x))))

    def last_convolution(self) -> tuple[nn.Conv2d | None, nn.BatchNorm2d | None]:
        """The 1x1 convolution before the pooling."""
        conv, norm = self.last[0], self.last[1]
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        return conv, norm
