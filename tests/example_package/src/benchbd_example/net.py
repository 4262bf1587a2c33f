"""A small convolutional network, as a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd import Model, model

if TYPE_CHECKING:
    import torch
    from torch import nn


@model("example-net", version=1)
class Net(Model):
    """Two convolutions, pooled."""

    width: int = 8
    """Channels of the first convolution; the second has twice as many."""

    def build(self, classes: int, size: int) -> nn.Module:
        """A fresh network."""
        from torch import nn

        class Network(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()
                self.first = nn.Conv2d(3, width, 3, stride=2, padding=1)
                self.second = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
                self.head = nn.Linear(2 * width * 4, classes)

            def features(self, x: torch.Tensor) -> torch.Tensor:
                x = self.second(self.first(x).relu()).relu()
                return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)

        return Network(self.width)
