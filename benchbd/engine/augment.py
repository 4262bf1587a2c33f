"""Random order and views, drawn once per epoch from a seed and applied to whole batches on the device."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from benchbd.core.seeding import seed_for

PAD = 4
"""Zero pixels added on each side of an image before ``crop4`` crops it to its original size."""
PADS = {"crop4": PAD, "crop4_reflect": PAD, "translate2": 2}
"""Pixels added on each side of an image before a crop; all but ``crop4`` reflect the image there."""
EXTRA = {"resized_crop": 4, "rotate15": 1, "cutout": 2}
"""Columns, each uniform in 0..2^31 - 1, that these augmentations add to an epoch's rows, in this order."""
GREY = 127
"""Value of the pixels that ``cutout`` removes."""
DEGREES = 15
"""Largest angle of ``rotate15``."""
AREA = (0.08, 1.0)
"""Smallest and largest share of an image that ``resized_crop`` keeps, as torchvision's ``RandomResizedCrop``."""
ASPECT = (3 / 4, 4 / 3)
"""Smallest and largest ratio of width to height of ``resized_crop``, as torchvision's."""


def draw_epoch(seed: int, epoch: int, count: int, augment: tuple[str, ...] = (), flips: Tensor | None = None) -> Tensor:
    """Draw everything random about one epoch.

    The draw depends on its arguments alone: not on a resume, the device or other processes. Nor does the order depend
    on the augmentations in use.

    Args:
        seed: seed of the training.
        epoch: number of the epoch.
        count: images in the set.
        augment: names from the recipe.
        flips: int64 (count,), the images of the set that ``flip_alternate`` flips in this epoch; those of
            :func:`alternating` by default.

    Returns:
        int64 (count, 4) on the CPU, one row per image in training order: position in the set, row and column of the
        crop in 0..2 pad, whether it is flipped (0 or 1). More columns follow with the augmentations of :data:`EXTRA`.
    """
    generator = torch.Generator().manual_seed(seed_for(seed, "epoch", epoch))
    rows = _rows(torch.randperm(count, generator=generator), generator, augment)
    if "flip_alternate" in augment:
        flips = alternating(seed, epoch, count) if flips is None else flips
        rows[:, 3] = flips[rows[:, 0]]
    return rows


def alternating(seed: int, epoch: int, count: int) -> Tensor:
    """Return which images to flip, int64 (count,): half of them, by chance, in even epochs, the others in odd ones.

    An image is then seen both ways in any two epochs in a row (Jordan 2024, section 3.6).
    """
    generator = torch.Generator().manual_seed(seed_for(seed, "flips"))
    return (torch.randint(0, 2, (count,), generator=generator) + epoch) % 2


def draw_views(seed: int, picks: Tensor, augment: tuple[str, ...] = ()) -> Tensor:
    """Draw views of the images at ``picks`` int64 (M,) on the CPU: rows int64 (M, 4 or more) as in draw_epoch.

    An image may be drawn several times in an epoch, so ``flip_alternate`` flips by chance here, as ``hflip`` does.
    """
    return _rows(picks, torch.Generator().manual_seed(seed), augment)


def _rows(picks: Tensor, generator: torch.Generator, augment: tuple[str, ...]) -> Tensor:
    extra = sum(EXTRA.get(name, 0) for name in augment)
    rows = torch.empty(len(picks), 4 + extra, dtype=torch.int64)
    rows[:, 0] = picks
    rows[:, 1:3] = torch.randint(0, 2 * _pad(augment) + 1, (len(picks), 2), generator=generator)
    rows[:, 3] = torch.randint(0, 2, (len(picks),), generator=generator)
    if extra:
        rows[:, 4:] = torch.randint(0, 2**31, (len(picks), extra), generator=generator)
    return rows


def _pad(augment: tuple[str, ...]) -> int:
    """Pixels of padding of the recipe's crop; the rows of a recipe without one are drawn as for ``crop4``."""
    return next((PADS[name] for name in augment if name in PADS), PAD)


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
    """Pick and augment one batch.

    Args:
        images: uint8 (N, 3, H, W), the whole set; channels_last layout is a little faster.
        rows: int64 (B, 4 or more) from :func:`draw_epoch` with the same ``augment``, on the same device.
        augment: names from a recipe; crops are applied before flips, then rotation, then ``cutout``.

    Returns:
        uint8 (B, 3, H, W) in channels_last layout.
    """
    batch = _cropped(_gather(images, rows[:, 0]), rows, augment)
    if rows.shape[1] > 4:
        batch = _extras(batch, rows[:, 4:], augment)
    return batch.permute(0, 3, 1, 2)


def _cropped(batch: Tensor, rows: Tensor, augment: tuple[str, ...]) -> Tensor:
    """Crop and flip (B, H, W, 3)."""
    _, top, left, flip = rows[:, :4].unbind(1)
    count, height, width, _ = batch.shape
    flips = "hflip" in augment or "flip_alternate" in augment
    crop = next((name for name in augment if name in PADS), None)
    if crop is None:
        return torch.where(flip.bool().view(-1, 1, 1, 1), batch.flip(2), batch) if flips else batch
    # Every possible crop is a view of the padded batch, and every flipped crop a view of its mirror image; one indexing
    # operation copies the chosen ones. A crop that begins at ``left`` begins at ``2 * pad - left`` in the mirror image.
    pad = PADS[crop]
    batch = F.pad(batch, (0, 0, pad, pad, pad, pad)) if crop == "crop4" else _reflected(batch, pad)
    chosen: tuple[Tensor, ...] = (torch.arange(count, device=rows.device), top, left)
    if flips:
        batch = torch.stack([batch, batch.flip(2)])
        chosen = (flip, chosen[0], top, torch.where(flip.bool(), 2 * pad - left, left))
    crops = batch.flatten(-2).unfold(-2, height, 1).unfold(-2, 3 * width, 3)
    return crops[chosen].view(count, height, width, 3)


def _reflected(batch: Tensor, pad: int) -> Tensor:
    """Pad (B, H, W, 3) with ``pad`` reflected pixels on each side, by picking rows and columns."""
    for axis in (1, 2):
        places = torch.arange(-pad, batch.shape[axis] + pad, device=batch.device).abs()
        last = batch.shape[axis] - 1
        batch = batch.index_select(axis, (last - (last - places).abs()).clamp(min=0))  # of an image below the pad
    return batch


def _extras(batch: Tensor, columns: Tensor, augment: tuple[str, ...]) -> Tensor:
    """Apply the augmentations of :data:`EXTRA` to (B, H, W, 3)."""
    shares = columns.to(torch.float64).div(2**31).float()  # in [0, 1); exact in float64
    at = 0
    for name, width in EXTRA.items():
        if name in augment:
            chosen, at = shares[:, at : at + width].unbind(1), at + width
            if name == "cutout":
                batch = _cut_out(batch, *chosen)
            elif name == "rotate15":
                batch = _warped(batch, *_rotation(*chosen), "zeros")
            else:
                batch = _warped(batch, *_resized_crop(*chosen), "border")
    return batch


def _cut_out(batch: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Grey out a square of half the side around any pixel; it may stick out (DeVries and Taylor 2017)."""
    _, height, width, _ = batch.shape
    half = height // 4

    def inside(centre: Tensor, size: int) -> Tensor:
        first = (centre * size).floor().long().unsqueeze(1) - half
        places = torch.arange(size, device=batch.device) - first
        return (places >= 0) & (places < 2 * half)

    square = inside(down, height).unsqueeze(2) & inside(right, width).unsqueeze(1)
    return batch.masked_fill(square.unsqueeze(3), GREY)


def _rotation(turn: Tensor) -> tuple[Tensor, Tensor]:
    angle = (2 * turn - 1) * math.radians(DEGREES)
    cos, sin = angle.cos(), angle.sin()
    matrix = torch.stack([torch.stack([cos, -sin], 1), torch.stack([sin, cos], 1)], 1)
    return matrix, torch.zeros_like(matrix[:, 0])


def _resized_crop(area: Tensor, aspect: Tensor, down: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """A part of random area and aspect; one that would be wider or higher than the image is cut to its size."""
    share = AREA[0] + (AREA[1] - AREA[0]) * area
    ratio = ((1 - aspect) * math.log(ASPECT[0]) + aspect * math.log(ASPECT[1])).exp()
    width, height = (share * ratio).sqrt().clamp(max=1.0), (share / ratio).sqrt().clamp(max=1.0)
    matrix = torch.diag_embed(torch.stack([width, height], 1))
    return matrix, torch.stack([(2 * right - 1) * (1 - width), (2 * down - 1) * (1 - height)], 1)


def _warped(batch: Tensor, matrix: Tensor, shift: Tensor, around: str) -> Tensor:
    """Resample (B, H, W, 3) bilinearly at ``matrix`` (B, 2, 2) times a pixel's place plus ``shift`` (B, 2).

    Places are (column, row) in -1..1; ``around`` the image are zeros or the pixels of its border.
    """
    pixels = batch.permute(0, 3, 1, 2).float()
    grid = F.affine_grid(torch.cat([matrix, shift.unsqueeze(2)], 2), list(pixels.shape), align_corners=False)
    seen = F.grid_sample(pixels, grid, mode="bilinear", padding_mode=around, align_corners=False)
    return seen.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def unit_range(batch: Tensor, channels_last: bool) -> Tensor:
    """Convert uint8 (B, 3, H, W) to float32 in [0, 1], dividing exactly as torchvision's ``ToTensor`` does."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # Layout first, then type: a CPU takes 3 times as long to change both in one copy.
    return batch.contiguous(memory_format=layout).to(torch.float32).div_(255)
