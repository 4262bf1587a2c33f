"""Control: what a defense's filter is worth beyond the mere number of samples it drops."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from benchbd import registry
from benchbd.components import Attack, DatasetInfo, Defense, Training, defense
from benchbd.errors import Impossible

if TYPE_CHECKING:
    from benchbd.lab import Lab, Trained


@defense("random-filter", version=1)
class RandomFilter(Defense):
    """Control that drops as many samples as another defense suspects in the same row and seed, but at random."""

    needs: ClassVar[tuple[str, ...]] = ("truth",)
    control: ClassVar[bool] = True

    of: str = "lfd"
    """The defense to imitate, with its parameters where they are not the defaults: ``lfd(alpha=0.2)``."""

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        """Refuse to imitate a control, and whatever the imitated defense itself refuses."""
        imitated: Defense = registry.make("defenses", self.of)
        if imitated.control:
            raise Impossible(f"random-filter imitates defenses; {self.of!r} is a control itself")
        imitated.check(info, attack)

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        """What the imitated defense trains before it names its suspects (all but its full training), and its own."""
        imitated: Defense = registry.make("defenses", self.of)
        before = itertools.takewhile(lambda training: training.what != "full", imitated.trainings(attack))
        return (*before, Training("full", ("random-filter", repr(imitated))))

    def train(self, lab: Lab) -> Trained:
        """Rank the samples at random, drop the first, train on the others with the base recipe."""
        n = len(lab.poisoned)
        rank = np.random.default_rng(lab.seed_for("random-filter")).permutation(n)
        dropped = rank < lab.flagged_by(self.of)
        lab.suspect(-rank.astype(np.float32), dropped)
        return lab.train(lab.poisoned.subset(np.flatnonzero(~dropped)))
