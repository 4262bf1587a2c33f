"""VGG-11, and VGG-S, its low-capacity version in LfD's Figure 6."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from benchbd import DatasetInfo, Model, UsageError, model
from benchbd.models._stem import at_least

if TYPE_CHECKING:
    from torch import nn

P = 0
"""Stands for a max-pooling in a plan of channels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Vgg(Model):
    """Shared by the two models: eight convolutions and five poolings."""

    batch_norm: bool = True
    """Whether batch norm follows each convolution."""

    def plan(self) -> tuple[int, ...]:
        """Channels of each convolution, and P for each max-pooling."""
        raise NotImplementedError

    def check(self, info: DatasetInfo) -> None:
        """Raise Impossible if no pixel is left after five poolings."""
        at_least(self.name, info.size, 32)

    def build(self, classes: int, size: int) -> nn.Module:
        """The network; the average pooling at its end accepts any size from 32 on."""
        from benchbd.models._vgg import VGG

        return VGG(plan=self.plan(), batch_norm=self.batch_norm, classes=classes)


@model("vgg11", version=1)
class Vgg11(_Vgg):
    """VGG-11 with batch norm and one linear layer (Simonyan and Zisserman 2015, CIFAR form): 9,231,114 parameters."""

    width: int = 64
    """Channels of the first convolution; the others keep their ratios to it (2, 4, 4, 8, 8, 8, 8)."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"model {self.name!r}: width must be 1 or more")

    def plan(self) -> tuple[int, ...]:
        """Channels of each convolution, and P for each max-pooling."""
        w = self.width
        return (w, P, 2 * w, P, 4 * w, 4 * w, P, 8 * w, 8 * w, P, 8 * w, 8 * w, P)


@model("vgg-s", version=1)
class VggS(_Vgg):
    """VGG-S (LfD section 5.3): VGG-11's chain with 4, 8, 16, 16, 32, 32, 32 and 512 channels; 181,434 parameters."""

    def plan(self) -> tuple[int, ...]:
        """Channels of each convolution, and P for each max-pooling."""
        return (4, P, 8, P, 16, 16, P, 32, 32, P, 32, 512, P)
