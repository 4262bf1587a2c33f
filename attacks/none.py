"""The row without an attack: clean training data, no trigger, ASR not defined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd import Attack, StampContext, attack

if TYPE_CHECKING:
    import torch


@attack("none", version=1)
class NoAttack(Attack):
    """No attack: the training set stays as it is (LfD section 5, row "None")."""

    poisons = False

    def stamp(self, images: torch.Tensor, context: StampContext) -> torch.Tensor:
        """Return an unchanged copy of the images."""
        return images.clone()
