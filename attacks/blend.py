"""Blend: random pixel noise mixed into the whole image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import numpy as np

from benchbd import Attack, StampContext, UsageError, attack
from benchbd.core.seeding import seed_for

if TYPE_CHECKING:
    import torch

    from benchbd import Workshop

_AT_ONCE = 256
"""How many images' own noise is in memory at once."""


@attack("blend", version=2)
class Blend(Attack):
    """One image of uniform noise m, the same for all images x, mixed in with weight alpha: trunc((1-a) x + a m).

    Sources: Chen et al. (2017); LfD Table 1 ("Fixed, Random Pixel"); ABL's code for alpha and the truncation.
    ``mode=per_image`` does what ABL's and NAD's CIFAR-10 code really does: it draws new noise for every image.
    """

    trigger_seed: int | None = None
    alpha: float = 0.2
    """Share of the noise, in (0, 1]; the same in training and test."""
    mode: Literal["fixed", "per_image"] = "fixed"
    """One noise image for all images (fixed), or a different one for each image (per_image)."""
    channels: Literal[1, 3] = 1
    """Channels of the noise: one that red, green and blue share, or three independent ones."""

    def __post_init__(self) -> None:
        if not 0.0 < self.alpha <= 1.0:
            raise UsageError(f"attack 'blend': alpha must be in (0, 1], not {self.alpha}")

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Draw the noise: uint8 (channels, H, W), uniform on 0..255."""
        if self.mode == "per_image":
            return {}
        shape = (self.channels, workshop.size, workshop.size)
        return {"noise": np.random.default_rng(workshop.seed).integers(0, 256, shape, dtype=np.uint8)}

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Mix the noise in."""
        from benchbd.attacks._pixels import mix

        if self.mode == "fixed":
            return mix(images, context.trigger["noise"], self.alpha)
        from benchbd.attacks._draws import bytes_of_each

        shape = (self.channels, *images.shape[-2:])
        seed = seed_for("blend", context.seed, context.split)
        out = images.clone()
        for start in range(0, len(images), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            noise = bytes_of_each(seed, context.indices[part], math.prod(shape))
            out[part] = mix(images[part], noise.reshape(-1, *shape), self.alpha)
        return out
