"""Residual networks: the paper's students (ResNet-18, -34) and its low-capacity teachers (ResNet-S, -S1, -S2).

The CIFAR form (3x3 stem, no max-pooling) follows He et al. 2016 as commonly adapted to 32x32 images; images of 96
pixels and more get the ImageNet stem. Without it a ResNet-34 costs sixteen times as much at 224 pixels.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from benchbd import DatasetInfo, Model, UsageError, model
from benchbd.models._stem import StemKind, at_least, imagenet_stem

if TYPE_CHECKING:
    from torch import nn


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Residual(Model):
    """Shared by the family. Subclasses set the number of blocks and the width of each stage."""

    blocks: ClassVar[tuple[int, ...]] = ()

    stem: int | None = None
    """Channels of the input stem (default: as many as the first stage)."""
    stem_kind: StemKind = "auto"
    """cifar: one 3x3 convolution; imagenet: 7x7 stride-2 convolution, max-pooling; auto: imagenet from 96 pixels on."""

    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        if min(self.widths()) < 1 or (self.stem is not None and self.stem < 1):
            raise UsageError(f"model {self.name!r}: width and stem must be 1 or more")

    def check(self, info: DatasetInfo) -> None:
        """Raise Impossible if the last stage would see less than one full pixel."""
        at_least(self.name, info.size, 32 if imagenet_stem(self.stem_kind, info.size) else 8)

    def build(self, classes: int, size: int) -> nn.Module:
        """The network for ``size`` x ``size`` images."""
        from benchbd.models._resnet import ResNet

        return ResNet(
            blocks=self.blocks,
            widths=self.widths(),
            stem=self.stem or self.widths()[0],
            imagenet=imagenet_stem(self.stem_kind, size),
            classes=classes,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Doubling(_Residual):
    """Residual networks whose width doubles from stage to stage: width, 2 width, 4 width, 8 width."""

    width: int = 64
    """Channels of the first stage; each following stage has twice as many. 16 gives a thin network."""

    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.width * 2**stage for stage in range(4))


@model("resnet18", version=1)
class ResNet18(_Doubling):
    """ResNet-18, the student on CIFAR-10 and GTSRB (LfD section 5.1): 11,173,962 parameters for 10 classes."""

    blocks = (2, 2, 2, 2)


@model("resnet34", version=1)
class ResNet34(_Doubling):
    """ResNet-34, the student on the ImageNet subset (LfD section 5.1): 21,290,828 parameters for 12 classes."""

    blocks = (3, 4, 6, 3)


@model("resnet-s", version=1)
class ResNetS(_Residual):
    """ResNet-S, LfD's teacher: one block per stage with 2, 2, 2 and 4 channels; 612 parameters for 10 classes.

    The paper does not give the width of the stem. Here it equals that of the first stage; the other reading is
    ``stem=64`` (3,658 parameters). A network of one or two channels can start with dead ReLUs and then stays at chance.
    The defense must handle this: it can train from several seeds, or start again if the loss stays at log(classes).
    """

    blocks = (1, 1, 1, 1)

    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return (2, 2, 2, 4)


@model("resnet-s1", version=1)
class ResNetS1(_Residual):
    """ResNet-S1, smaller than ResNet-S (LfD section 5.3): one channel per stage; 146 parameters for 10 classes."""

    blocks = (1, 1, 1, 1)

    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return (1, 1, 1, 1)


@model("resnet-s2", version=1)
class ResNetS2(_Doubling):
    """ResNet-S2, larger than ResNet-S (LfD section 5.3): ResNet-18 with one block per stage; 4,903,242 parameters."""

    blocks = (1, 1, 1, 1)
