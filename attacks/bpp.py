"""BppAttack: images are squeezed to a few levels of each colour; covers carry another image's change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchbd import Attack, DatasetInfo, StampContext, UsageError, attack
from benchbd.attacks._covers import check_room, covers_of

if TYPE_CHECKING:
    import torch

_AT_ONCE = 256
"""How many images are dithered at once."""
_SPREAD = ((0, 1, 7 / 16), (1, 1, 1 / 16), (1, 0, 5 / 16), (1, -1, 3 / 16))
"""Rows down, columns to the right, and share of a pixel's error (Floyd and Steinberg 1976)."""


def squeezed(values: np.ndarray, levels: int) -> np.ndarray:
    """The nearest of ``levels`` evenly spaced values from 0 to 255, float64 of the same shape."""
    steps = levels - 1
    nearest: np.ndarray = np.rint(np.clip(values, 0, 255) / 255 * steps) / steps * 255
    return nearest


def dithered(images: np.ndarray, levels: int) -> np.ndarray:
    """Squeeze pixel after pixel and pass each one's error on to its neighbours, for all images at once.

    Args:
        images: uint8 (N, 3, H, W).
        levels: values of each channel.

    Returns:
        uint8 (N, 3, H, W).
    """
    work = np.ascontiguousarray(np.moveaxis(images.astype(np.float64), (2, 3), (0, 1)))
    height, width = work.shape[:2]
    for row in range(height):
        for column in range(width):
            old = work[row, column].copy()
            work[row, column] = squeezed(old, levels)
            error = old - work[row, column]
            for down, right, share in _SPREAD:
                if row + down < height and 0 <= column + right < width:
                    work[row + down, column + right] += share * error
    return np.moveaxis(np.rint(work), (0, 1), (2, 3)).astype(np.uint8)


@attack("bpp", version=1)
class Bpp(Attack):
    """Each channel is rounded to one of 8 levels; as many covers get another image's rounding error, as negatives.

    A negative keeps its label, so that the levels are the trigger and not the change's size. Nothing is trained.
    Sources: Wang et al. (CVPR 2022, "BppAttack"); the authors' code for arithmetic, levels and dithering; BackdoorBench
    for the rate (the authors poison a fifth of each batch and make a fifth negatives).

    The authors control the training: each batch has other poisoned images, and other errors for its negatives. This is
    the poison-only version: as with every attack here, the set is poisoned once, each negative has one error, which
    comes from another image, and pixel values are whole numbers.
    """

    levels: int = 8
    """Values of each channel (256 in a photograph), from 2 to 255; the authors also run 32."""
    dithering: bool = False
    """Pass rounding errors on to neighbouring pixels (Floyd and Steinberg), as in the paper; off in the code."""
    negative_ratio: float = 1.0
    """Negatives (covers with another image's error) for each poisoned image; 0 leaves them out."""

    def __post_init__(self) -> None:
        if not 2 <= self.levels <= 255:
            raise UsageError(f"attack 'bpp': levels must be from 2 to 255, not {self.levels}")
        if self.negative_ratio < 0:
            raise UsageError(f"attack 'bpp': negative_ratio must be 0 or more, not {self.negative_ratio:g}")

    def check(self, info: DatasetInfo) -> None:
        """Check that the set has enough images for the poison and its negatives."""
        check_room(self.budget(info), self.cover_count(info), info)

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Squeeze the images."""
        import torch

        if not self.dithering:
            table = torch.from_numpy(np.rint(squeezed(np.arange(256), self.levels)).astype(np.uint8))
            return table[images.to(torch.int64)]
        out = images.clone()
        for start in range(0, len(images), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            out[part] = torch.from_numpy(dithered(images[part].numpy(), self.levels))
        return out

    def cover_count(self, info: DatasetInfo) -> int:
        """Number of negatives."""
        return covers_of(self.negative_ratio, self.rate, info)

    def cover(self, images: torch.Tensor, partners: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Add to each image what squeezing changes in its partner, and clip.

        Args:
            images: uint8 (N, 3, H, W).
            partners: uint8 (N, 3, H, W), other images of the training set.
            context: as for :meth:`stamp`.

        Returns:
            uint8 (N, 3, H, W).
        """
        import torch

        change = self.stamp(partners, context).to(torch.int16) - partners.to(torch.int16)
        return (images.to(torch.int16) + change).clamp_(0, 255).to(torch.uint8)
