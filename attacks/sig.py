"""SIG: a horizontal sine wave is added to images of the target class; labels do not change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from benchbd import Attack, DatasetInfo, Impossible, StampContext, UsageError, attack

if TYPE_CHECKING:
    import torch


def wave(width: int, delta: float, cycles: float) -> np.ndarray:
    """delta sin(2 pi j f / W) for every column j, rounded: int16 (1, W)."""
    columns = np.arange(width, dtype=np.float64)
    return np.rint(delta * np.sin(2 * np.pi * columns * cycles / width)).astype(np.int16)[None]


def wrapped_wave(width: int) -> np.ndarray:
    """ABL's and NAD's CIFAR-10 mask, uint8 (1, W): trunc(20 sin(0.8 j)) cast to uint8, which turns -1 into 255."""
    columns = np.arange(width, dtype=np.float64)
    return np.trunc(20.0 * np.sin(0.8 * columns)).astype(np.int16).astype(np.uint8)[None]


@attack("sig", version=1)
class Sinusoid(Attack):
    """Adds delta sin(2 pi j f / W) to every row and channel of images of the target class; labels do not change.

    Sources: Barni et al. (2019), equation 1; LfD Table 1. LfD poisons 8 % (GTSRB: 9.5 %) "of the data". This is
    impossible on GTSRB and therefore taken as 80 % (95 %) of the target class. ``variant=abl_uint8`` uses ABL's
    CIFAR-10 mask bit for bit.
    """

    clean_label = True

    rate: float = 0.8
    """Share of the target class (or, with rate_of=set, of the whole set) that is poisoned."""
    rate_of: Literal["set", "class"] = "class"
    """What rate is a share of: the whole set or the target class."""
    variant: Literal["additive", "abl_uint8"] = "additive"
    """Add the wave, or blend ABL's uint8-wrapped mask in at 0.2 (32-pixel images only)."""
    delta: float = 40.0
    """Amplitude of the wave in pixel values (0..255 scale)."""
    f: float = 6.0
    """Full waves across the image."""
    delta_test: float | None = None
    """Amplitude in triggered test images; by default delta (Barni et al. allow a larger one)."""

    def __post_init__(self) -> None:
        for name, value in (("delta", self.delta), ("delta_test", self.delta_test)):
            if value is not None and not 0.0 < value <= 255.0:
                raise UsageError(f"attack 'sig': {name} must be in (0, 255], not {value}")
        if not 0.0 < self.f <= 1000.0:
            raise UsageError(f"attack 'sig': f must be in (0, 1000], not {self.f}")

    def check(self, info: DatasetInfo) -> None:
        """Check that the wrapped variant gets 32-pixel images, rounding leaves a wave, and the budget can be met."""
        if self.variant == "abl_uint8" and info.size != 32:
            raise Impossible(f"variant abl_uint8 is a 32-pixel mask; these images have {info.size} pixels")
        for name, delta in (("delta", self.delta), ("delta_test", self.delta_test)):
            # With half a wave per pixel, every column is at a zero; an amplitude below 0.5 rounds to zero everywhere.
            if self.variant == "additive" and delta is not None and not wave(info.size, delta, self.f).any():
                raise Impossible(
                    f"{name}={delta:g} with f={self.f:g} rounds to no wave at all in images of {info.size} pixels"
                )
        self.budget(info)

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Add the wave (or blend the wrapped mask in)."""
        from benchbd.attacks._pixels import add, mix

        width = images.shape[-1]
        if self.variant == "abl_uint8":
            return mix(images, wrapped_wave(width), 0.2)
        delta = self.delta_test if context.split == "test" and self.delta_test is not None else self.delta
        return add(images, wave(width, delta, self.f))
