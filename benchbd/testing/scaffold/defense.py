"""my-plugin: a defense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchbd import Attack, Defense, Lab, Training, UsageError, defense

if TYPE_CHECKING:
    from benchbd import TrainedModel


@defense("my-plugin", version=1)
class MyPlugin(Defense):
    """Drop the samples that a short training finds easiest, train on the rest."""

    # Fields are parameters, each with a line of help below it.
    fraction: float = 0.15
    """Share of the training set to drop, in [0, 1)."""
    probe_epochs: int = 2
    """Epochs of the short training."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.fraction < 1.0:
            raise UsageError(f"my-plugin: fraction is a share in [0, 1), not {self.fraction:g}")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """What a cell trains, so that plans can count it; equal tuples are trained once and shared."""
        probe = ("my-plugin", self.probe_epochs)
        return (Training("fine-tune", probe), Training("full", (*probe, self.fraction)))

    def train(self, lab: Lab) -> TrainedModel:
        """Probe, drop, train. Results are stored by what determines them: nothing is trained twice."""
        probe = lab.train(lab.poisoned, kind="fine-tune", name="probe", epochs=self.probe_epochs, augment=())
        losses = lab.losses(probe, lab.poisoned)
        order = np.argsort(losses, kind="stable")
        dropped, kept = np.split(order, [int(self.fraction * len(order))])
        lab.suspect(-losses, dropped)
        return lab.train(lab.poisoned.subset(np.sort(kept)))
