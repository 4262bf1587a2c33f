"""The privacy of DP-SGD: Renyi divergence of the sampled Gaussian mechanism, for whole orders."""

from __future__ import annotations

import math

ORDERS = (*range(2, 65), 80, 96, 128, 256)
"""Orders among which the smallest epsilon is sought."""


def divergence(rate: float, sigma: float, order: int) -> float:
    """Renyi divergence of one step (Mironov, Talwar and Zhang 2019, section 3.3).

    Args:
        rate: probability with which a sample takes part, in (0, 1].
        sigma: standard deviation of the noise, in units of the clipping norm.
        order: whole number, 2 or more.
    """
    if rate == 1.0:
        return order / (2 * sigma**2)
    terms: list[float] = [
        math.log(math.comb(order, k))
        + k * math.log(rate)
        + (order - k) * math.log1p(-rate)
        + k * (k - 1) / (2 * sigma**2)
        for k in range(order + 1)
    ]
    top = max(terms)
    return (top + math.log(sum(math.exp(term - top) for term in terms))) / (order - 1)


def epsilon(rate: float, sigma: float, steps: int, delta: float) -> float:
    """Epsilon of (epsilon, delta) differential privacy after some steps (Mironov 2017, proposition 3).

    Other conversions and accountants, which give smaller numbers for the same noise, are left out.
    """
    found: float = min(steps * divergence(rate, sigma, order) - math.log(delta) / (order - 1) for order in ORDERS)
    return found
