"""No defense: what an attack does to plain training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd import UNDEFENDED, Attack, Defense, Training, defense

if TYPE_CHECKING:
    from benchbd import Lab, TrainedModel


@defense("none", version=1)
class Undefended(Defense):
    """Train on the whole poisoned set with the base recipe."""

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The undefended model, which fine-pruning of the same row starts from too."""
        return (UNDEFENDED,)

    def train(self, lab: Lab) -> TrainedModel:
        """Train as if nothing were amiss."""
        return lab.train(lab.poisoned)
