"""The rates by epoch of one cell: of the row's undefended training, and of the training that makes the cell's model.

``notes.rates_by_epoch`` holds ``undefended`` and ``model``, each with lists of the same length: ``epochs`` (from 1),
``ca``, ``asr`` and ``ra`` (fractions; null without an attack), or with ``no_rates``, the reason. ``pruned: true`` says
that channels were pruned after the training; otherwise the last rates of ``model`` are those of the record.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.core.hashing import digest
from benchbd.engine import global_state, passes
from benchbd.errors import BenchbdError, one_line
from benchbd.lab import keys
from benchbd.lab.lab import Lab
from benchbd.pipeline.epoch_rates import EpochRates
from benchbd.pipeline.failure import status_and_line
from benchbd.pipeline.watched_lab import Final, WatchedLab
from benchbd.storage.record_schema import METRICS, RATES_BY_EPOCH
from benchbd.storage.restricted import KeeperProxy, keeper_proxy

if TYPE_CHECKING:
    import torch

    from benchbd.core.transform import TestTransform
    from benchbd.pipeline.cell_results import CellResults
    from benchbd.pipeline.evaluate import Accuracy
    from benchbd.plan.cell import Cell
    from benchbd.plugins.train_set import TrainSet
    from benchbd.plugins.trained import TrainedModel
    from benchbd.storage.artifacts import Store

DIVERGED = "the undefended training diverged"


class NoRates:
    """A cell without rates by epoch: it has the usual lab, and nothing is kept or measured.

    A cell calls the methods in this order; of ``diverged`` and ``watched``, and of ``notes`` and ``failed``, only one.

    Attributes:
        kept: keeps the weights of the undefended training, for all cells of the row, and measures them; None here.
        seconds: wall-clock time since the defense began that is not charged to it: keeping, repeating and measuring.
        measuring: the part of it spent on measuring.
    """

    kept: EpochRates | None = None
    seconds = measuring = 0.0

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        """Weights are kept inside the context."""
        yield

    def open_lab(self, poisoned: TrainSet, **base: Any) -> Lab:
        """The lab of the cell's defense; the arguments are those of :class:`Lab`."""
        return Lab(poisoned, **base)

    def opened(self, cell: Cell, results: CellResults, device: torch.device) -> None:
        """The lab is open, so the results name the poisoned set; ``device`` computes the passes."""

    def diverged(self, training: str) -> None:
        """The undefended training, which has this key, stopped being finite."""

    def watched(self, training: str) -> None:
        """The undefended training, which has this key, is over."""

    def defended(self, trained: TrainedModel) -> None:
        """The defense has returned: find the training that made its model, and repeat it if it was not watched.

        Call it before truth or test data are in memory, since a training runs code of the defense.
        """

    def notes(
        self, accuracy: Callable[[TrainedModel], Accuracy], trained: TrainedModel, own: Accuracy
    ) -> dict[str, Any]:
        """Measure both trainings, and remove all weights that were kept for this cell.

        Args:
            accuracy: measures a model.
            trained: the cell's model.
            own: its rates.
        """
        return {}

    def failed(self, accuracy: Callable[[], Callable[[TrainedModel], Accuracy]]) -> None:
        """The defense has failed: remove its weights, and measure the undefended training for the row's other cells.

        Args:
            accuracy: loads the test images and gives what measures a model.
        """


class CellRates(NoRates):
    """A cell with rates by epoch.

    Args:
        cell: the cell.
        store: the whole store.
        every: keep and measure every so many epochs.
    """

    kept: EpochRates
    _lab: WatchedLab
    _keep: KeeperProxy

    def __init__(self, cell: Cell, store: Store, every: int) -> None:
        self.kept, self._own = EpochRates(store, every), EpochRates(store, every, cell.id)
        self._epochs = cell.components().recipe.epochs
        self._undefended: str | None = None
        self._final: Final | str = ""

    @contextlib.contextmanager
    def keeping(self) -> Iterator[None]:
        with keeper_proxy(self._own.keep) as self._keep:
            yield

    def open_lab(self, poisoned: TrainSet, **base: Any) -> Lab:
        self._lab = WatchedLab(poisoned, every=self.kept.every, keep=self._keep, **base)
        return self._lab

    def opened(self, cell: Cell, results: CellResults, device: torch.device) -> None:
        self.kept.row = self._own.row = row_digest(cell, results, device)
        self._threads = cell.threads if device.type == "cpu" else None

    def diverged(self, training: str) -> None:
        self.kept.forget(training, self._epochs)

    def watched(self, training: str) -> None:
        self._undefended = training

    def defended(self, trained: TrainedModel) -> None:
        self.seconds = self._own.seconds + self._lab._remembering
        began = time.perf_counter()
        self._final = final = self._lab._final(trained)
        if not isinstance(final, str) and final.again:
            self._complete(final, final.again, trained.test_transform)
        self.seconds += time.perf_counter() - began

    def _complete(self, final: Final, again: Callable[[], Any], transform: TestTransform | None) -> None:
        """See to it that all weights to measure are kept."""
        keeper = self._keeper(final.training, transform)
        if keeper is self._own and final.training == self._undefended:
            keeper.copy_from(self.kept, final.training, final.epochs)
        if not keeper.lacks(final.training, final.epochs, transform):
            return
        try:
            again()
        except Exception as error:  # a training loop of the defense may not bear a second call
            status, line = status_and_line(error, Path())
            if status == "oom" or isinstance(error, OSError):
                raise
            self._final = f"the training could not be repeated to be watched: {line}"

    def _keeper(self, training: str, transform: TestTransform | None) -> EpochRates:
        """The keeper of a training's weights. The shared one drops them once it has measured them."""
        return self.kept if training == self._undefended and transform is None else self._own

    def notes(
        self, accuracy: Callable[[TrainedModel], Accuracy], trained: TrainedModel, own: Accuracy
    ) -> dict[str, Any]:
        began = time.perf_counter()
        undefended = self._of_undefended(accuracy)
        final = self._final
        if isinstance(final, str):
            model: dict[str, Any] = {"no_rates": final}
        else:
            keeper = self._keeper(final.training, trained.test_transform)
            model = self._of(keeper, final, accuracy, trained.test_transform)
            if final.pruned:
                model["pruned"] = True
            elif "epochs" in model:
                for name in METRICS:  # the cell's own: a training repeated on a GPU is the same only up to rounding
                    model[name][-1] = getattr(own, name)
        self._forget()
        self.measuring = time.perf_counter() - began
        self.seconds += self.measuring
        return {RATES_BY_EPOCH: {"undefended": undefended, "model": model}}

    def failed(self, accuracy: Callable[[], Callable[[TrainedModel], Accuracy]]) -> None:
        self._forget()
        with global_state.usual_settings(self._threads):
            global_state.check()  # what the defense may have replaced would measure the wrong thing
            self._of_undefended(accuracy())

    def _of_undefended(self, accuracy: Callable[[TrainedModel], Accuracy]) -> dict[str, Any]:
        if self._undefended is None:
            return {"no_rates": DIVERGED}
        return self._of(self.kept, Final(self._undefended, self._epochs, self._lab._network), accuracy)

    def _of(
        self,
        keeper: EpochRates,
        final: Final,
        accuracy: Callable[[TrainedModel], Accuracy],
        transform: TestTransform | None = None,
    ) -> dict[str, Any]:
        try:
            return dict(keeper.measured(final.training, final.epochs, final.plan, accuracy, transform))
        except BenchbdError as error:
            return {"no_rates": one_line(error)}

    def _forget(self) -> None:
        for training, epochs in self._lab._watched().items():
            self._own.forget(training, epochs)


def rates_of(cell: Cell, store: Store) -> NoRates:
    """What a cell's probe asks for: :class:`CellRates`, or :class:`NoRates`."""
    every = cell.probe.get("rates") if cell.probe else None
    return CellRates(cell, store, every) if every else NoRates()


def row_digest(cell: Cell, results: CellResults, device: torch.device) -> str:
    """A digest of all that rates depend on besides a model's weights: the test set, the attack on it, the device.

    Args:
        cell: the cell.
        results: its results so far, with the poisoned set.
        device: computes the passes.
    """
    poisoned, sources, inputs = results.poisoned, results.sources or {}, results.inputs
    return digest(
        [
            passes.VERSION,
            keys.pass_device(device, cell.threads),
            [cell.dataset.spec(), cell.attack.spec(), cell.seed],
            None if poisoned is None else [poisoned.key, poisoned.trigger_key, poisoned.trigger_sha256],
            [sources.get("dataset"), sources.get("attack")],
            None if inputs is None else [inputs.files, inputs.attack_files],
        ]
    )
