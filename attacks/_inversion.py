"""Triggers optimised on a clean model: pixels that drive its penultimate features. Imported inside methods only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from benchbd.engine import Classifier
from benchbd.engine.precision import arithmetic

REPORT_EVERY = 50
"""Steps between two progress reports, each of which costs one read from the device."""


def _frozen(net: Classifier, device: torch.device) -> Classifier:
    return net.to(device).eval().requires_grad_(False)


def _towards(net: Classifier, target: int, neurons: int) -> Tensor:
    """Positions (K,) of the features with the largest classifier weight for a class."""
    return net.head.weight[target].topk(min(neurons, net.head.in_features)).indices


def excite(
    net: Classifier,
    shape: np.ndarray,
    *,
    neurons: int,
    activation: float,
    iterations: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int, float], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Optimise the colours of a shape on black until chosen features reach an activation.

    Source: Liu et al. (2017), with trojanzoo's settings.

    Args:
        net: clean model; it is moved and frozen, so pass a copy.
        shape: float (H, W) in [0, 1], factor of each pixel's colour.
        neurons: number of features to excite: those with the largest sum over classes of |classifier weight|.
        activation: target value of |feature|; the sum of squared errors is minimised.
        iterations: steps of Adam at learning rate 0.1 with cosine decay.
        seed: seed of the initial colours.
        device: device to compute on.
        progress: called with step and loss.

    Returns:
        The picture, float32 (3, H, W) in [0, 1], and the features before and after, float32 (2, neurons).
    """
    net = _frozen(net, device)
    chosen = net.head.weight.abs().sum(0).topk(min(neurons, net.head.in_features)).indices
    mask = torch.from_numpy(np.asarray(shape, np.float32)).to(device)
    start = torch.empty(3, *shape.shape).uniform_(-1, 1, generator=torch.Generator().manual_seed(seed))
    free = start.to(device).requires_grad_()
    optimizer = torch.optim.Adam([free], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, iterations)

    def picture() -> Tensor:
        return mask * (free.tanh() / 2 + 0.5)

    def excited() -> Tensor:
        return net.features(picture()[None])[0, chosen]

    with arithmetic(device, strict=False, search=False):
        before = excited().detach()
        for step in range(iterations):
            loss = (excited().abs() - activation).square().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == iterations:
                progress(step + 1, float(loss.detach()))
        after = excited().detach()
    return picture().detach().cpu().numpy(), torch.stack([before, after]).cpu().numpy()


def amplify(
    net: Classifier,
    images: Tensor,
    target: int,
    *,
    norm: float,
    cap: float,
    amplification: float,
    neurons: int,
    penalty: float,
    lr: float,
    steps: int,
    batch: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int, float], None],
) -> tuple[np.ndarray, np.ndarray]:
    """Find an additive pattern of small norm that excites the target class's features (Li et al. 2021, optimised l2).

    The features phi_k are those with the largest weight for the target class. Noise d0 excites them a little, and the
    pattern d should excite them ``c`` times as much. The loss is the mean over images of
    sum_k (phi_k(clip(x + d)) - c phi_k(clip(x + d0)))^2, plus lambda |d|^2. Every 200 steps, the norm of d is checked:
    the loop ends if it is small enough, else lambda doubles.

    Args:
        net: clean model; it is moved and frozen, so pass a copy.
        images: uint8 (N, 3, H, W), clean.
        target: class whose features are excited.
        norm: wanted L2 norm in [0, 1] units.
        cap: bound of |d| in [0, 1] units.
        amplification: c.
        neurons: number of features: those with the largest classifier weight for the target.
        penalty: initial lambda.
        lr: Adam's learning rate.
        steps: largest number of steps.
        batch: images in a step's batch.
        seed: seed of noise and batches.
        device: device to compute on.
        progress: called with step and the pattern's norm.

    Returns:
        d0 and d, float32 (3, H, W) in [0, 1] units.
    """
    net = _frozen(net, device)
    chosen = _towards(net, target, neurons)
    generator = torch.Generator().manual_seed(seed)
    noise = (torch.randn(images.shape[1:], generator=generator) * (10 / 255)).to(device)
    pattern = noise.clone().requires_grad_()
    optimizer = torch.optim.Adam([pattern], lr=lr)
    stored = images.to(device)
    size = min(batch, len(images))

    def features(x01: Tensor, delta: Tensor) -> Tensor:
        return net.features((x01 + delta).clamp(0, 1))[:, chosen]

    with arithmetic(device, strict=False, search=False):
        for step in range(steps):
            where = torch.randint(0, len(images), (size,), generator=generator).to(device)
            x01 = stored[where].float() / 255
            with torch.no_grad():
                wanted = amplification * features(x01, noise)
            loss = (features(x01, pattern) - wanted).square().sum(1).mean() + penalty * pattern.square().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            with torch.no_grad():
                pattern.clamp_(-cap, cap)
            if (step + 1) % REPORT_EVERY == 0 or step + 1 == steps:
                progress(step + 1, float(pattern.detach().norm()))
            if (step + 1) % 200 == 0:
                if float(pattern.detach().norm()) <= norm:
                    break
                penalty *= 2
    return noise.cpu().numpy(), pattern.detach().cpu().numpy()


def excitement(
    net: Classifier, images: Tensor, target: int, neurons: int, patterns: Sequence[np.ndarray], device: torch.device
) -> np.ndarray:
    """Mean of a class's features on clean images to which a pattern was added (and clipped), for each pattern.

    Args:
        net: clean model; it is moved and frozen, so pass a copy.
        images: uint8 (N, 3, H, W), clean; about 512 of them are used.
        target: class whose features are averaged.
        neurons: number of features: those with the largest classifier weight for the target.
        patterns: float32 (3, H, W) each, in [0, 1] units.
        device: device to compute on.

    Returns:
        float32 (len(patterns),).
    """
    net = _frozen(net, device)
    chosen = _towards(net, target, neurons)
    x01 = images[:: max(1, len(images) // 512)].to(device).float() / 255
    with arithmetic(device, strict=False, search=False), torch.no_grad():
        seen = [(x01 + torch.from_numpy(pattern).to(device)).clamp(0, 1) for pattern in patterns]
        excited = torch.stack([net.features(one)[:, chosen].mean() for one in seen])
    return excited.cpu().numpy()
