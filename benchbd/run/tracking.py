"""A run followed by experiment trackers: losses by epoch, results and hashes, sent from the run's own process.

A tracker only gets what the run has already: a cell's record is written before its tracker hears of the end. A tracker
that fails is dropped with one line, and no cell is affected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from benchbd.core.events import Event
from benchbd.core.extras import require_extra
from benchbd.errors import one_line
from benchbd.plan.cell import Cell
from benchbd.run.display.base import Display, Facts
from benchbd.run.outcome import Outcome
from benchbd.storage.record_schema import METRICS, TRAININGS, by_epoch

TRACKERS = ("tensorboard", "mlflow", "wandb")
"""Names for ``--log``, which are those of the extras too."""
RATES = ("ca", "asr", "ra", "clean_asr", "asr_all", "ca_non_target")
DETECTION = ("auroc", "precision", "recall", "fpr", "f1")


class TrackedRun(Protocol):
    """One cell in a tracker."""

    def log(self, values: dict[str, float], epoch: int) -> None:
        """Keep finite numbers by name for an epoch, from 1."""

    def end(self, results: dict[str, float], facts: dict[str, str], status: str) -> None:
        """Keep the results and the facts, and close the run."""


class Tracker(Protocol):
    """A program that keeps curves and results of experiments."""

    def start(self, cell_id: str, label: str, config: dict[str, Any]) -> TrackedRun:
        """Open a run for one try of a cell."""

    def close(self) -> None:
        """The whole run is over."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise UsageError if a tracker's package is missing. Nothing is imported."""
    for name in names:
        require_extra(name, f"--log {name}")


def make_tracker(name: str, output: Path) -> Tracker:
    """The tracker of a name of ``TRACKERS``, which keeps its files below ``output`` unless its own settings say else.

    Raises:
        UsageError: its package is missing or cannot be imported.
    """
    from benchbd.run import trackers

    kinds: dict[str, Any] = {"tensorboard": trackers.TensorBoard, "mlflow": trackers.MLflow, "wandb": trackers.WandB}
    found: Tracker = kinds[name](output)
    return found


def config_of(cell: Cell) -> dict[str, Any]:
    """What identifies a cell, as flat values by name."""
    flat: dict[str, Any] = {"cell": cell.id, "label": cell.label, "matrix": cell.matrix, "seed": cell.seed}
    for kind in ("dataset", "model", "attack", "defense"):
        flat[kind] = getattr(cell, kind).text
    for name, value in cell.recipe.items():
        flat[f"recipe.{name}"] = value if isinstance(value, (int, float, str, bool)) else str(value)
    return flat | cell.numerics.spec()


def results_of(record: dict[str, Any] | None) -> dict[str, float]:
    """The finite numbers of a record: rates as shares in [0, 1], detection, seconds, bytes."""
    record = record or {}
    found = {name: record.get(name) for name in RATES}
    found |= {f"detection/{name}": (record.get("detection") or {}).get(name) for name in DETECTION}
    found["seconds"] = (record.get("time") or {}).get("total")
    found["peak_memory_bytes"] = record.get("peak_memory_bytes")
    return {name: float(value) for name, value in found.items() if value is not None and _is_number(value)}


def curves_of(record: dict[str, Any] | None) -> dict[int, dict[str, float]]:
    """The finite numbers that a record holds by epoch, by name for each epoch, from 1.

    ``loss/model`` is the loss of the training that made the cell's model; ``model/ca``, ``model/asr`` and ``model/ra``
    are its rates, and ``undefended/ca`` and so on those of the undefended training, if a probe measured them.
    """
    found: dict[int, dict[str, float]] = {}
    losses = (((record or {}).get("notes") or {}).get("train_loss") or {}).get("model") or ()
    for epoch, loss in enumerate(losses, 1):
        if _is_number(loss):
            found.setdefault(epoch, {})["loss/model"] = float(loss)
    for training in TRAININGS:
        rates = by_epoch(record or {}, training)
        for metric in METRICS if rates else ():
            for epoch, value in zip(rates["epochs"], rates[metric], strict=True):
                if value is not None:
                    found.setdefault(epoch, {})[f"{training}/{metric}"] = float(value)
    return found


def facts_of(record: dict[str, Any] | None, status: str, reason: str) -> dict[str, str]:
    """How a cell ended, and the hashes of its artifacts, data and code, as text by name."""
    record = record or {}
    found = {"status": status, "reason": one_line(reason or "")}
    for field, prefix in (("artifacts", "artifact"), ("data", "data"), ("sources", "source")):
        entries = record.get(field)
        for name, value in (entries if isinstance(entries, dict) else {}).items():
            if isinstance(value, str) and value:
                found[f"{prefix}.{name}"] = value
    return {name: value for name, value in found.items() if value}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class TrackedDisplay:
    """A display that also tells trackers what it shows.

    Args:
        shown: the display.
        trackers: the trackers by name.
    """

    def __init__(self, shown: Display, trackers: dict[str, Tracker]) -> None:
        self._shown, self._trackers = shown, trackers
        self._cells: Any = {}
        self._runs: dict[str, dict[str, TrackedRun]] = {name: {} for name in trackers}

    def begin(self, facts: Facts, text: str) -> None:
        """The run starts."""
        self._cells = facts.cells
        self._shown.begin(facts, text)

    def event(self, cell_id: str, label: str, event: Event) -> None:
        """A cell sent an event: the loss of an epoch is kept."""
        self._shown.event(cell_id, label, event)
        loss, epoch = event.get("loss"), event.get("epoch")
        if event.get("event") == "progress" and _is_number(loss) and _is_number(epoch):
            for name, tracker in list(self._trackers.items()):
                try:
                    run = self._run(name, tracker, cell_id, label)
                    run.log({f"loss/{event.get('stage') or 'train'}": float(loss or 0)}, int(epoch or 0))
                except Exception as error:
                    self._drop(name, error)

    def ended(
        self, cell_id: str, label: str, status: str, reason: str, wall: float, record: dict[str, Any] | None
    ) -> None:
        """A cell ended: its results and hashes are kept."""
        self._shown.ended(cell_id, label, status, reason, wall, record)
        curves = curves_of(record) if status == "done" else {}
        for name, tracker in list(self._trackers.items()):
            try:
                run = self._run(name, tracker, cell_id, label)
                for epoch, values in sorted(curves.items()):
                    run.log(values, epoch)
                del self._runs[name][cell_id]
                run.end(results_of(record) if status == "done" else {}, facts_of(record, status, reason), status)
            except Exception as error:
                self._drop(name, error)

    def note(self, text: str) -> None:
        """Show a message to the user."""
        self._shown.note(text)

    def tick(self) -> None:
        """Called a few times a second."""
        self._shown.tick()

    def end(self, outcome: Outcome) -> None:
        """The run is over."""
        for name, tracker in list(self._trackers.items()):
            try:
                for cell_id, run in self._runs[name].items():
                    run.end({}, {"status": outcome.statuses.get(cell_id, "cancelled")}, "cancelled")
                tracker.close()
            except Exception as error:
                self._drop(name, error)
        self._shown.end(outcome)

    def _run(self, name: str, tracker: Tracker, cell_id: str, label: str) -> TrackedRun:
        runs = self._runs[name]
        if cell_id not in runs:
            cell = self._cells.get(cell_id)
            config = {"cell": cell_id, "label": label} if cell is None else config_of(cell)
            runs[cell_id] = tracker.start(cell_id, label, config)
        return runs[cell_id]

    def _drop(self, name: str, error: Exception) -> None:
        self._trackers.pop(name, None)
        why = f"{type(error).__name__}: {one_line(error)[:200]}".removesuffix(": ")
        self._shown.note(f"--log {name} fails and gets nothing more ({why}); results are not affected")
