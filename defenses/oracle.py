"""Control: what a defense could reach that found every poisoned sample and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchbd import UNDEFENDED, Attack, Defense, Training, defense

if TYPE_CHECKING:
    from benchbd import Lab, TrainedModel


@defense("oracle", version=1)
class Oracle(Defense):
    """Control that is told the truth: train with the base recipe on exactly the clean samples."""

    needs: ClassVar[tuple[str, ...]] = ("truth",)
    control: ClassVar[bool] = True

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """One of its own, but where nothing is poisoned: there it keeps every sample and shares the undefended one."""
        return super().trainings(attack) if attack.poisons else (UNDEFENDED,)

    def train(self, lab: Lab) -> TrainedModel:
        """Drop the poisoned samples and train.

        The truth is reported as suspicion too: its detection columns must read 1.0, else the evaluator's alignment of
        samples and flags is broken.
        """
        lab.suspect(lab.truth.astype(np.float32), lab.truth)
        return lab.train(lab.poisoned.subset(np.flatnonzero(~lab.truth)))
