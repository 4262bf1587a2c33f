"""The gap between a network and its stored state: what the network computes with that the state does not hold."""

from __future__ import annotations

import torch
from torch import Tensor

from benchbd.engine.augment import unit_range
from benchbd.engine.epochs import own_randomness
from benchbd.engine.network import Classifier
from benchbd.engine.passes import eval_mode
from benchbd.engine.precision import arithmetic

CLOSE = 1e-3
"""Largest difference between two logits that are still equal, as a share of the largest logit.

A CPU gives equal bits as a rule. A matrix library may sum in another order where memory is aligned otherwise, and a GPU
may choose another algorithm: that moves a deep network's logits by a hundredth of this. Missing state moves them more.
"""


def state_gap(net: Classifier, rebuilt: Classifier, images: Tensor, device: torch.device) -> str | None:
    """Compare a network with the one rebuilt from its state, in eval mode; both see the same random numbers.

    Args:
        net: the network that was trained.
        rebuilt: a new network with its state loaded.
        images: uint8 (N, 3, H, W).
        device: where to compute.

    Returns:
        One line that says what to do about a difference; None if the logits agree.
    """
    live, stored = (_logits(each, images, device) for each in (net, rebuilt))
    largest = float(live[torch.isfinite(live)].abs().amax()) if torch.isfinite(live).any() else 0.0
    if torch.isclose(live, stored, rtol=0.0, atol=CLOSE * largest, equal_nan=True).all():
        return None
    apart = float((live - stored).abs().nan_to_num(torch.inf).amax())
    return (
        f"the trained network and the one rebuilt from its state_dict give other logits (by up to {apart:.3g}, where "
        f"the largest is {largest:.3g}); keep all that forward() uses in parameters or in buffers "
        "(register_buffer, persistent), nothing in plain attributes"
    )


def _logits(net: Classifier, images: Tensor, device: torch.device) -> Tensor:
    net.to(device)
    full = torch.autocast(device.type, enabled=False)
    with arithmetic(device, strict=False, search=False), own_randomness(device) as reseed, eval_mode(net), full:
        reseed(0)
        with torch.inference_mode():
            logits: Tensor = net(unit_range(images.to(device), channels_last=False))
            return logits.cpu()
