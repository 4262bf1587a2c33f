"""The network of cifar10-airbench: frozen whitening filters, groups of two convolutions, a scaled head."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.models._base import Network

EPSILON = 5e-4
"""Added to the variances of patches before they are divided by their roots."""
CHUNK = 500
"""Images whose patches are in memory at a time."""


class Whitening(nn.Module):
    """2x2 convolution with 12 fixed filters and their negatives. Until :meth:`whiten`, they are the patch's own values.

    It has no bias, so that no gradient is computed for the largest maps of the network.
    """

    filters: Tensor

    def __init__(self) -> None:
        super().__init__()
        basis = torch.eye(12).view(12, 3, 2, 2)
        # A buffer, so that no optimiser and no thawing of parameters reaches it.
        self.register_buffer("filters", torch.cat([basis, -basis]))

    def whiten(self, images: Tensor) -> None:
        """Set the filters to the principal axes of the images' 2x2 patches, each divided by its deviation.

        Args:
            images: float (M, 3, H, W), normalised.
        """
        products = torch.zeros(12, 12, dtype=torch.float64)
        patches = 0
        for part in images.split(CHUNK):
            height, width = part.shape[2] - 1, part.shape[3] - 1
            corners = [part[:, :, y : y + height, x : x + width] for y in (0, 1) for x in (0, 1)]
            values = torch.stack(corners, 2).flatten(1, 2).transpose(0, 1).flatten(1).double()
            products += values @ values.T
            patches += values.shape[1]
        variances, axes = torch.linalg.eigh(products / patches)
        filters = (axes / (variances + EPSILON).sqrt()).T.flip(0).view(12, 3, 2, 2)
        self.filters.copy_(torch.cat([filters, -filters]))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, 24, H - 1, W - 1)."""
        return F.conv2d(x, self.filters)


def _convolution(before: int, width: int) -> nn.Conv2d:
    """3x3 convolution whose first filters pass their channels on unchanged; the others keep torch's default."""
    conv = nn.Conv2d(before, width, 3, padding=1, bias=False)
    nn.init.dirac_(conv.weight.data[:before])
    return conv


def _norm(width: int) -> nn.BatchNorm2d:
    """Batch norm with a trained shift and a scale that stays 1."""
    norm = nn.BatchNorm2d(width, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


class Group(nn.Module):
    """Convolution, 2x2 max-pooling, norm, GELU, convolution, norm, GELU."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _convolution(before, width), _norm(width)
        self.conv2, self.norm2 = _convolution(width, width), _norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class Airbench(Network):
    """Whitening, groups of convolutions, global max-pooling, linear head without bias.

    Args:
        widths: channels of each group.
        halvings: 2x2 max-poolings after the whitening, for large images.
        classes: outputs of the head.
    """

    SCALE = 1 / 9
    """Factor of the features, and so of the logits: the untrained network is then unsure."""

    def __init__(self, *, widths: tuple[int, ...], halvings: int, classes: int) -> None:
        super().__init__()
        self.whitening, self.halvings = Whitening(), halvings
        groups: list[nn.Module] = []
        before = 24
        for width in widths:
            groups.append(Group(before, width))
            before = width
        self.groups = nn.Sequential(*groups)
        self.head = nn.Linear(before, classes, bias=False)

    def initialise_from(self, images: Tensor) -> None:
        """Whiten by the 2x2 patches of normalised images, float (M, 3, H, W)."""
        self.whitening.whiten(images)

    def features(self, x: Tensor) -> Tensor:
        """Largest values of each channel of the last group, scaled, (B, widths[-1])."""
        x = self.whitening(x)
        for _ in range(self.halvings):
            x = F.max_pool2d(x, 2)
        return self.groups(F.gelu(x)).amax((2, 3)) * self.SCALE

    def last_convolution(self) -> tuple[nn.Conv2d | None, nn.BatchNorm2d | None]:
        """The second convolution of the last group."""
        last = self.groups[-1]
        assert isinstance(last, Group)
        return last.conv2, last.norm2
