"""The evaluator watches a row's undefended training, before the defense begins and where the defense cannot look.

Losses and weights of each epoch are artifacts of a kind that no lab's view of the store contains. The training itself
is the one that a defense asks for: it has the same key and the same weights. The probe is compared with the truth only
once the defense has returned; :mod:`benchbd.pipeline.cell_rates` measures CA and ASR by epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from benchbd import engine
from benchbd.core.hashing import digest
from benchbd.core.seeding import seed_for
from benchbd.engine import passes
from benchbd.errors import BenchbdError
from benchbd.lab.costs import Result
from benchbd.lab.keys import CODE_VERSION
from benchbd.lab.stages import Stages
from benchbd.pipeline import evaluate
from benchbd.pipeline.epoch_rates import KIND, EpochRates, state_of
from benchbd.pipeline.poison_facts import clean_target
from benchbd.plan.probe import Probe
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import TrainedModel

if TYPE_CHECKING:
    from benchbd.engine import Classifier
    from benchbd.storage.artifacts import Artifact, Store


class Watched(Stages):
    """Stages whose trainings store the losses and weights of the epochs that a probe asks for.

    Args:
        probe: which epochs to keep.
        data: the poisoned set.
        store: the whole store; a lab's view of it is not enough.
        rates: keeps weights for rates by epoch; None if the probe asks for none.
        **base: as for :class:`Stages`.
    """

    def __init__(
        self, probe: Probe, data: TrainSet, *, store: Store, rates: EpochRates | None = None, **base: Any
    ) -> None:
        super().__init__(store=store, **base)
        self._probe, self._data, self._whole, self._rates = probe, data, store, rates
        self.training = ""

    @property
    def count(self) -> int:
        """Number of training samples."""
        return len(self._data)

    def undefended(self) -> None:
        """Train as the undefended cell does, and watch.

        If the model is in the store but was trained unwatched, it is trained once more: on a CPU the result has the
        same bits, on a GPU it is the same up to the order of sums.

        Raises:
            Diverged: the training stopped being finite.
        """
        self.train(self._data, name=KIND)

    def _memo(self, kind: str, name: str, key: str, counted_as: str, compute: Callable[[], Result]) -> Artifact:
        self.training = key
        with self._whole.lock(f"{KIND}-{key}"):
            found = super()._memo(kind, name, key, counted_as, compute)
            lacking = self._rates is not None and self._rates.lacks(key, self.recipe.epochs)
            if lacking or any(self._kept(place) is None for place in self._places()):
                self._whole.drop("checkpoint", key)  # of an unwatched run: the epochs before it would be missing
                compute()
        return found

    def _places(self) -> list[str]:
        last = self.recipe.epochs if self._probe.losses else 0
        wanted = [f"losses {epoch}" for epoch in range(1, last + 1)]
        return wanted if self._probe.features is None else [*wanted, f"weights {self._probe.features}"]

    def _key(self, place: str) -> str:
        return digest([KIND, CODE_VERSION, passes.VERSION, self.training, place])

    def _kept(self, place: str) -> Artifact | None:
        return self._whole.get(KIND, self._key(place))

    def _watcher(self, key: str, epochs: int = 0) -> Callable[[int, Classifier], None]:
        wanted = self._places()
        keep = None if self._rates is None else self._rates.watcher(key, epochs)

        def look(epoch: int, net: Classifier) -> None:
            place = f"losses {epoch + 1}"
            if place in wanted:
                losses = engine.losses_of(net, self._data.images, self._data.labels, device=self.device)
                self._whole.put(KIND, self._key(place), {"losses": losses}, {})
            place = f"weights {epoch + 1}"
            if place in wanted:
                self._whole.put(KIND, self._key(place), state_of(net), {})
            if keep is not None:
                keep(epoch, net)

        return look

    def _seen_at(self, place: str) -> dict[str, np.ndarray]:
        found = self._kept(place)
        if found is None:
            raise BenchbdError(f"the probe's artifact {place!r} is missing or damaged; run the cell again")
        return found.arrays

    def notes(self, truth: np.ndarray, facts: dict[str, Any]) -> dict[str, Any]:
        """The probe's part of the record: losses by epoch and t-SNE, clean and poisoned samples apart.

        Args:
            truth: bool (N,), poisoned.
            facts: of the poison; empty if the attack poisons nothing.
        """
        notes: dict[str, Any] = {}
        if self._probe.losses:
            losses = (self._seen_at(f"losses {epoch}")["losses"] for epoch in range(1, self.recipe.epochs + 1))
            of_target = clean_target(facts, truth, self._data.labels.numpy())
            notes["probe"] = evaluate.losses_by_epoch(losses, truth, of_target)
        epoch = self._probe.features
        if epoch is not None:
            rng = np.random.default_rng(seed_for("tsne", self._data.key, self._seed))
            chosen = np.sort(rng.permutation(len(truth))[: self._probe.samples])
            some = self._data.subset(chosen)
            net = TrainedModel(self.training, self._seen_at(f"weights {epoch}"), self._network, [], epoch).module()
            placed = evaluate.embedding(engine.features_of(net, some.images, device=self.device))
            if isinstance(placed, str):
                notes["tsne"] = {"epoch": epoch, "no_embedding": placed}
            else:
                poison, label = truth[chosen].tolist(), some.labels.tolist()
                notes["tsne"] = {"epoch": epoch, "xy": placed, "poison": poison, "label": label}
        return notes
