"""Shared by the networks: the split into features and head, and the initialisation."""

from __future__ import annotations

from torch import Tensor, nn


class Network(nn.Module):
    """Base class of the networks: ``forward`` applies the linear ``head`` to ``features``."""

    head: nn.Linear

    def features(self, x: Tensor) -> Tensor:
        """Penultimate features, (B, D), of normalised images (B, 3, H, W)."""
        raise NotImplementedError

    def last_convolution(self) -> tuple[nn.Conv2d | None, nn.BatchNorm2d | None]:
        """The convolution whose output channels are the features, and the batch norm after it; None if absent."""
        return None, None

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (B, classes)."""
        logits: Tensor = self.head(self.features(x))
        return logits


def pooled(x: Tensor) -> Tensor:
    """Global average pooling, (B, C, H, W) to (B, C)."""
    return x.mean((2, 3))


def initialise(net: nn.Module) -> None:
    """Draw new weights from torch's global generator.

    Convolutions: Kaiming normal by fan-out, for ReLU (He et al. 2015), with bias 0. Batch norm: scale 1, shift 0.
    Linear layers keep torch's default.
    """
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)
