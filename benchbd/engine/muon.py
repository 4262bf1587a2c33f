"""Muon: a convolution's filters move by the orthogonal matrix nearest to their averaged gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial that each iteration applies to the singular values of a matrix."""
ITERATIONS = 3
"""Of Newton and Schulz; cifar10-airbench has three, the author's optimiser for language models five."""
TINY = 1e-7
"""Keeps norms of zero from dividing by zero."""


def nearly_orthogonal(matrices: Tensor) -> Tensor:
    """Replace the singular values of each matrix by values near 1, in its own precision.

    Three iterations leave singular values of at least a tenth of the matrix's norm between 0.6 and 1.3, and
    raise smaller ones about fortyfold.

    Args:
        matrices: (B, rows, columns).
    """
    linear, cubic, quintic = COEFFICIENTS
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + TINY)
    for _ in range(ITERATIONS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=cubic, alpha=quintic), x, beta=linear)
    return x if wide else x.mT


class Muon(torch.optim.SGD):
    """Muon for the parameter groups with ``orthogonal``, SGD for the others.

    A step gives the filters of a convolution, one row each, the norm of as many orthonormal rows. Then it subtracts the
    rate times :func:`nearly_orthogonal` of their averaged gradient. The norm makes weight decay needless, and suits
    convolutions that a norm layer follows. Source: Jordan et al. 2024 ("Muon: an optimizer for hidden layers in neural
    networks"), and the norm from the Muon variant of cifar10-airbench. Everything is computed from tensors alone, so
    that a graph can capture it.

    Args:
        groups: as for SGD, each with ``orthogonal``; that group's parameters are filters (models * out, ...).
        models: number of models that the parameters pack, along their first axis.
        how: settings of SGD; momentum and its form are Muon's as well.
    """

    def __init__(self, groups: list[dict[str, Any]], models: int = 1, **how: Any) -> None:
        super().__init__(groups, **how)
        self._models = models

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the filters, then the other weights. The gradients of the filters are gone afterwards."""
        for group in self.param_groups:
            for p in group["params"] if group["orthogonal"] else ():
                if p.grad is not None:
                    self._move(p, p.grad, group)
                    p.grad = None  # SGD passes over it
        super().step(closure)

    def _move(self, filters: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        mean = self.state[filters].get("momentum_buffer")
        if mean is not None:
            mean.mul_(group["momentum"]).add_(gradient)
            gradient = gradient.add(mean, alpha=group["momentum"]) if group["nesterov"] else mean
        rows = filters.reshape(self._models, len(filters) // self._models, -1)
        scale = rows.shape[1] ** 0.5 / (torch.linalg.matrix_norm(rows, keepdim=True) + TINY)
        # A plugin's loop may step within its autocast context, which would round the products.
        with torch.autocast(filters.device.type, enabled=False):
            moved = rows * scale - nearly_orthogonal(gradient.reshape(rows.shape)) * group["lr"]
        filters.copy_(moved.reshape(filters.shape))
