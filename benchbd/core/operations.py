"""The operations of a network for one image."""

from __future__ import annotations

from typing import NamedTuple


class Operations(NamedTuple):
    """Operations for one image. A multiply-add counts as two; element-wise work is left out.

    Attributes:
        step: forward and backward pass of a training step. The images themselves need no gradient.
        forward: forward pass.
    """

    step: float
    forward: float
