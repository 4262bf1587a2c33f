"""BadNets: a small patch in the bottom-right corner, as a grid (bn-g) or a white square (bn-w)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd import Attack, DatasetInfo, Impossible, StampContext, UsageError, attack
from benchbd.attacks._grid import cell_for, grid

if TYPE_CHECKING:
    import torch


@attack("bn-g", version=1)
class BadNetsGrid(Attack):
    """A 3x3 black-and-white grid, flush with the bottom-right corner; stamped images are relabelled to the target.

    Sources: Gu et al. (2017); LfD Table 1; geometry as in ABL's code, 24x24 pixels at 224 as its maintainer states.
    """

    cell: int | None = None
    """Side of one of the nine cells in pixels; by default 1 at image size 32, 4 at 128, 8 at 224."""

    def check(self, info: DatasetInfo) -> None:
        """Check that the grid fits and that the budget can be met."""
        cell = cell_for(info.size) if self.cell is None else self.cell
        if cell < 1 or 3 * cell > info.size:
            raise Impossible(f"a grid of 3x3 cells of {cell} pixels does not fit into {info.size}x{info.size} images")
        self.budget(info)

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write the grid over the corner."""
        from benchbd.attacks._pixels import overwrite

        size = images.shape[-1]
        patch = grid(cell_for(size) if self.cell is None else self.cell)
        corner = size - patch.shape[0]
        return overwrite(images, patch, corner, corner)


@attack("bn-w", version=1)
class BadNetsWhite(Attack):
    """A white square near the bottom-right corner: rows and columns 28..30 at image size 32.

    Sources: Gu et al. (2017); LfD Table 1; ABL's square trigger. Variants: size=4 (Neural Cleanse, I-BAU),
    margin=0 (BackdoorBench).
    """

    size: int | None = None
    """Side of the square in pixels; by default 3 at image size 32, 12 at 128, 24 at 224."""
    margin: int | None = None
    """Pixels between the square and the image border; by default 1 at image size 32, 4 at 128, 7 at 224."""

    def __post_init__(self) -> None:
        if self.margin is not None and self.margin < 0:
            raise UsageError(f"attack 'bn-w': margin cannot be negative, not {self.margin}")

    def _box(self, pixels: int) -> tuple[int, int]:
        """First row (equal to the first column) and side of the square."""
        side = 3 * cell_for(pixels) if self.size is None else self.size
        margin = pixels // 32 if self.margin is None else self.margin
        return pixels - margin - side, side

    def check(self, info: DatasetInfo) -> None:
        """Check that the square fits and that the budget can be met."""
        first, side = self._box(info.size)
        if side < 1 or first < 0 or first + side > info.size:
            raise Impossible(
                f"a square of {side} pixels at row {first} does not fit into {info.size}x{info.size} images"
            )
        self.budget(info)

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write the square over the pixels."""
        first, side = self._box(images.shape[-1])
        out = images.clone()
        out[:, :, first : first + side, first : first + side] = 255
        return out
