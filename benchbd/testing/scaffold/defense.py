"""my-plugin: a defense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchbd import Attack, Defense, Lab, Training, UsageError, defense

if TYPE_CHECKING:
    from benchbd import TrainedModel


@defense("my-plugin", version=1)
class MyPlugin(Defense):
    """Drops the samples that a short training finds easiest, and trains on the rest."""

    # Every field is a parameter. The docstring below it is its help.
    fraction: float = 0.15
    """Share of the training set to drop, in [0, 1)."""
    probe_epochs: int = 2
    """Epochs of the short training."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction < 1.0:
            raise UsageError(f"my-plugin: fraction is a share in [0, 1), not {self.fraction:g}")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """Declare the trainings of a cell, so that plans can count them; cells share trainings with equal tuples."""
        probe = ("my-plugin", self.probe_epochs)
        return (Training("fine-tune", probe), Training("full", (*probe, self.fraction)))

    def train(self, lab: Lab) -> TrainedModel:
        """Probe, drop, train. The lab stores each training under its inputs, so nothing is trained twice."""
        probe = lab.train(lab.poisoned, kind="fine-tune", name="probe", epochs=self.probe_epochs, augment=())
        losses = lab.losses(probe, lab.poisoned)
        order = np.argsort(losses, kind="stable")
        dropped, kept = np.split(order, [int(self.fraction * len(order))])
        lab.suspect(-losses, dropped)
        return lab.train(lab.poisoned.subset(np.sort(kept)))
