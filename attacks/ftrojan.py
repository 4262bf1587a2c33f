"""FTrojan: two fixed frequencies are added to the colour channels of the image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from benchbd import Attack, DatasetInfo, Impossible, StampContext, UsageError, attack

if TYPE_CHECKING:
    import torch

_AT_ONCE = 256
"""How many images are converted at once."""
_BITS = 14
"""Fractional bits of the colour conversions' whole-number arithmetic, as in OpenCV."""


def wave(window: int, positions: tuple[int, ...], magnitude: float) -> np.ndarray:
    """The inverse orthonormal two-dimensional DCT of coefficients that are ``magnitude`` at some positions.

    The transform is linear, so adding this pattern to a window equals adding to these coefficients of its transform.

    Args:
        window: side of the window in pixels.
        positions: row and column of the first coefficient, then of the next.
        magnitude: value of each of them.

    Returns:
        float64 (window, window), in pixel values.
    """
    place, out = np.arange(window), np.zeros((window, window))
    for row, column in zip(positions[::2], positions[1::2], strict=True):
        down, right = (
            np.sqrt((2 if k else 1) / window) * np.cos(np.pi * (2 * place + 1) * k / (2 * window))
            for k in (row, column)
        )
        out += magnitude * np.outer(down, right)
    return out


def _descale(scaled: torch.Tensor) -> torch.Tensor:
    """Divide by 2**14 and round, halves up."""
    return (scaled + (1 << (_BITS - 1))) >> _BITS


def to_ycrcb(rgb: torch.Tensor) -> torch.Tensor:
    """RGB to Y, Cr and Cb, equal to OpenCV's 8-bit conversion: int32 (N, 3, H, W) in 0..255."""
    import torch

    red, green, blue = rgb.to(torch.int32).unbind(1)
    light = _descale(4899 * red + 9617 * green + 1868 * blue)
    middle = 128 << _BITS
    parts = (light, _descale(11682 * (red - light) + middle), _descale(9241 * (blue - light) + middle))
    return torch.stack(parts, 1).clamp_(0, 255)


def to_rgb(ycrcb: torch.Tensor) -> torch.Tensor:
    """Y, Cr and Cb to RGB, equal to OpenCV's 8-bit conversion: int32 (N, 3, H, W) in 0..255."""
    import torch

    light, red, blue = ycrcb[:, 0], ycrcb[:, 1] - 128, ycrcb[:, 2] - 128
    shifts = (_descale(22987 * red), _descale(-11698 * red - 5636 * blue), _descale(29049 * blue))
    return torch.stack([light + shift for shift in shifts], 1).clamp_(0, 255)


@attack("ftrojan", version=1)
class FTrojan(Attack):
    """In YCrCb, 30 is added to the DCT coefficients (15, 15) and (31, 31) of Cr and Cb in each 32x32 window.

    The transform is linear, so that is a fixed pattern of at most 4 in Cr and Cb, which moves red, green and blue by at
    most 8; the way to YCrCb bytes and back moves them by up to 2 more. Nothing is trained. Sources: Wang et al. (ECCV
    2022, "An invisible black-box backdoor attack through frequency domain"); BackdoorBench's settings. Images are
    poisoned once, before any training.

    Their code casts channels to uint8 by dropping fractions and wrapping around, so -1 becomes 255. Here the channels
    are rounded and clipped; ``cast=wrap`` drops and wraps as the code does. One difference is left: their code
    transforms all three channels, there and back, and then a whole number whose rounding error is negative falls by
    one, in Y too. Here, channels without a pattern keep their values.
    """

    magnitude: float = 30.0
    """What is added to each coefficient (orthonormal DCT of pixel values)."""
    positions: tuple[int, ...] = (15, 15, 31, 31)
    """Row and column of each coefficient, one after the other."""
    window: int = 32
    """Side of a window in pixels; the image's side must be a multiple of it."""
    channels: tuple[int, ...] = (1, 2)
    """Channels that carry the pattern: 0 to 2 for Y, Cr, Cb (or red, green, blue)."""
    space: Literal["ycrcb", "rgb"] = "ycrcb"
    """Colour space of the channels."""
    cast: Literal["round", "wrap"] = "round"
    """How channels become bytes again: rounded and clipped, or with the fraction dropped and wrapped around."""

    def __post_init__(self) -> None:
        if not self.positions or len(self.positions) % 2 or not set(self.positions) <= set(range(self.window)):
            raise UsageError(
                f"attack 'ftrojan': positions must be pairs of row and column below the window ({self.window})"
            )
        if not self.channels or not set(self.channels) <= {0, 1, 2} or len(set(self.channels)) < len(self.channels):
            raise UsageError("attack 'ftrojan': channels must be some of 0, 1 and 2, no two alike")
        if not 0.0 < self.magnitude <= 255.0 * self.window:
            raise UsageError(
                f"attack 'ftrojan': magnitude must be in (0, 255 times the window], not {self.magnitude:g}"
            )

    def check(self, info: DatasetInfo) -> None:
        """Check that windows tile the image, rounding leaves a pattern, and the budget can be met."""
        if info.size % self.window:
            raise Impossible(f"windows of {self.window} pixels do not tile {info.size}x{info.size} images; set window")
        if not np.rint(wave(self.window, self.positions, self.magnitude)).any():
            raise Impossible(f"magnitude {self.magnitude:g} rounds to no change in windows of {self.window} pixels")
        self.budget(info)

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Add the pattern to the channels."""
        import torch

        out, across = images.clone(), images.shape[-1] // self.window
        pattern = torch.from_numpy(np.tile(wave(self.window, self.positions, self.magnitude), (across, across)))
        for start in range(0, len(images), _AT_ONCE):
            part = images[start : start + _AT_ONCE]
            planes = to_ycrcb(part) if self.space == "ycrcb" else part.to(torch.int32)
            for channel in self.channels:
                raised = planes[:, channel] + pattern
                whole = raised.round().clamp(0, 255) if self.cast == "round" else raised.trunc() % 256
                planes[:, channel] = whole.to(torch.int32)
            out[start : start + _AT_ONCE] = (to_rgb(planes) if self.space == "ycrcb" else planes).to(torch.uint8)
        return out
