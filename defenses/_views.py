"""SimCLR's random views of images (Chen et al., ICML 2020), whole batches on the device.

Cropping, resizing, mirroring and blurring act on rows and columns apart, so each is a product with two small matrices
for every image. Nothing is rounded to whole pixel values in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

TRIES = 10
"""Boxes drawn for a crop; the first that fits is taken, the whole image where none does."""
RATIOS = (3 / 4, 4 / 3)
"""Least and greatest ratio of a crop's width to its height."""
JITTERED, GREYED = 0.8, 0.2
"""Shares of views whose colours are jittered, and which are turned grey."""
SIGMAS = (0.1, 2.0)
"""Least and greatest standard deviation of a blur, in pixels."""


class ViewSettings(NamedTuple):
    """What of the views is a parameter; the defaults are those of DBD's code on CIFAR-10."""

    crop_min: float = 0.2
    """Least share of an image's area that a crop keeps."""
    jitter: float = 0.4
    """Strength of the jitter of brightness, contrast and saturation; hue gets a quarter of it."""
    blur: float = 0.5
    """Share of views that are blurred."""


def random_views(x01: Tensor, how: ViewSettings, seed: int) -> Tensor:
    """A random view of every image; what becomes of an image depends on its place in the batch and the seed alone.

    Brightness, contrast, saturation and hue come in an order drawn once for the batch (SimCLR: for each image).

    Args:
        x01: float32 (B, 3, S, S) in [0, 1].
        how: settings.
        seed: of all draws, which are made on the CPU.

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
    """Crops: area and ratio of width to height drawn until the box fits, then its place.

    Args:
        u: float32 (B, 2 TRIES + 2), uniform in [0, 1).
        size: of the images.
        crop_min: least share of the area.

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
    """Weights (B, size, size) that stretch ``length`` pixels from ``start`` on to ``size``, bicubic as PIL's.

    Args:
        start: int64 (B,).
        length: int64 (B,), at most ``size``.
        size: of the images.
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
    """Weights (B, size, size) of a Gaussian blur of deviation ``sigma`` (B,); at the edges, of the pixels there are."""
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
    """Images moved away from their mean luma."""
    mean = grey(x).mean((1, 2, 3), keepdim=True)
    return (x * (1 + by) - mean * by).clamp(0, 1)


def saturated(x: Tensor, by: Tensor) -> Tensor:
    """Images moved away from their grey selves."""
    return (x * (1 + by) - grey(x) * by).clamp(0, 1)


def hue_shifted(x: Tensor, by: Tensor) -> Tensor:
    """Images whose hue is turned by ``by`` (B, 1, 1, 1) of a whole turn, value and saturation kept."""
    import torch

    red, green, blue = x.unbind(1)
    value, which = x.max(1)
    span = value - x.min(1).values
    safe = span.where(span > 0, torch.ones_like(span))
    hue = torch.where(which == 0, (green - blue) / safe, 2 + (blue - red) / safe)
    hue = torch.where(which == 2, 4 + (red - green) / safe, hue)[:, None] + 6 * by
    k = (hue + torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1)) % 6
    return value[:, None] - span[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)
