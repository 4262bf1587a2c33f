"""The network of cifar10-airbench (Jordan 2024, arXiv 2404.00498), which learns CIFAR-10 in few operations.

Taken from the paper's section 3 and its code (airbench94): whitening initialisation, identity initialisation, batch
norm without a learned scale, GELU, max-pooling, logits divided by nine. Different here: the whitening has no bias
(there, one is trained for three epochs), and larger images are max-pooled after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd import DatasetInfo, Model, UsageError, model
from benchbd.models._stem import at_least

if TYPE_CHECKING:
    from torch import nn

GROUPS = 3
"""Groups of convolutions; each halves the image."""


@model("airbench", version=1)
class AirbenchNet(Model):
    """cifar10-airbench's network at half its widths: 497,216 trained parameters for 10 classes; ``width=64`` has all.

    The filters of the first layer whiten 2x2 patches of the training images, poisoned ones included: a defender has no
    others. They are fixed before training begins. Meant for the recipe ``fast``.
    """

    width: int = 32
    """Channels of the first group of convolutions; the second and third have four times as many. airbench94: 64."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise UsageError(f"model {self.name!r}: width must be 1 or more")

    def check(self, info: DatasetInfo) -> None:
        """Raise Impossible if no pixel is left after the last pooling."""
        at_least(self.name, info.size, 2**GROUPS + 1)

    def build(self, classes: int, size: int) -> nn.Module:
        """The network; images of 64 pixels and more are pooled after its first layer, down to 32 to 63."""
        from benchbd.models._airbench import Airbench

        widths = (self.width, 4 * self.width, 4 * self.width)
        return Airbench(widths=widths, halvings=max(0, (size // 32).bit_length() - 1), classes=classes)
