"""LeNet: two 5x5 convolutions, each with a pooling, then fully connected layers."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from benchbd.models._base import Network, initialise


def side(size: int) -> int:
    """Side in pixels of the feature map after two unpadded 5x5 convolutions, each with a 2x2 pooling."""
    return ((size - 4) // 2 - 4) // 2


class LeNet(Network):
    """Two blocks of convolution, ReLU and pooling, hidden linear layers with ReLU, and a linear head.

    Args:
        channels: channels of the two convolutions.
        hidden: units of the hidden layers.
        classes: outputs of the head.
        size: height and width of the images in pixels; it sets the inputs of the first hidden layer.
    """

    def __init__(self, *, channels: tuple[int, int], hidden: tuple[int, ...], classes: int, size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels[0], 5)
        self.conv2 = nn.Conv2d(channels[0], channels[1], 5)
        units = (channels[1] * side(size) ** 2, *hidden)
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(units))
        self.head = nn.Linear(units[-1], classes)
        initialise(self)

    def features(self, x: Tensor) -> Tensor:
        """Output of the last hidden layer after its ReLU, (B, hidden[-1])."""
        for conv in (self.conv1, self.conv2):
            x = F.max_pool2d(F.relu(conv(x), inplace=True), 2)
        x = x.flatten(1)
        for layer in self.hidden:
            x = F.relu(layer(x), inplace=True)
        return x
