"""Residual networks of basic blocks, in CIFAR or ImageNet form."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.models._base import Network, initialise, pooled


class Block(nn.Module):
    """Two 3x3 convolutions with batch norm, plus the input (or its 1x1 projection), then ReLU."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != width:
            self.shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ResNet(Network):
    """Stem, stages of basic blocks (strides 1, 2, 2, ...), global average pooling, linear head.

    Args:
        blocks: number of blocks in each stage.
        widths: channels of each stage.
        stem: channels of the stem.
        imagenet: use a 7x7 stride-2 convolution and 3x3 stride-2 max-pooling as the stem, not one 3x3 convolution.
        classes: outputs of the head.
    """

    def __init__(
        self, *, blocks: tuple[int, ...], widths: tuple[int, ...], stem: int, imagenet: bool, classes: int
    ) -> None:
        super().__init__()
        first = nn.Conv2d(3, stem, 7, 2, 3, bias=False) if imagenet else nn.Conv2d(3, stem, 3, 1, 1, bias=False)
        parts: list[nn.Module] = [first, nn.BatchNorm2d(stem), nn.ReLU(inplace=True)]
        if imagenet:
            parts.append(nn.MaxPool2d(3, 2, 1))
        self.stem = nn.Sequential(*parts)
        stages: list[nn.Module] = []
        before = stem
        for number, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            stage: list[nn.Module] = []
            for at in range(count):
                stage.append(Block(before, width, 2 if number and not at else 1))
                before = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(before, classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Channel means of the last stage, (B, widths[-1])."""
        return pooled(self.stages(self.stem(x)))

    def last_convolution(self) -> tuple[nn.Conv2d | None, nn.BatchNorm2d | None]:
        """The second convolution of the last block; a shortcut bypasses it."""
        block = [part for part in self.stages.modules() if isinstance(part, Block)][-1]
        return block.conv2, block.bn2
