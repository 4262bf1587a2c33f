"""VGG: a chain of 3x3 convolutions and max-poolings."""

from __future__ import annotations

from torch import Tensor, nn

from benchbd.models._base import Network, initialise, pooled


class VGG(Network):
    """3x3 convolutions with (batch norm and) ReLU, 2x2 max-poolings in between, global average pooling, linear head.

    Args:
        plan: channels of each convolution, 0 for a max-pooling.
        batch_norm: add batch norm after each convolution (which customarily keeps its redundant bias).
        classes: outputs of the head.
    """

    def __init__(self, *, plan: tuple[int, ...], batch_norm: bool, classes: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        before = 3
        for width in plan:
            if not width:
                parts.append(nn.MaxPool2d(2))
                continue
            parts.append(nn.Conv2d(before, width, 3, padding=1))
            if batch_norm:
                parts.append(nn.BatchNorm2d(width))
            parts.append(nn.ReLU(inplace=True))
            before = width
        self.convolutions = nn.Sequential(*parts)
        self.head = nn.Linear(before, classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Channel means after the last convolution and pooling, (B, D)."""
        return pooled(self.convolutions(x))

    def last_convolution(self) -> tuple[nn.Conv2d | None, nn.BatchNorm2d | None]:
        """The last convolution of the chain."""
        parts = list(self.convolutions)
        at = max(n for n, part in enumerate(parts) if isinstance(part, nn.Conv2d))
        conv, after = parts[at], parts[at + 1]
        assert isinstance(conv, nn.Conv2d)
        return conv, after if isinstance(after, nn.BatchNorm2d) else None
