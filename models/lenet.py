"""LeNet, and LeNet-S, its low-capacity version in LfD's Figure 6."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from benchbd import DatasetInfo, Model, model
from benchbd.models._stem import at_least

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class _LeNets(Model):
    """Shared by the two models."""

    channels: ClassVar[tuple[int, int]] = (0, 0)
    hidden: ClassVar[tuple[int, ...]] = ()

    def check(self, info: DatasetInfo) -> None:
        """Raise Impossible if no pixel is left after the convolutions."""
        at_least(self.name, info.size, 16)

    def build(self, classes: int, size: int) -> nn.Module:
        """The network; its first hidden layer grows with the image size."""
        from benchbd.models._lenet import LeNet

        return LeNet(channels=self.channels, hidden=self.hidden, classes=classes, size=size)


@model("lenet", version=1)
class LeNet5(_LeNets):
    """LeNet-5 with ReLU and max-pooling (after LeCun et al. 1998): 62,006 parameters at 32 pixels."""

    channels = (6, 16)
    hidden = (120, 84)


@model("lenet-s", version=1)
class LeNetS(_LeNets):
    """LeNet-S (LfD section 5.3): 1 and 2 channels, one hidden layer of 20 units; 1,358 parameters at 32 pixels."""

    channels = (1, 2)
    hidden = (20,)
