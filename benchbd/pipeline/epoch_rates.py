"""CA, ASR and RA by epoch: weights are kept while networks train, and measured once the defense has returned.

Kept weights and measured rates are artifacts of a kind that no lab's view of the store contains. The last epoch needs
no copy: its weights are the model. Once the rates of a training are measured, the weights of its epochs are removed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from benchbd.core.hashing import digest
from benchbd.errors import BenchbdError
from benchbd.plan.probe import wanted_epochs
from benchbd.plugins.trained import ModelSpec, TrainedModel
from benchbd.storage.record_schema import METRICS

if TYPE_CHECKING:
    from benchbd.core.transform import TestTransform
    from benchbd.engine import Classifier
    from benchbd.pipeline.evaluate import Accuracy
    from benchbd.storage.artifacts import Store

KIND = "probe"
"""Kind of the artifacts of probes; not one of ``STAGE_KINDS``."""
VERSION = 1
"""Part of every key here: raise it when other rates are measured, or the same in another way."""


def state_of(net: Classifier) -> dict[str, np.ndarray]:
    """A network's weights and buffers as arrays, which may share its memory."""
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in net.state_dict().items()}


class EpochRates:
    """Weights of the epochs of a row's trainings, and the rates measured of them.

    Args:
        store: the whole store.
        every: measure every so many epochs.
        owner: the cell that the weights are kept for; empty for weights that all cells of the row share. Rates are
            always shared.

    Attributes:
        row: a digest of all that the rates depend on besides weights: data, attack, device.
        seconds: wall-clock time spent on keeping weights.
    """

    def __init__(self, store: Store, every: int, owner: str = "") -> None:
        self._store, self.every, self.row, self.seconds = store, every, "", 0.0
        self._owner = [owner] if owner else []

    def _key(self, training: str, *what: Any) -> str:
        return digest([KIND, VERSION, self.row, training, *what])

    def _weights(self, training: str, epoch: int) -> str:
        return self._key(training, "weights", epoch, *self._owner)

    def keep(self, training: str, epoch: int, state: Mapping[str, Any]) -> None:
        """Keep the weights of an epoch, from 1, of the training with this key."""
        began = time.perf_counter()
        self._store.put(KIND, self._weights(training, epoch), state, {})
        self.seconds += time.perf_counter() - began

    def watcher(self, training: str, epochs: int) -> Callable[[int, Classifier], None]:
        """What keeps the weights of the wanted epochs, called after each epoch with its number from 0."""
        return watcher(self.every, epochs, lambda epoch, state: self.keep(training, epoch, state))

    def copy_from(self, other: EpochRates, training: str, epochs: int) -> None:
        """Keep the weights that another keeps of a training, too."""
        for epoch in wanted_epochs(self.every, epochs)[:-1]:
            if (found := self._store.get(KIND, other._weights(training, epoch))) is not None:
                self.keep(training, epoch, found.arrays)

    def lacks(self, training: str, epochs: int, transform: TestTransform | None = None) -> bool:
        """Whether an epoch before the last has neither weights nor rates, so that the training must run once more."""
        known = self._known(training, transform)
        places = (self._weights(training, e) for e in wanted_epochs(self.every, epochs)[:-1] if e not in known)
        return not all(self._store.has(KIND, place) for place in places)

    def forget(self, training: str, epochs: int) -> None:
        """Remove the weights of a training's epochs."""
        with self._store.lock(f"{KIND}-{training}"):
            self._remove(training, epochs)

    def _remove(self, training: str, epochs: int) -> None:
        for epoch in wanted_epochs(self.every, epochs)[:-1]:
            self._store.drop(KIND, self._weights(training, epoch))

    def _place(self, training: str, transform: TestTransform | None) -> str:
        return self._key(training, "rates", None if transform is None else transform.spec())

    def _known(self, training: str, transform: TestTransform | None) -> dict[int, list[float | None]]:
        found = self._store.get(KIND, self._place(training, transform))
        return {} if found is None else {int(epoch): rates for epoch, rates in found.meta["rates"].items()}

    def measured(
        self,
        training: str,
        epochs: int,
        plan: ModelSpec,
        accuracy: Callable[[TrainedModel], Accuracy],
        transform: TestTransform | None = None,
    ) -> dict[str, list[Any]]:
        """Measure what has not been measured before, keep the rates and remove the weights.

        Args:
            training: key of the training, which is the key of its model.
            epochs: its number of epochs.
            plan: builds its network.
            accuracy: measures a model.
            transform: what the cell's model does to test images.

        Returns:
            Lists of the same length: ``epochs`` (from 1, ascending), ``ca``, ``asr`` and ``ra``.

        Raises:
            BenchbdError: the weights of an epoch are gone.
        """
        with self._store.lock(f"{KIND}-{training}"):
            known = self._known(training, transform)
            wanted = wanted_epochs(self.every, epochs)
            for epoch in (epoch for epoch in wanted if epoch not in known):
                of_last = ("model", training)
                found = self._store.get(*(of_last if epoch == epochs else (KIND, self._weights(training, epoch))))
                if found is None:
                    raise BenchbdError(f"the weights of epoch {epoch} are gone; run the cell again")
                rates = accuracy(TrainedModel(training, found.arrays, plan, [], epoch, test_transform=transform))
                known[epoch] = [getattr(rates, name) for name in METRICS]
            place = self._place(training, transform)
            self._store.put(KIND, place, {"epochs": np.array(sorted(known))}, {"rates": known})
            self._remove(training, epochs)
        columns = {name: [known[epoch][place] for epoch in wanted] for place, name in enumerate(METRICS)}
        return {"epochs": wanted, **columns}


def watcher(
    every: int, epochs: int, keep: Callable[[int, Mapping[str, Any]], None]
) -> Callable[[int, Classifier], None]:
    """What hands the weights of the wanted epochs but the last to ``keep``, with the epoch from 1."""
    wanted = frozenset(wanted_epochs(every, epochs)[:-1])

    def look(epoch: int, net: Classifier) -> None:
        if epoch + 1 in wanted:
            keep(epoch + 1, state_of(net))

    return look
