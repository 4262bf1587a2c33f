"""No defense: the effect of an attack on plain training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchbd import UNDEFENDED, Attack, Defense, Training, defense

if TYPE_CHECKING:
    from benchbd import Lab, TrainedModel


@defense("none", version=1)
class Undefended(Defense):
    """Train on the whole poisoned set with the base recipe."""

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """The undefended model, which fine-pruning in the same row also starts from."""
        return (UNDEFENDED,)

    def train(self, lab: Lab) -> TrainedModel:
        """Train on the whole poisoned set."""
        return lab.train(lab.poisoned)
