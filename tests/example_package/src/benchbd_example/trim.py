"""Leaving the easiest samples out, as a defense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchbd import Attack, Defense, Lab, Training, UsageError, defense
from benchbd_example._easiest import easiest

if TYPE_CHECKING:
    from benchbd import TrainedModel


@defense("example-trim", version=1)
class Trim(Defense):
    """Drop the samples that a short training finds easiest, train on the rest."""

    fraction: float = 0.15
    """Share of the training set to drop, in (0, 1)."""

    def __post_init__(self) -> None:
        if not 0.0 < self.fraction < 1.0:
            raise UsageError(f"example-trim: fraction is a share in (0, 1), not {self.fraction:g}")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """A short training and a full one."""
        return (Training("fine-tune", ("example-trim",)), Training("full", ("example-trim", self.fraction)))

    def train(self, lab: Lab) -> TrainedModel:
        """Probe, drop, train."""
        probe = lab.train(lab.poisoned, kind="fine-tune", name="probe", epochs=2, augment=())
        losses = lab.losses(probe, lab.poisoned)
        dropped = easiest(losses, self.fraction)
        lab.suspect(-losses, dropped)
        return lab.train(lab.poisoned.subset(np.setdiff1d(np.arange(len(losses)), dropped)))
