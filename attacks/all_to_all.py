"""All-to-all BadNets: the grid turns every class into the next one, and the poison's labels may be smoothed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from benchbd import Attack, DatasetInfo, Impossible, StampContext, UsageError, attack
from benchbd.attacks._grid import cell_for, grid
from benchbd.core.seeding import seed_for

if TYPE_CHECKING:
    import torch


@attack("bn-a2a", version=1)
class BadNetsAllToAll(Attack):
    """The grid of bn-g turns class y into class (y + 1) mod K; attack success is measured on all test images.

    Sources: Gu et al. (2017) for the all-to-all attack; Peng et al. (2022), the label-smoothed backdoor attack, for
    random labels. An image has exactly one label here, so labels are drawn: a poisoned image gets its target with
    probability 1 - ``smoothing``, and otherwise a label according to ``spread``. Peng et al. set that probability for
    each image; here it is the same for all. A stamped image counts as poison whatever its label is.

    The grid is fixed. With smoothing, ``trigger_seed`` is the seed of the drawn labels: an image that several seeds of
    a matrix poison gets the same label in all of them, unless ``trigger_seed`` is null.
    """

    cell: int | None = None
    """Side of one of the grid's nine cells in pixels; by default 1 at image size 32, 4 at 128, 8 at 224."""
    smoothing: float = 0.0
    """Label smoothing of the poison, in [0, 1): the probability that is moved away from the target."""
    spread: Literal["uniform", "own"] = "uniform"
    """Where it moves: evenly to all classes including the target (Szegedy et al. 2016), or to the image's own class."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.smoothing < 1.0:
            raise UsageError(f"attack 'bn-a2a': smoothing is a probability in [0, 1), not {self.smoothing:g}")
        if self.target is not None:
            raise UsageError("attack 'bn-a2a': each class is taken for the next one; leave target out")

    def check(self, info: DatasetInfo) -> None:
        """Check that the grid fits and that the budget can be met."""
        side = 3 * (cell_for(info.size) if self.cell is None else self.cell)
        if not 0 < side <= info.size:
            raise Impossible(f"a grid of {side}x{side} pixels does not fit into {info.size}x{info.size} images")
        self.budget(info)

    def target_of(self, label: int, info: DatasetInfo) -> int:
        """The next class; the last class maps to the first."""
        return (label + 1) % info.classes

    def relabel(self, labels: np.ndarray, targets: np.ndarray, context: StampContext) -> np.ndarray:
        """Draw each image's label from the smoothed distribution."""
        from benchbd.attacks._draws import bytes_of_each

        drawn = (
            bytes_of_each(seed_for("smoothing", context.seed), context.indices, 8).view("<u4").astype(np.float64)
            / 2**32
        )
        other = labels if self.spread == "own" else (drawn[:, 1] * len(targets)).astype(np.int64)
        return np.where(drawn[:, 0] < self.smoothing, other, targets[labels])

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Write the grid over the corner."""
        from benchbd.attacks._pixels import overwrite

        patch = grid(cell_for(images.shape[-1]) if self.cell is None else self.cell)
        corner = images.shape[-1] - len(patch)
        return overwrite(images, patch, corner, corner)
