"""Random order, crops and flips, drawn once per epoch from a seed and applied to whole batches on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from benchbd.core.seeding import seed_for

PAD = 4
"""Zero pixels added on each side of an image before ``crop4`` crops it to its original size."""


def draw_epoch(seed: int, epoch: int, count: int) -> Tensor:
    """Draw everything random about one epoch.

    The draw depends on (seed, epoch) alone: not on a resume, the device or other processes. Nor does the order depend
    on the augmentations in use.

    Returns:
        int64 (count, 4) on the CPU, one row per image in training order: position in the set, row and column of the
        crop in 0..8, whether it is flipped (0 or 1).
    """
    generator = torch.Generator().manual_seed(seed_for(seed, "epoch", epoch))
    return _rows(torch.randperm(count, generator=generator), generator)


def draw_views(seed: int, picks: Tensor) -> Tensor:
    """Draw crops and flips for the images at ``picks`` int64 (M,) on the CPU: rows int64 (M, 4) as in draw_epoch."""
    return _rows(picks, torch.Generator().manual_seed(seed))


def _rows(picks: Tensor, generator: torch.Generator) -> Tensor:
    rows = torch.empty(len(picks), 4, dtype=torch.int64)
    rows[:, 0] = picks
    rows[:, 1:3] = torch.randint(0, 2 * PAD + 1, (len(picks), 2), generator=generator)
    rows[:, 3] = torch.randint(0, 2, (len(picks),), generator=generator)
    return rows


def resident(images: Tensor, device: torch.device) -> Tensor:
    """Move a whole set uint8 (N, 3, H, W) to the device, laid out as batch_of reads it fastest; CPUs do not copy."""
    images = images.to(device)
    return images.contiguous(memory_format=torch.channels_last) if device.type == "cuda" else images


def _gather(images: Tensor, picks: Tensor) -> Tensor:
    """Return the picked images as (B, H, W, 3), colours side by side: a row of a crop is then contiguous in memory."""
    pixels = images.permute(0, 2, 3, 1)
    if pixels.is_contiguous():
        return pixels.index_select(0, picks)
    # Permute the batch, not the set: a second copy of CIFAR-10 is a tenth of the memory a CPU worker may use.
    return images.index_select(0, picks).permute(0, 2, 3, 1).contiguous()


def batch_of(images: Tensor, rows: Tensor, augment: tuple[str, ...]) -> Tensor:
    """Pick, crop and flip one batch.

    Args:
        images: uint8 (N, 3, H, W), the whole set; channels_last layout is a little faster.
        rows: int64 (B, 4) from :func:`draw_epoch`, on the same device.
        augment: names from a recipe; ``crop4`` is applied before ``hflip``.

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
    # Every possible crop is a view of the padded batch, and every flipped crop a view of its mirror image; one indexing
    # operation copies the chosen ones. A crop that begins at ``left`` begins at ``2 * PAD - left`` in the mirror image.
    batch = F.pad(batch, (0, 0, PAD, PAD, PAD, PAD))
    chosen: tuple[Tensor, ...] = (torch.arange(count, device=rows.device), top, left)
    if "hflip" in augment:
        batch = torch.stack([batch, batch.flip(2)])
        chosen = (flip, chosen[0], top, torch.where(flip.bool(), 2 * PAD - left, left))
    crops = batch.flatten(-2).unfold(-2, height, 1).unfold(-2, 3 * width, 3)
    return crops[chosen].view(count, height, width, 3).permute(0, 3, 1, 2)


def unit_range(batch: Tensor, channels_last: bool) -> Tensor:
    """Convert uint8 (B, 3, H, W) to float32 in [0, 1], dividing exactly as torchvision's ``ToTensor`` does."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # Layout first, then type: a CPU takes 3 times as long to change both in one copy.
    return batch.contiguous(memory_format=layout).to(torch.float32).div_(255)
