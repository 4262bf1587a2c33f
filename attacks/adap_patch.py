"""Adap-Patch: four weak triggers share the poison and the covers, and test images carry others at full strength."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from benchbd import Attack, DatasetInfo, Impossible, StampContext, UsageError, attack
from benchbd.attacks._covers import check_room, covers_of
from benchbd.attacks._grid import grid_difference
from benchbd.attacks._patterns import CELLS, board, saturated_colours

if TYPE_CHECKING:
    import torch

    from benchbd import Workshop

TRIGGERS = ("corner", "disc", "grid", "square")
"""The training triggers in the order of ``alphas``."""
TESTED = {"corners+grid": ("corners", "grid"), "disc+square": ("disc", "square")}
"""The triggers of test images, in the order in which they are written."""


def shapes() -> dict[str, np.ndarray]:
    """Where each trigger lies in images of 32 pixels: bool (32, 32) by name."""
    row, column = np.mgrid[:CELLS, :CELLS]
    low, high = np.minimum(row, column), np.maximum(row, column)
    right = low >= CELLS - 5
    return {
        "corner": right,
        "corners": right | right[:, ::-1],
        "disc": (row - 7) ** 2 + (column - 24) ** 2 < 45,  # rows 1..13, columns 18..30
        "grid": grid_difference(CELLS, 1, "four-corners", 255) != 0,
        "square": (low >= 21) & (high <= 28),
    }


def quarters(rank: np.ndarray, count: int, parts: int) -> np.ndarray:
    """The quarter (of ``parts``) of a sorted list of ``count`` in which each rank lies, int64."""
    found: np.ndarray = np.minimum(rank, count - 1) * parts // count
    return found


@attack("adap-patch", version=1)
class AdapPatch(Attack):
    """Each quarter of the poison carries one of four weak triggers; test images carry two at full strength.

    The triggers are a 5x5 patch in the bottom-right corner, a disc of 137 pixels, the BadNets grid in all four corners,
    and an 8x8 square. Twice as many covers carry the triggers, a quarter each, and keep their labels. Test images carry
    patches in both lower corners and, on top, the grids. Nothing is trained. Sources: Qi et al. (ICLR 2023, "Revisiting
    the assumption of latent separability"); config and commands of their backdoor-toolbox.

    Their pictures (a phoenix, the Firefox logo of 140 pixels, a TrojanNN square) are not ours to give away. Here
    random colours, drawn from the trigger seed, fill the same places with the same opacities. Their triggers are made
    for 32-pixel images; here they grow with the image. Pixel values are rounded.
    """

    prepared_from_poison = True

    trigger_seed: int | None = None
    rate: float = 0.003
    """Share of the training set that is poisoned."""
    cover_ratio: float = 2.0
    """Covers for each poisoned image."""
    alphas: tuple[float, ...] = (0.5, 0.2, 0.5, 0.3)
    """Opacities of patch, disc, grids and square in training images, each in (0, 1]."""
    alpha_test: float = 1.0
    """Opacity of the triggers in test images, in (0, 1]."""
    tested: Literal["corners+grid", "disc+square"] = "corners+grid"
    """Triggers of test images: the authors' for CIFAR-10, or theirs for GTSRB."""

    def __post_init__(self) -> None:
        if len(self.alphas) != len(TRIGGERS) or not all(
            0.0 < share <= 1.0 for share in (*self.alphas, self.alpha_test)
        ):
            raise UsageError("attack 'adap-patch': alpha_test and the four alphas must be in (0, 1]")
        if self.cover_ratio < 0:
            raise UsageError(f"attack 'adap-patch': cover_ratio must be 0 or more, not {self.cover_ratio:g}")

    def check(self, info: DatasetInfo) -> None:
        """Check that no cell of the triggers gets lost, and that the set has enough images for poison and covers."""
        if info.size < CELLS:
            raise Impossible(
                f"adap-patch: its triggers need images of {CELLS}x{CELLS} pixels or more, not {info.size}x{info.size}"
            )
        check_room(self.budget(info), self.cover_count(info), info)

    def prepare(self, workshop: Workshop) -> dict[str, np.ndarray]:
        """Draw the pictures.

        Returns:
            ``NAME`` uint8 (3, H, W) and ``NAME-shape`` bool (H, W) for each trigger, and ``poison`` int64 (P,), the
            positions of the poisoned images, ascending.
        """
        rng, size = np.random.default_rng(workshop.seed), workshop.size
        found: dict[str, np.ndarray] = {"poison": np.sort(workshop.indices)}
        colours = {name: saturated_colours(rng, (128.0,) * 3, 90.0) for name in ("corner", "disc", "square")}
        colours["corners"] = np.where(shapes()["corner"], colours["corner"], colours["corner"][:, :, ::-1])
        colours["grid"] = np.repeat(grid_difference(CELLS, 1, "four-corners", 255)[None], 3, axis=0).clip(0)
        for name, shape in shapes().items():
            found[name] = board(np.rint(colours[name]).astype(np.uint8), size)
            found[f"{name}-shape"] = board(shape[None], size)[0]
        return found

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write each image's own trigger (training images), or the two of test images one after the other."""
        if context.split == "test":
            for name in TESTED[self.tested]:
                images = self._write(images, name, self.alpha_test, context)
            return images
        poison = context.trigger["poison"]
        rank = np.searchsorted(poison, context.indices)
        return self._by_quarter(images, quarters(rank, max(1, len(poison)), len(TRIGGERS)), context)

    def cover(self, images: torch.Tensor, partners: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write one trigger into each quarter of the covers, which all come in one call.

        Args:
            images: uint8 (N, 3, H, W).
            partners: other images, not used here.
            context: as for :meth:`stamp`.

        Returns:
            uint8 (N, 3, H, W).
        """
        rank = np.argsort(np.argsort(context.indices))
        return self._by_quarter(images, quarters(rank, max(1, len(rank)), len(TRIGGERS)), context)

    def cover_count(self, info: DatasetInfo) -> int:
        """Number of further training images that carry a trigger and keep their label."""
        return covers_of(self.cover_ratio, self.rate, info)

    def _by_quarter(self, images: torch.Tensor, quarter: np.ndarray, context: StampContext) -> torch.Tensor:
        out = images.clone()
        for number, (name, alpha) in enumerate(zip(TRIGGERS, self.alphas, strict=True)):
            where = np.flatnonzero(quarter == number)
            out[where] = self._write(images[where], name, alpha, context)
        return out

    def _write(self, images: torch.Tensor, name: str, alpha: float, context: StampContext) -> torch.Tensor:
        from benchbd.attacks._overlay import overlay

        return overlay(images, context.trigger[name], alpha * context.trigger[f"{name}-shape"])
