"""Control: the result of a perfect filter, which drops every poisoned sample and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchbd import UNDEFENDED, Attack, Defense, Training, defense

if TYPE_CHECKING:
    from benchbd import Lab, TrainedModel


@defense("oracle", version=1)
class Oracle(Defense):
    """Control that knows which samples are poisoned and trains with the base recipe on exactly the clean ones."""

    needs: ClassVar[tuple[str, ...]] = ("truth",)
    control: ClassVar[bool] = True

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """One of its own; in the clean row it keeps every sample and shares the undefended model's training."""
        return super().trainings(attack) if attack.poisons else (UNDEFENDED,)

    def train(self, lab: Lab) -> TrainedModel:
        """Drop the poisoned samples and train.

        The truth also serves as suspicion scores and flags. The detection columns must therefore show 1.0; otherwise
        the evaluator assigns flags to the wrong samples.
        """
        lab.suspect(lab.truth.astype(np.float32), lab.truth)
        return lab.train(lab.poisoned.subset(np.flatnonzero(~lab.truth)))
