"""Counts the operations of a network: those of its convolutions and matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from benchbd.core.operations import Operations
from benchbd.engine.network import Classifier

IMAGES = 2
"""Images to count with; batch norm cannot be trained on a single value."""


def count_operations(net: Classifier, size: int) -> Operations:
    """Count a network's operations for images of ``size`` pixels a side.

    It computes the step of two images on the CPU. On the meta device it would compute nothing, but the first use of
    that device costs torch more than the two images, and not every layer of a plugin's supports it.
    """
    net.train()
    with FlopCounterMode(display=False, custom_mapping=_BACKWARD) as counter:
        loss = F.cross_entropy(net(torch.rand(IMAGES, 3, size, size)), torch.zeros(IMAGES, dtype=torch.int64))
        forward = counter.get_total_flops()
        loss.backward()  # type: ignore[no-untyped-call]
    net.zero_grad(set_to_none=True)
    return Operations(counter.get_total_flops() / IMAGES, forward / IMAGES)


def _convolution_backward(grad: Any, images: Any, filters: Any, *settings: Any, **_: Any) -> int:
    """Operations of a convolution's backward pass from the shapes of its arguments: the forward pass for each gradient.

    torch's own formula counts a depthwise convolution once per group too often.
    """
    transposed, wanted = settings[4], settings[7]
    once: int = conv_flop_count(images, filters, grad, transposed=transposed)
    return once * sum(map(bool, wanted[:2]))


_BACKWARD = {torch.ops.aten.convolution_backward: _convolution_backward}
