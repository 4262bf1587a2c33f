"""SimCLR's random views of images (Chen et al., ICML 2020), computed for whole batches on the device.

Cropping, resizing, mirroring and blurring act on rows and columns separately, so each multiplies an image by two small
matrices. Pixel values are not rounded in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

TRIES = 10
"""Number of random boxes for a crop: the first that fits is used, or the whole image if none fits."""
RATIOS = (3 / 4, 4 / 3)
"""Smallest and largest ratio of a crop's width to its height."""
JITTERED, GREYED = 0.8, 0.2
"""Share of views whose colours are jittered, and share of views that become grey."""
SIGMAS = (0.1, 2.0)
"""Smallest and largest standard deviation of a blur, in pixels."""


class ViewSettings(NamedTuple):
    """Adjustable settings of the views; the defaults are those of DBD's code on CIFAR-10."""

    crop_min: float = 0.2
    """Smallest share of an image's area that a crop keeps."""
    jitter: float = 0.4
    """Jitter strength for brightness, contrast and saturation; hue gets a quarter of it."""
    blur: float = 0.5
    """Share of views that are blurred."""


def random_views(x01: Tensor, how: ViewSettings, seed: int) -> Tensor:
    """A random view of every image; the random numbers depend only on the image's place in the batch and the seed.

    Brightness, contrast, saturation and hue change in a random order, drawn once per batch (SimCLR: for each image).

    Args:
        x01: float32 (B, 3, S, S) in [0, 1].
        how: settings.
        seed: seed of all random numbers, which are drawn on the CPU.

    Returns:
        float32 (B, 3, S, S) in [0, 1].
    """
    import torch

    count, size = len(x01), x01.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(4, generator=generator).tolist()
    u = torch.rand(count, 2 * TRIES + 11, generator=generator)
    top, left, height, width = (edge.to(x01.device) for edge in boxes(u[:, : 2 * TRIES + 2], size, how.crop_min))
    u = u[:, 2 * TRIES + 2 :].to(x01.device)
    rows, columns = resizing(top, height, size), resizing(left, width, size)
    columns = torch.where(u[:, 0, None, None] < 0.5, columns.flip(1), columns)
    x = both_ways(x01, rows, columns).clamp(0, 1)

    strength = how.jitter * torch.tensor([1, 1, 1, 0.25], device=x.device)
    by = (2 * u[:, 1:5] - 1) * strength * (u[:, 5, None] < JITTERED)
    steps = (brightened, contrasted, saturated, hue_shifted)
    for number in order:
        x = steps[number](x, by[:, number].view(-1, 1, 1, 1))
    x = torch.where(u[:, 6].view(-1, 1, 1, 1) < GREYED, grey(x).expand_as(x), x)
    if how.blur:
        sigma = SIGMAS[0] + (SIGMAS[1] - SIGMAS[0]) * u[:, 7]
        blurred = blurring(sigma, size)
        x = torch.where(u[:, 8].view(-1, 1, 1, 1) < how.blur, both_ways(x, blurred, blurred), x)
    return x


def boxes(u: Tensor, size: int, crop_min: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random crop boxes: the first pair of area and aspect ratio whose box fits, at a random place.

    Args:
        u: float32 (B, 2 TRIES + 2), uniform in [0, 1).
        size: side of the images in pixels.
        crop_min: smallest share of the image's area.

    Returns:
        Top, left, height and width, int64 (B,) each.
    """
    import torch

    area = (crop_min + (1 - crop_min) * u[:, :TRIES]) * size * size
    low, high = torch.tensor(RATIOS).log().tolist()
    ratio = (low + (high - low) * u[:, TRIES : 2 * TRIES]).exp()
    width, height = (area * ratio).sqrt().round().long(), (area / ratio).sqrt().round().long()
    fits = (width >= 1) & (height >= 1) & (width <= size) & (height <= size)
    first = fits.int().argmax(1, keepdim=True)
    whole = ~fits.any(1)
    height = height.gather(1, first).squeeze(1).masked_fill(whole, size)
    width = width.gather(1, first).squeeze(1).masked_fill(whole, size)
    top = (u[:, -2] * (size - height + 1)).long()
    left = (u[:, -1] * (size - width + 1)).long()
    return top, left, height, width


def resizing(start: Tensor, length: Tensor, size: int) -> Tensor:
    """Weights (B, size, size) that resize the ``length`` pixels from ``start`` on to ``size`` pixels, bicubic like PIL.

    Args:
        start: int64 (B,).
        length: int64 (B,), at most ``size``.
        size: side of the images in pixels.
    """
    import torch

    pixels = torch.arange(size, device=start.device)
    at = start[:, None] + (pixels + 0.5) * length[:, None] / size - 0.5
    d = (at[:, :, None] - pixels).abs()
    weights = torch.where(d < 1, (1.5 * d - 2.5) * d * d + 1, (((-0.5 * d + 2.5) * d) - 4) * d + 2)
    inside = (pixels >= start[:, None]) & (pixels < (start + length)[:, None])
    weights = weights * (d < 2) * inside[:, None]
    return weights / weights.sum(2, keepdim=True)


def blurring(sigma: Tensor, size: int) -> Tensor:
    """Weights (B, size, size) of a Gaussian blur of deviation ``sigma`` (B,); each row sums to 1, at the edges too."""
    import torch

    pixels = torch.arange(size, device=sigma.device)
    weights = (-0.5 * ((pixels[:, None] - pixels) / sigma.view(-1, 1, 1)) ** 2).exp()
    return weights / weights.sum(2, keepdim=True)


def both_ways(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Images (B, 3, S, S) with their rows and columns combined by weights (B, S, S)."""
    return rows[:, None] @ x @ columns[:, None].transpose(2, 3)


def grey(x: Tensor) -> Tensor:
    """Luma (B, 1, H, W) of images (B, 3, H, W), ITU-R 601."""
    return (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])[:, None]


def brightened(x: Tensor, by: Tensor) -> Tensor:
    """Images in [0, 1] times 1 + ``by`` (B, 1, 1, 1)."""
    return (x * (1 + by)).clamp(0, 1)


def contrasted(x: Tensor, by: Tensor) -> Tensor:
    """Images (B, 3, H, W) whose distance from their mean luma is multiplied by 1 + ``by`` (B, 1, 1, 1)."""
    mean = grey(x).mean((1, 2, 3), keepdim=True)
    return (x * (1 + by) - mean * by).clamp(0, 1)


def saturated(x: Tensor, by: Tensor) -> Tensor:
    """Images (B, 3, H, W) whose distance from their grey version is multiplied by 1 + ``by`` (B, 1, 1, 1)."""
    return (x * (1 + by) - grey(x) * by).clamp(0, 1)


def hue_shifted(x: Tensor, by: Tensor) -> Tensor:
    """Images whose hue is rotated by ``by`` (B, 1, 1, 1) turns, with the same value and saturation."""
    import torch

    red, green, blue = x.unbind(1)
    value, which = x.max(1)
    span = value - x.min(1).values
    safe = span.where(span > 0, torch.ones_like(span))
    hue = torch.where(which == 0, (green - blue) / safe, 2 + (blue - red) / safe)
    hue = torch.where(which == 2, 4 + (red - green) / safe, hue)[:, None] + 6 * by
    k = (hue + torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)) % 6
    return value[:, None] - span[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)
