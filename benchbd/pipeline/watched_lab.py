"""A lab whose trainings hand the weights of their epochs to the evaluator, for CA and ASR by epoch.

Which training makes the cell's model is known only once the defense has returned, so those that may make it are all
watched. One that was not, since the store had its model, runs once more after the defense has returned.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from benchbd.core.transform import TestTransform
from benchbd.lab.lab import Lab
from benchbd.lab.train_request import TrainRequest
from benchbd.pipeline.epoch_rates import watcher
from benchbd.pipeline.known_images import KnownImages
from benchbd.plan.probe import wanted_epochs
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import ModelSpec, TrainedModel

if TYPE_CHECKING:
    from benchbd.engine import Classifier
    from benchbd.lab.costs import Result
    from benchbd.storage.artifacts import Artifact
    from benchbd.storage.restricted import KeeperProxy

WATCHED = ("full", "fine-tune")
"""Kinds of trainings that may make the cell's model; others are watched only if they turn out to have made it."""


class Final(NamedTuple):
    """The training that made the cell's model.

    Attributes:
        training: its key.
        epochs: its number of epochs.
        plan: builds its network.
        pruned: whether channels were pruned after it.
        again: trains once more and keeps the weights of the epochs; None if all are kept already.
    """

    training: str
    epochs: int
    plan: ModelSpec
    pruned: bool = False
    again: Callable[[], Any] | None = None


class _Run(NamedTuple):
    """A training that the defense asked for; ``compute`` is None if all wanted epochs were kept while it ran."""

    epochs: int
    plan: ModelSpec
    compute: Callable[[], Result] | None


class WatchedLab(Lab):
    """A lab for a cell whose probe asks for rates by epoch.

    Args:
        poisoned: the training set.
        every: keep every so many epochs.
        keep: gets the weights; nothing can be read through it.
        **base: as for :class:`Lab`.
    """

    def __init__(self, poisoned: TrainSet, *, every: int, keep: KeeperProxy, **base: Any) -> None:
        super().__init__(poisoned, **base)
        self._every, self._keep = every, keep
        self._runs: dict[str, _Run] = {}
        self._kept: dict[str, set[int]] = {}
        self._epochs: dict[str, int] = {}
        self._made_from: dict[str, tuple[str, bool]] = {}
        self._packs: set[str] = set()
        self._images = KnownImages(poisoned)
        self._remembering = 0.0

    def _trained(
        self, name: str, key: str, kind: str, compute: Callable[[], Result], request: TrainRequest | None = None
    ) -> Artifact:
        if request is None:
            return super()._trained(name, key, kind, compute)
        self._epochs[key] = epochs = request.recipe.epochs
        if kind in WATCHED and request.model.spec() == self._network.spec():
            self._kept.setdefault(key, set())
        found = super()._trained(name, key, kind, compute, request)
        wanted = wanted_epochs(self._every, epochs)[:-1]
        complete = self._kept.get(key, set()).issuperset(wanted)
        self._runs[key] = _Run(epochs, request.model, None if complete else self._remembered(key, request))
        return found

    def _remembered(self, key: str, request: TrainRequest) -> Callable[[], Result]:
        """What does a training once more, without holding its images in memory until then."""
        began = time.perf_counter()
        data = self._images.remembered(request.data)
        rest = {f.name: getattr(request, f.name) for f in dataclasses.fields(request) if f.name != "data"}
        spent = time.perf_counter() - began
        self._remembering += spent
        self._costs.leave_out(spent)
        return lambda: self._fit(TrainRequest(data=data(), **rest), key)

    def _watcher(self, key: str, epochs: int = 0) -> Callable[[int, Classifier], None] | None:
        if key not in self._kept:
            return None
        keep, kept = self._keep, self._kept[key]

        def hand_over(epoch: int, state: Mapping[str, Any]) -> None:
            keep(key, epoch, state)
            kept.add(epoch)

        return watcher(self._every, epochs, hand_over)

    def train_packed(self, *args: Any, **given: Any) -> list[TrainedModel]:
        """As the lab's; a pack is not watched."""
        trained = super().train_packed(*args, **given)
        self._packs.update(model.key for model in trained)
        return trained

    def prune(self, trained: TrainedModel, channels: Any, at: Literal["output", "filters"] = "output") -> TrainedModel:
        """As the lab's; remembers what was pruned."""
        pruned = super().prune(trained, channels, at)
        if pruned is not trained:
            self._made_from[pruned.key] = (trained.key, True)
        return pruned

    def with_test_transform(self, trained: TrainedModel, transform: TestTransform) -> TrainedModel:
        """As the lab's; remembers the model without the transform."""
        transformed = super().with_test_transform(trained, transform)
        self._made_from[transformed.key] = (trained.key, False)
        return transformed

    def _watched(self) -> dict[str, int]:
        """Number of epochs of each training whose weights are kept, here or in a run that was killed, by key."""
        return {key: self._epochs[key] for key in self._kept}

    def _final(self, trained: TrainedModel) -> Final | str:
        """The training that made a model of this lab; why none can be watched by epoch, if so."""
        key, pruned = trained.key, False
        while key in self._made_from:
            key, of_channels = self._made_from[key]
            pruned = pruned or of_channels
        if key in self._packs:
            return "the model was trained in a pack, which is not watched by epoch"
        if (run := self._runs.get(key)) is None:
            return "no training of the lab made the model's weights"
        compute = run.compute
        return Final(key, run.epochs, run.plan, pruned, None if compute is None else lambda: self._again(key, compute))

    def _again(self, key: str, compute: Callable[[], Result]) -> None:
        """Train once more, watched from the first epoch on. The model in the store does not change."""
        self._kept[key] = set()
        self._store.drop("checkpoint", key)  # of an unwatched run: the epochs before it would be missing
        self._unaffected(compute)()
        self._store.drop("checkpoint", key)
