"""CBD's estimator of the mutual information of two networks' features, a critic as in a Wasserstein GAN."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from benchbd.engine import Classifier

SCALE = 0.01
"""Factor of the estimate in the loss."""
DROPOUT = 0.2
"""Dropout before both layers of the critic."""
ITERATIONS = 5
"""Power iterations for a spectral norm."""
RATE, EVERY, DECAY = 0.2, 20, 0.1
"""Adam's first learning rate, and the epochs after which it falls by a factor."""


class Information(nn.Module):
    """The frozen biased network, the critic on both networks' features, and the critic's Adam, all in one state.

    Adam's moments are buffers, so that a checkpoint holds them.

    Args:
        net: a network of the same kind as the biased one.
        biased: state of the biased network.
    """

    def __init__(self, net: Classifier, biased: dict[str, Tensor]) -> None:
        super().__init__()
        width = net.head.in_features
        self.biased = copy.deepcopy(net)
        self.biased.load_state_dict(biased)
        self.inner, self.outer = nn.Linear(2 * width, width), nn.Linear(width, 1)
        for number, parameter in enumerate(self.critic()):
            for moment in ("exp_avg", "exp_avg_sq"):
                self.register_buffer(f"{moment}_{number}", torch.zeros_like(parameter))
        self.register_buffer("steps", torch.zeros(()))
        self.requires_grad_(False)

    def critic(self) -> list[nn.Parameter]:
        """The critic's weights and biases."""
        return [*self.inner.parameters(), *self.outer.parameters()]

    def score(self, biased: Tensor, features: Tensor) -> Tensor:
        """The critic's values (B,) of pairs of features (B, D) each."""
        pairs = F.dropout(torch.cat([biased, features], 1), DROPOUT, self.training)
        return self.outer(F.dropout(F.leaky_relu(self.inner(pairs)), DROPOUT, self.training)).squeeze(1)

    def forward(self, biased: Tensor, features: Tensor) -> Tensor:
        """The estimate times :data:`SCALE`: the mean value of pairs minus that of mismatched pairs (B, D) each."""
        apart = self.score(biased, features).mean() - self.score(biased, features.roll(-1, 0)).mean()
        return SCALE * apart

    def optimizer(self, epoch: int) -> torch.optim.Adam:
        """The critic's Adam at an epoch, from 0. It continues from the moments of the epochs before."""
        found = torch.optim.Adam(self.critic(), lr=RATE * DECAY ** ((epoch + 1) // EVERY))
        for number, parameter in enumerate(self.critic()):
            names = {moment: getattr(self, f"{moment}_{number}") for moment in ("exp_avg", "exp_avg_sq")}
            found.state[parameter] = {"step": self.steps.cpu().clone(), **names}
        return found

    def sharpen(self, optimizer: torch.optim.Adam, biased: Tensor, features: Tensor) -> None:
        """One step of the critic that raises the estimate for features (B, D) each, then bound its slope."""
        for parameter in self.critic():
            parameter.requires_grad_(True)
        loss = -self(biased, features)
        gradients = torch.autograd.grad(loss, self.critic())
        for parameter, gradient in zip(self.critic(), gradients, strict=True):
            parameter.requires_grad_(False)
            parameter.grad = gradient
        optimizer.step()
        self.steps += 1
        for parameter in self.critic():
            parameter.grad = None
            parameter.div_(root_norm(parameter))


def root_norm(weight: Tensor) -> Tensor:
    """Root of a matrix's largest singular value, or of a vector's length, as the authors' code divides by.

    Args:
        weight: float (M, N) or (M,). Each division takes its norm nearer to 1.
    """
    matrix = weight.unsqueeze(1) if weight.ndim == 1 else weight
    right = torch.ones(matrix.shape[1], device=weight.device)
    for _ in range(ITERATIONS):
        left = F.normalize(matrix @ right, dim=0)
        right = F.normalize(left @ matrix, dim=0)
    return (left @ matrix @ right).clamp(min=1e-12).sqrt()
