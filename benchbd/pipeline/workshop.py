"""The workshop of an attack: clean images, a target, and the same memoised training as in a defense's lab."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchbd.core.events import progress as progress_event
from benchbd.core.hashing import digest, sha_of
from benchbd.core.images import DatasetInfo
from benchbd.core.seeding import seed_for, surrogate_seed
from benchbd.errors import UsageError
from benchbd.lab.stages import Stages
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import TrainedModel

if TYPE_CHECKING:
    from benchbd.engine import Classifier


class Workshop(Stages):
    """Draws and trains triggers before any defense sees the data (:class:`benchbd.plugins.handles.Workshop`).

    Attributes:
        clean: the clean training set.
        info: sizes and classes of the data set.
        target: the attack's target class.
        seed: seed of everything drawn or trained for the trigger (made from the attack's ``trigger_seed``).
    """

    def __init__(
        self,
        clean: TrainSet,
        info: DatasetInfo,
        target: int,
        trigger_seed: int,
        indices: np.ndarray | None,
        purpose: Any,
        **base: Any,
    ) -> None:
        # An attacker does not know the victim's initial weights and batch order, so trainings have a seed of their own.
        super().__init__(seed=surrogate_seed(trigger_seed), **base)
        self.clean, self.info, self.target = clean, info, target
        self.seed = seed_for("trigger", purpose, trigger_seed)
        self._indices = indices

    def check_handed_out(self) -> None:
        """Raise Misused if the clean set was changed in place."""
        self._intact(self.clean)

    def _around(self) -> str:
        self.check_handed_out()
        return digest([self.clean.key, self.target, None if self._indices is None else sha_of(self._indices)])

    @property
    def indices(self) -> np.ndarray:
        """int64 (P,), a copy: positions of the images to poison; only for attacks with ``prepared_from_poison``."""
        if self._indices is None:
            raise UsageError("only attacks with prepared_from_poison = True can ask which images are poisoned")
        return np.array(self._indices)

    def surrogate(self) -> TrainedModel:
        """A clean undefended model: the row's network and recipe, trained on the clean set with a seed of its own."""
        return self.train(self.clean, name="surrogate")

    def network(self, seed: int) -> Classifier:
        """A fresh network of the row's kind, for an attack's own training loop on the clean images."""
        net = self._network.fresh(seed)
        net.initialise_from(self.clean.images)
        return net

    def progress(self, stage: str, done: int, total: int, **facts: Any) -> None:
        """Report how far an attack's own loop has got."""
        self._on_event(progress_event(stage, {"epoch": done, "epochs": total, **facts}))
