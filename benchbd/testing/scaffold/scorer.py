"""my-plugin: a defense that scores samples."""

from __future__ import annotations

from typing import Any

from benchbd import Attack, Lab, Scorer, Training, defense


@defense("my-plugin", version=1)
class MyPlugin(Scorer):
    """Drops the samples that a short training finds easiest, and trains on the rest."""

    # Every field is a parameter. The docstring below it is its help. drop and drop_of come with the base class.
    probe_epochs: int = 2
    """Epochs of the short training."""

    def scoring(self, attack: Attack) -> tuple[Training, ...]:
        """Declare the trainings of scores, so that plans can count them; cells share trainings with equal tuples."""
        return (Training("fine-tune", ("my-plugin", self.probe_epochs)),)

    def scores(self, lab: Lab) -> Any:
        """One number for each sample, in the order of lab.poisoned; the harness drops the highest."""
        probe = lab.train(lab.poisoned, kind="fine-tune", name="probe", epochs=self.probe_epochs, augment=())
        return -lab.losses(probe, lab.poisoned)
