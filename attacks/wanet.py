"""WaNet: one smooth warp of the whole image is the trigger; images with a noisy warp keep their labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchbd import Attack, DatasetInfo, StampContext, UsageError, attack
from benchbd.attacks._covers import check_room, covers_of
from benchbd.core.seeding import seed_for

if TYPE_CHECKING:
    import torch

    from benchbd import Workshop

_AT_ONCE = 256
"""How many images' own noise is in memory at once."""


def identity(size: int) -> np.ndarray:
    """The grid that does not change an image: float64 (size, size, 2), x before y, from -1 to 1."""
    side = np.linspace(-1.0, 1.0, size)
    return np.stack(np.meshgrid(side, side), axis=-1)


def smooth_field(rng: np.random.Generator, k: int, size: int) -> np.ndarray:
    """Random shifts of k x k control points with mean absolute value 1, interpolated to float64 (size, size, 2)."""
    import torch

    control = rng.uniform(-1.0, 1.0, (1, 2, k, k))
    control /= np.abs(control).mean()
    fine = torch.nn.functional.interpolate(torch.from_numpy(control), size=size, mode="bicubic", align_corners=True)
    return fine[0].permute(1, 2, 0).numpy()


def warp(images: torch.Tensor, grids: np.ndarray) -> torch.Tensor:
    """Sample each pixel bilinearly at the position that a grid gives, and round it.

    Args:
        images: uint8 (N, 3, H, W).
        grids: float32 (1 or N, H, W, 2) in [-1, 1], x before y; -1 and 1 are the centres of the outermost pixels.

    Returns:
        uint8 (N, 3, H, W).
    """
    import torch

    where = torch.from_numpy(grids).expand(len(images), -1, -1, -1)
    moved = torch.nn.functional.grid_sample(images.float(), where, mode="bilinear", align_corners=True)
    return moved.round_().clamp_(0, 255).to(torch.uint8)


@attack("wanet", version=2)
class WaNet(Attack):
    """One elastic warp is the trigger; in noise mode, twice as many images get a noisy warp and keep their labels.

    Sources: Nguyen and Tran (ICLR 2021), section 3, and their code's options (rho_a = 0.1, rho_n = 0.2). Their training
    loop poisons every batch with new noise. Here the training set is poisoned once: every epoch has the same poisoned
    images, each cover has one noisy warp, and pixel values are whole. Test images carry the warp without noise.
    """

    trigger_seed: int | None = None
    k: int = 4
    """Control points along each side of the random field."""
    s: float = 0.5
    """Strength: the mean shift of a control point is s / height in [-1, 1] units, about s / 2 pixels at every size."""
    grid_rescale: float = 1.0
    """Factor of the warped grid; 0.98, for example, keeps it inside the image instead of clipping it at the border."""
    cross_ratio: float = 2.0
    """Noise mode: covers (images with a noisy warp and their true label) for each poisoned image; 0 turns it off."""

    def __post_init__(self) -> None:
        if self.k < 2 or not self.s > 0 or not self.grid_rescale > 0 or self.cross_ratio < 0:
            raise UsageError("attack 'wanet': k must be 2 or more, s and grid_rescale above 0, cross_ratio 0 or more")

    def check(self, info: DatasetInfo) -> None:
        """Check that the set has enough images for the poison and its covers."""
        check_room(self.budget(info), self.cover_count(info), info)

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Draw the warp.

        Returns:
            ``grid`` float32 (H, W, 2), each pixel's source position, not yet clipped to [-1, 1]; ``shift`` float32
            (2,), the mean and the largest absolute shift along an axis in pixels.
        """
        before = identity(workshop.size)
        field = smooth_field(np.random.default_rng(workshop.seed), self.k, workshop.size)
        grid = (before + self.s * field / workshop.size) * self.grid_rescale
        pixels = np.abs(np.clip(grid, -1, 1) - before) * (workshop.size - 1) / 2
        return {"grid": grid.astype(np.float32), "shift": np.array([pixels.mean(), pixels.max()], np.float32)}

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Warp the images."""
        out, grid = images.clone(), np.clip(context.trigger["grid"], -1, 1)[None]
        for start in range(0, len(images), _AT_ONCE):
            out[start : start + _AT_ONCE] = warp(images[start : start + _AT_ONCE], grid)
        return out

    def cover_count(self, info: DatasetInfo) -> int:
        """Number of further training images that get a noisy warp and keep their label."""
        return covers_of(self.cross_ratio, self.rate, info)

    def cover(self, images: torch.Tensor, partners: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Warp with noise, which differs between images and moves each pixel by up to 1 / height in [-1, 1] units.

        The warp is clipped to the image before noise is added, and again afterwards, as in the authors' code.

        Args:
            images: uint8 (N, 3, H, W).
            partners: other images, not used here.
            context: as for :meth:`stamp`.

        Returns:
            uint8 (N, 3, H, W).
        """
        from benchbd.attacks._draws import bytes_of_each

        out, size = images.clone(), images.shape[-1]
        warped = np.clip(context.trigger["grid"], -1, 1)
        seed = seed_for("wanet noise", context.seed, context.split)
        for start in range(0, len(images), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            drawn = bytes_of_each(seed, context.indices[part], 2 * 2 * size * size).view("<u2").astype(np.float32)
            noise = (drawn / 32767.5 - 1).reshape(-1, size, size, 2)
            out[part] = warp(images[part], np.clip(warped + noise / size, -1, 1))
        return out
