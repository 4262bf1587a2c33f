"""The pattern and mask networks of the input-aware attack (Nguyen and Tran 2020). Imported inside methods only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

BATCH = 64
"""Images in a batch when stamping; short batches are padded, so that the arithmetic is the same for every image."""
Net = TypeVar("Net", bound=nn.Module)
_SOFTEN = 2 + 1e-7


def _block(inside: int, outside: int, relu: bool = True) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside, momentum=0.05)]
    return [*layers, nn.ReLU()] if relu else layers


class Generator(nn.Sequential):
    """An encoder-decoder from images in [0, 1] to ``channels`` values per pixel, before squashing.

    Args:
        channels: 3 for patterns (723,273 parameters at full width), 1 for masks (722,691).
        width: channels of the first stage; each further stage has twice as many.
        stages: how often the image is halved; its side must be divisible by 2**stages.
    """

    def __init__(self, channels: int, width: int = 32, stages: int = 3) -> None:
        widths = [width * 2**stage for stage in range(stages)]
        layers: list[nn.Module] = []
        inside = 3
        for wide in widths:
            layers += [*_block(inside, wide), *_block(wide, wide), nn.MaxPool2d(2)]
            inside = wide
        layers += _block(inside, inside)
        for stage in reversed(range(stages)):
            wide = widths[stage]
            layers += [nn.Upsample(scale_factor=2, mode="bilinear"), *_block(wide, wide)]
            layers += _block(wide, widths[stage - 1]) if stage else _block(wide, channels, relu=False)
        super().__init__(*layers)


def fresh(channels: int, width: int, stages: int, seed: int) -> Generator:
    """A Generator with weights drawn on the CPU from a seed; torch's global random state does not change."""
    before = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        return Generator(channels, width, stages)
    finally:
        torch.set_rng_state(before)


def moved(net: Net, device: torch.device) -> Net:
    """The network, moved to a device in the channels-last layout, which is faster on both CPU and GPU."""
    net.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net


def pattern_of(net: nn.Module, x01: Tensor) -> Tensor:
    """Patterns in (0, 1), (B, 3, H, W)."""
    raw: Tensor = net(x01)
    return raw.tanh() / _SOFTEN + 0.5


def mask_of(net: nn.Module, x01: Tensor) -> Tensor:
    """Soft masks in (0, 1), (B, 1, H, W), steep around a raw value of one half."""
    raw: Tensor = net(x01)
    return (20 * raw - 10).tanh() / _SOFTEN + 0.5


def put(x01: Tensor, pattern: Tensor, mask: Tensor) -> Tensor:
    """x + (pattern - x) mask."""
    return x01 + (pattern - x01) * mask


def arrays_of(net: nn.Module, prefix: str) -> dict[str, np.ndarray]:
    """The weights and batch norm statistics as arrays named ``prefix.name``."""
    return {f"{prefix}.{name}": value.detach().cpu().numpy().copy() for name, value in net.state_dict().items()}


def from_arrays(arrays: Mapping[str, np.ndarray], prefix: str) -> Generator:
    """The Generator rebuilt from the arrays of :func:`arrays_of`, frozen and in eval mode on the CPU."""
    found = {
        k[len(prefix) + 1 :]: torch.from_numpy(np.array(v)) for k, v in arrays.items() if k.startswith(f"{prefix}.")
    }
    # Stores may return the arrays in any order; names begin with the layer's number.
    convolutions = [
        found[name] for name in sorted(found, key=lambda name: int(name.split(".")[0])) if found[name].ndim == 4
    ]
    # A stage has four convolutions, two in the encoder and two in the decoder; one lies between these.
    net = Generator(convolutions[-1].shape[0], convolutions[0].shape[0], (len(convolutions) - 1) // 4)
    net.load_state_dict(found)
    return moved(net, torch.device("cpu")).eval().requires_grad_(False)


def write(images: Tensor, partners: Tensor, pattern: nn.Module, mask: nn.Module, rounded: bool) -> Tensor:
    """Write into each image the trigger generated for its partner.

    If the partner is the image itself, the result is the attack's poison, otherwise a cross sample.

    Args:
        images: uint8 (N, 3, H, W).
        partners: uint8 (N, 3, H, W).
        pattern: pattern network, on the CPU, in eval mode.
        mask: mask network, on the CPU, in eval mode.
        rounded: round to the nearest pixel value, instead of dropping the fraction.

    Returns:
        uint8 (N, 3, H, W); an image's result does not depend on the other images in the call.
    """
    out = torch.empty_like(images)
    with torch.inference_mode():
        for start in range(0, len(images), BATCH):
            stop = min(start + BATCH, len(images))
            two = torch.zeros(2, BATCH, *images.shape[1:], dtype=torch.uint8)
            two[0, : stop - start], two[1, : stop - start] = images[start:stop], partners[start:stop]
            x01, y01 = (part.to(torch.float32, memory_format=torch.channels_last) / 255 for part in two)
            made = put(x01, pattern_of(pattern, y01), mask_of(mask, y01)) * 255
            # The added 1e-3 keeps an unchanged pixel from falling to the next lower value.
            made = made.round() if rounded else made + 1e-3
            out[start:stop] = made.clamp(0, 255).to(torch.uint8)[: stop - start]
    return out
