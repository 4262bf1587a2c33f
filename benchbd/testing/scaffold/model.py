"""my-plugin: a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd import DatasetInfo, Impossible, Model, model

if TYPE_CHECKING:
    import torch
    from torch import nn


@model("my-plugin", version=1)
class MyPlugin(Model):
    """Three strided convolutions with batch norm, pooled."""

    # Every field is a parameter. The docstring below it is its help.
    width: int = 16
    """Channels of the first convolution; each following one has twice as many."""

    def check(self, info: DatasetInfo) -> None:
        """Raise Impossible, with the numbers, for images that do not fit the network."""
        if info.size < 8:
            raise Impossible(f"my-plugin needs images of at least 8x8 pixels, not {info.size}x{info.size}")

    def build(self, classes: int, size: int) -> nn.Module:
        """A new network with ``features(x)`` (B, D) and a linear ``head``; x is normalised, (B, 3, H, W)."""
        from torch import nn

        class Net(nn.Module):
            def __init__(self, width: int) -> None:
                super().__init__()
                layers: list[nn.Module] = []
                for inside, outside in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
                    convolution = nn.Conv2d(inside, outside, 3, stride=2, padding=1, bias=False)
                    layers += [convolution, nn.BatchNorm2d(outside), nn.ReLU()]
                self.body = nn.Sequential(*layers)
                self.head = nn.Linear(4 * width, classes)

            def features(self, x: torch.Tensor) -> torch.Tensor:
                pooled: torch.Tensor = self.body(x).mean((2, 3))
                return pooled

        return Net(self.width)
