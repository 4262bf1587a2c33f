"""MobileNetV2, and MobileNetV2-S, its low-capacity version in LfD's Figure 6."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

from benchbd import DatasetInfo, Model, UsageError, model
from benchbd.models._stem import StemKind, at_least, imagenet_stem

if TYPE_CHECKING:
    from torch import nn

STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and stride of each stage (Sandler et al. 2018, Table 2), with strides for 32 pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Mobile(Model):
    """Shared by the two models."""

    shortcut: Literal["projection", "identity"] = "projection"
    """Shortcut of stride-1 blocks that change the channels: projection adds a 1x1 projection, identity adds nothing."""


@model("mobilenetv2", version=1)
class MobileNetV2(_Mobile):
    """MobileNetV2 (Sandler et al. 2018) in CIFAR form with ReLU: 2,296,922 parameters for 10 classes."""

    width: int = 32
    """Channels of the stem; all other layers keep their ratio to it, rounded."""
    stem_kind: StemKind = "auto"
    """cifar: stem and second stage keep the size; imagenet: both halve it; auto: imagenet from 96 pixels on."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"model {self.name!r}: width must be 1 or more")

    def check(self, info: DatasetInfo) -> None:
        """Raise Impossible if the last stage would see less than one full pixel."""
        at_least(self.name, info.size, 32 if imagenet_stem(self.stem_kind, info.size) else 8)

    def _scaled(self, channels: int) -> int:
        return max(1, (channels * self.width + 16) // 32)

    def build(self, classes: int, size: int) -> nn.Module:
        """The network for ``size`` x ``size`` images."""
        from benchbd.models import _mobilenet as nets

        large = imagenet_stem(self.stem_kind, size)
        units = []
        before = self._scaled(32)
        for stage, (expansion, channels, blocks, stride) in enumerate(STAGES):
            first = 2 if large and stage == 1 else stride
            for at in range(blocks):
                units.append(nets.Unit(expansion * before, self._scaled(channels), 1 if at else first))
                before = self._scaled(channels)
        return nets.MobileNetV2(
            stem=self._scaled(32),
            stem_stride=2 if large else 1,
            units=tuple(units),
            last=self._scaled(1280),
            project=self.shortcut == "projection",
            classes=classes,
        )


@model("mobilenetv2-s", version=1)
class MobileNetV2S(_Mobile):
    """MobileNetV2-S (LfD section 5.3): stem of 4 channels, two bottleneck stages of 8, features of 16; 990 parameters.

    Read literally, the paper's second stage contracts 8 channels to 4 where the original expands. This is kept.
    """

    stride: Literal[1, 2] = 2
    """Stride of the second bottleneck stage. The paper gives none; MobileNetV2 has 1 there, and 2 is cheaper."""

    def check(self, info: DatasetInfo) -> None:
        """Raise Impossible for images smaller than 8 pixels."""
        at_least(self.name, info.size, 8)

    def build(self, classes: int, size: int) -> nn.Module:
        """The network; its stem halves images of 96 pixels and more."""
        from benchbd.models import _mobilenet as nets

        return nets.MobileNetV2(
            stem=4,
            stem_stride=2 if imagenet_stem("auto", size) else 1,
            units=(nets.Unit(4, 8, 1), nets.Unit(4, 8, self.stride), nets.Unit(8, 8, 1)),
            last=16,
            project=self.shortcut == "projection",
            classes=classes,
        )
