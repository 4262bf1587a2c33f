"""Residual networks whose blocks normalise before they convolve: PreActResNet and WideResNet."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.models._base import Network, initialise, pooled


class Block(nn.Module):
    """Batch norm, ReLU, 3x3 convolution, twice, plus the input; where sizes change, plus a 1x1 convolution instead.

    That convolution sees the input after the first batch norm and ReLU.
    """

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        changes = stride != 1 or before != width
        self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        beside: Tensor = x if self.shortcut is None else self.shortcut(y)
        y = self.conv2(F.relu(self.bn2(self.conv1(y)), inplace=True))
        return y + beside


class PreActivation(Network):
    """3x3 stem, stages of blocks (strides 1, 2, 2, ...), global average pooling, linear head.

    Args:
        stem: channels of the stem.
        widths: channels of each stage.
        blocks: number of blocks in each stage.
        last_norm: whether batch norm and ReLU follow the last stage.
        classes: outputs of the head.
    """

    def __init__(self, *, stem: int, widths: tuple[int, ...], blocks: int, last_norm: bool, classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        parts: list[nn.Module] = []
        before = stem
        for number, width in enumerate(widths):
            for at in range(blocks):
                parts.append(Block(before, width, 2 if number and not at else 1))
                before = width
        self.blocks = nn.Sequential(*parts)
        self.last = nn.BatchNorm2d(before) if last_norm else None
        self.head = nn.Linear(before, classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Channel means after the last stage, (B, widths[-1])."""
        x = self.blocks(self.stem(x))
        return pooled(x if self.last is None else F.relu(self.last(x), inplace=True))

    def last_convolution(self) -> tuple[nn.Conv2d | None, nn.BatchNorm2d | None]:
        """The second convolution of the last block, which a shortcut bypasses, and the norm of their sum."""
        block = self.blocks[-1]
        assert isinstance(block, Block)
        return block.conv2, self.last
