"""Projected gradient ascent in an L-infinity ball (Madry et al. 2018). Imported inside methods only."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional as F

from benchbd.engine import Classifier
from benchbd.engine.passes import eval_mode


@dataclasses.dataclass(frozen=True)
class PGD:
    """Moves images so that the cross-entropy of their labels grows; usable as a training's ``perturb``.

    PGD starts at the images themselves, so it needs no random numbers. Batch norm layers use their running statistics
    meanwhile, because only the training step that follows should update these.

    Attributes:
        eps: radius, 0..255.
        step: step length, 0..255.
        steps: number of steps.
    """

    eps: float
    step: float
    steps: int

    def __call__(self, net: Classifier, x01: Tensor, labels: Tensor) -> Tensor:
        """Perturb float (B, 3, H, W) images in [0, 1]; the result stays in [0, 1] and within eps of them."""
        x01 = x01.detach()
        low, high = (x01 - self.eps / 255).clamp_(0, 1), (x01 + self.eps / 255).clamp_(0, 1)
        moved = x01.clone()
        with eval_mode(net), torch.enable_grad():
            for _ in range(self.steps):
                moved.requires_grad_()
                loss = F.cross_entropy(net(moved), labels, reduction="sum")
                (gradient,) = torch.autograd.grad(loss, moved)
                moved = (moved.detach() + self.step / 255 * gradient.sign()).clamp(low, high)
        return moved.detach()


def perturbed(net: Classifier, images: Tensor, labels: Tensor, attack: PGD, device: torch.device) -> Tensor:
    """Perturb stored images and round them to whole pixel values.

    Args:
        net: the model to attack, on ``device``.
        images: uint8 (B, 3, H, W).
        labels: int64 (B,).
        attack: radius and steps.
        device: device to compute on.

    Returns:
        uint8 (B, 3, H, W) on the CPU, within eps (rounded down) of ``images``.
    """
    before = images.to(device)
    moved = attack(net, before.float() / 255, labels.to(device))
    radius = int(attack.eps)
    change = (moved * 255).round().to(torch.int16) - before.to(torch.int16)
    return (before.to(torch.int16) + change.clamp(-radius, radius)).clamp(0, 255).to(torch.uint8).cpu()
