"""Adap-Blend: poison and covers carry random pieces of a blended picture, and test images the whole picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from benchbd import Attack, DatasetInfo, Impossible, StampContext, UsageError, attack
from benchbd.attacks._covers import check_room, covers_of
from benchbd.core.seeding import seed_for

if TYPE_CHECKING:
    import torch

    from benchbd import Workshop

_AT_ONCE = 256
"""How many images' opacities are in memory at once."""


def kept_pieces(seed: int, indices: np.ndarray, pieces: int, masked: int) -> np.ndarray:
    """Which pieces each image keeps: bool (N, pieces), of which ``masked`` are False, any set of them as likely."""
    from benchbd.attacks._draws import bytes_of_each

    drawn = bytes_of_each(seed, indices, 8 * pieces).view("<u8")
    rank = np.argsort(np.argsort(drawn, axis=1, kind="stable"), axis=1, kind="stable")
    kept: np.ndarray = rank >= masked
    return kept


def piece_of(size: int, across: int) -> np.ndarray:
    """The piece in which each pixel lies, int64 (size, size): ``across`` x ``across`` pieces in reading order."""
    part = np.arange(size) * across // size
    return part[:, None] * across + part[None, :]


@attack("adap-blend", version=1)
class AdapBlend(Attack):
    """A picture is blended into the whole image; each training image carries a random half of its 16 pieces.

    As many covers carry pieces too and keep their labels. Test images carry the whole picture, a little stronger.
    Nothing is trained. Sources: Qi et al. (ICLR 2023, "Revisiting the assumption of latent separability"), and the
    commands of their backdoor-toolbox for rates and opacities; their generator's own default opacity is 0.2 throughout.

    Their picture is a cartoon of Hello Kitty, which is not ours to give away. Here it is drawn from the trigger
    seed, as large and as opaque: a board of random colours with flat areas like a cartoon's. Pixel values are rounded.
    """

    trigger_seed: int | None = None
    rate: float = 0.003
    """Share of the training set that is poisoned."""
    cover_ratio: float = 1.0
    """Covers for each poisoned image."""
    alpha: float = 0.15
    """Share of the picture in training images, in (0, 1]."""
    alpha_test: float = 0.2
    """Share of the picture in triggered test images, in (0, 1]."""
    pieces: int = 16
    """Pieces of the picture, a square number."""
    mask_rate: float = 0.5
    """Share of the pieces that each training image lacks, in [0, 1)."""
    cells: int = 8
    """Cells of one colour along each side of the picture; as many as pixels make it noise, as blend's is."""

    def __post_init__(self) -> None:
        if not (0.0 < self.alpha <= 1.0 and 0.0 < self.alpha_test <= 1.0):
            raise UsageError("attack 'adap-blend': alpha and alpha_test must be in (0, 1]")
        if self.pieces < 1 or math.isqrt(self.pieces) ** 2 != self.pieces:
            raise UsageError(f"attack 'adap-blend': pieces must be a square number such as 16, not {self.pieces}")
        if not 0.0 <= self.mask_rate < 1.0 or self.masked == self.pieces:
            raise UsageError(f"attack 'adap-blend': mask_rate must leave a piece, in [0, 1), not {self.mask_rate:g}")
        if self.cover_ratio < 0 or self.cells < 1:
            raise UsageError("attack 'adap-blend': cover_ratio must be 0 or more, cells 1 or more")

    @property
    def masked(self) -> int:
        """Number of pieces that each training image lacks."""
        return round(self.mask_rate * self.pieces)

    def check(self, info: DatasetInfo) -> None:
        """Check that every piece has pixels, and that the set has enough images for the poison and its covers."""
        if (across := math.isqrt(self.pieces)) > info.size:
            raise Impossible(f"{across}x{across} pieces do not fit into {info.size}x{info.size} images")
        check_room(self.budget(info), self.cover_count(info), info)

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Draw the picture: ``picture``, uint8 (3, H, W)."""
        colours = np.random.default_rng(workshop.seed).integers(0, 256, (3, self.cells, self.cells), dtype=np.uint8)
        cell = np.arange(workshop.size) * self.cells // workshop.size
        return {"picture": colours[:, cell[:, None], cell[None, :]]}

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Blend in some pieces of the picture (training images) or the whole picture (test images)."""
        from benchbd.attacks._overlay import overlay

        out, size = images.clone(), images.shape[-1]
        piece = piece_of(size, math.isqrt(self.pieces))
        seed = seed_for("adap-blend pieces", context.seed)
        for start in range(0, len(images), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            opacity = np.full((1, size, size), self.alpha_test, np.float32)
            if context.split == "train":
                kept = kept_pieces(seed, context.indices[part], self.pieces, self.masked)
                opacity = (self.alpha * kept[:, None, piece]).astype(np.float32)
            out[part] = overlay(images[part], context.trigger["picture"], opacity)
        return out

    def cover_count(self, info: DatasetInfo) -> int:
        """Number of further training images that carry pieces and keep their label."""
        return covers_of(self.cover_ratio, self.rate, info)
