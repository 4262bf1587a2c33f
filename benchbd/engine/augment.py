"""Random order, crops and flips: drawn once an epoch from a seed, applied to whole batches on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from benchbd.core.seeding import seed_for

PAD = 4
"""Zero pixels around an image before a crop of the original size (``crop4``)."""


def draw_epoch(seed: int, epoch: int, count: int) -> Tensor:
    """Draw everything random about one epoch.

    It depends on (seed, epoch) alone, so that neither a resume nor the device, nor what else runs, can change it; and
    the order does not depend on which augmentations are used.

    Returns:
        int64 (count, 4) on the CPU, one row per image in training order: position in the set, row and column of the
        crop in 0..8, flipped or not (0/1).
    """
    generator = torch.Generator().manual_seed(seed_for(seed, "epoch", epoch))
    return _rows(torch.randperm(count, generator=generator), generator)


def draw_views(seed: int, picks: Tensor) -> Tensor:
    """Crop and flip for the images at ``picks`` int64 (M,) on the CPU; rows int64 (M, 4) as of :func:`draw_epoch`."""
    return _rows(picks, torch.Generator().manual_seed(seed))


def _rows(picks: Tensor, generator: torch.Generator) -> Tensor:
    rows = torch.empty(len(picks), 4, dtype=torch.int64)
    rows[:, 0] = picks
    rows[:, 1:3] = torch.randint(0, 2 * PAD + 1, (len(picks), 2), generator=generator)
    rows[:, 3] = torch.randint(0, 2, (len(picks),), generator=generator)
    return rows


def resident(images: Tensor, device: torch.device) -> Tensor:
    """A whole set uint8 (N, 3, H, W) on the device, laid out as :func:`batch_of` reads it fastest; no copy on a CPU."""
    images = images.to(device)
    return images.contiguous(memory_format=torch.channels_last) if device.type == "cuda" else images


def _gather(images: Tensor, picks: Tensor) -> Tensor:
    """The picked images as (B, H, W, 3), colours side by side: a row of a crop is then one run of memory."""
    pixels = images.permute(0, 2, 3, 1)
    if pixels.is_contiguous():
        return pixels.index_select(0, picks)
    # The batch is turned around, not the set: a second copy of CIFAR-10 is a tenth of what a CPU worker may use.
    return images.index_select(0, picks).permute(0, 2, 3, 1).contiguous()


def batch_of(images: Tensor, rows: Tensor, augment: tuple[str, ...]) -> Tensor:
    """Pick, crop and flip one batch.

    Args:
        images: uint8 (N, 3, H, W), the whole set; a little faster in channels_last layout.
        rows: int64 (B, 4) of :func:`draw_epoch`, on the same device.
        augment: names from a recipe; ``crop4`` and ``hflip`` are applied in this order.

    Returns:
        uint8 (B, 3, H, W) in channels_last layout.
    """
    picks, top, left, flip = rows.unbind(1)
    batch = _gather(images, picks)
    count, height, width, _ = batch.shape
    if "crop4" not in augment:
        if "hflip" in augment:
            batch = torch.where(flip.bool().view(-1, 1, 1, 1), batch.flip(2), batch)
        return batch.permute(0, 3, 1, 2)
    # Every possible crop is a view of the padded batch, every flipped one a view of its mirror image; one indexing
    # operation copies the chosen ones. A crop that begins ``left`` ends at ``2 * PAD - left`` in the mirror.
    batch = F.pad(batch, (0, 0, PAD, PAD, PAD, PAD))
    chosen: tuple[Tensor, ...] = (torch.arange(count, device=rows.device), top, left)
    if "hflip" in augment:
        batch = torch.stack([batch, batch.flip(2)])
        chosen = (flip, chosen[0], top, torch.where(flip.bool(), 2 * PAD - left, left))
    crops = batch.flatten(-2).unfold(-2, height, 1).unfold(-2, 3 * width, 3)
    return crops[chosen].view(count, height, width, 3).permute(0, 3, 1, 2)


def unit_range(batch: Tensor, channels_last: bool) -> Tensor:
    """uint8 (B, 3, H, W) to float32 in [0, 1], exactly as ``ToTensor`` divides."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # One after the other: both in one copy takes a CPU 3 times as long.
    return batch.contiguous(memory_format=layout).to(torch.float32).div_(255)
