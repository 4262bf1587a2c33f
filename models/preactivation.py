"""PreActResNet-18 and WideResNet-16: the networks of most public tables of backdoor defenses, for small images."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from benchbd import DatasetInfo, Model, UsageError, model
from benchbd.models._stem import at_least

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class _PreActivation(Model):
    """Shared by the two models."""

    def check(self, info: DatasetInfo) -> None:
        """Raise Impossible if the last stage would see less than one full pixel."""
        at_least(self.name, info.size, 8)


@model("preactresnet18", version=1)
class PreActResNet18(_PreActivation):
    """PreActResNet-18 (He et al. 2016b) as BackdoorBench has it: 11,171,146 parameters for 10 classes.

    As there, neither batch norm nor ReLU follows the last block.
    """

    width: int = 64
    """Channels of the stem and the first stage; each following stage has twice as many."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"model {self.name!r}: width must be 1 or more")

    def build(self, classes: int, size: int) -> nn.Module:
        """The network; it keeps the size of images in its first stage."""
        from benchbd.models._preactivation import PreActivation

        widths = tuple(self.width * 2**stage for stage in range(4))
        return PreActivation(stem=self.width, widths=widths, blocks=2, last_norm=False, classes=classes)


@model("wrn-16-1", version=1)
class WideResNet16(_PreActivation):
    """WRN-16-1 (Zagoruyko and Komodakis 2016), the network of NAD, ABL and CBD: 175,066 parameters for 10 classes."""

    widen: int = 1
    """Widening factor: the stages have 16, 32 and 64 times as many channels."""

    def __post_init__(self) -> None:
        if self.widen < 1:
            raise UsageError(f"model {self.name!r}: widen must be 1 or more")

    def build(self, classes: int, size: int) -> nn.Module:
        """The network; it keeps the size of images in its first stage."""
        from benchbd.models._preactivation import PreActivation

        widths = (16 * self.widen, 32 * self.widen, 64 * self.widen)
        return PreActivation(stem=16, widths=widths, blocks=2, last_norm=True, classes=classes)
