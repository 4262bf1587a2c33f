"""Expected run times of cells, estimated from records."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.core.kinds import KINDS
from benchbd.core.numerics import numerics_text
from benchbd.storage import results_file

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell

Key = tuple[Any, ...]

STAGE = {"full": "train", "feature-model": "feature model", "teacher": "teacher"}
"""Name of a training's stage in records, by kind of training."""


class _Seen:
    """Sums over the records of one kind: their number, seconds, and seconds of one training of each kind."""

    def __init__(self) -> None:
        self.number, self.seconds = 0, 0.0
        self.training: dict[str, float] = defaultdict(float)


def earlier_records(output: Path) -> Iterator[dict[str, Any]]:
    """Every usable record of a results folder, for expected times. IDs are not compared with specs."""
    if (output / "records").is_dir():
        yield from results_file.each(output, skip=lambda error: None)


def facts_of(cell: Cell) -> dict[str, Any]:
    """A cell's names and parameters, in the form of its record."""
    names = {kind: getattr(cell, kind).name for kind in KINDS}
    params = {kind: getattr(cell, kind).params for kind in KINDS}
    return {**names, "params": params, "recipe": cell.recipe, "spec": cell.numerics.spec()}


class Costs:
    """Expected seconds of cells, estimated from records.

    The estimate is the mean over records of the nearest kind: the same data set, attack, defense and model (another
    seed); else the same data set, defense and model; else the same data set and model. Parameters,
    recipe, precision and threads must match too.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]] = ()) -> None:
        self._seen: dict[Key, _Seen] = defaultdict(_Seen)
        for record in records:
            self.learn(record)

    @staticmethod
    def kinds(facts: Mapping[str, Any]) -> list[Key]:
        """The kinds of a record, or of a cell's :func:`facts_of`; the nearest kind comes first."""
        params = facts.get("params") or {}
        names = {kind: json.dumps([facts.get(kind), params.get(kind)], sort_keys=True) for kind in KINDS}
        spec = facts.get("spec")
        numerics = numerics_text(spec) if isinstance(spec, Mapping) else ""
        recipe = json.dumps([facts.get("recipe"), numerics], sort_keys=True)
        near = (names["dataset"], names["attack"], names["defense"], names["model"], recipe)
        return [
            near,
            (names["dataset"], names["defense"], names["model"], recipe),
            (names["dataset"], names["model"], recipe),
        ]

    def learn(self, record: Mapping[str, Any]) -> None:
        """Add a finished cell's time to the estimate. Records without a time are ignored."""
        time = record.get("time")
        total = time.get("total") if isinstance(time, Mapping) else None
        if record.get("status") == "done" and isinstance(total, (int, float)) and 0 <= total < 1e9:
            trainings = _seconds_of_trainings(record)
            for kind in self.kinds(record):
                seen = self._seen[kind]
                seen.number += 1
                seen.seconds += float(total)
                for training, seconds in trainings.items():
                    seen.training[training] += seconds

    def expected(self, kinds: list[Key], stored: Iterable[str] = ()) -> float | None:
        """Expected seconds of a cell of these kinds; None if no record has one of them.

        Args:
            kinds: of the cell, the nearest first.
            stored: the kind of each of its trainings that costs nothing any more. Without them, it is run alone.
        """
        for kind in kinds:
            if (seen := self._seen.get(kind)) is not None:
                spared = sum(seen.training.get(training, 0.0) for training in stored)
                return max(0.0, seen.seconds - spared) / seen.number
        return None


def _seconds_of_trainings(record: Mapping[str, Any]) -> dict[str, float]:
    """Seconds of one training of each kind, as far as a finished record has them."""
    stages, trainings = record["time"].get("stages"), record.get("trainings")
    if not isinstance(stages, Mapping) or not isinstance(trainings, Mapping):
        return {}
    found = {}
    for kind, stage in STAGE.items():
        seconds, number = stages.get(stage), trainings.get(kind)
        if isinstance(seconds, (int, float)) and isinstance(number, int) and 0 <= seconds < 1e9 and number > 0:
            found[kind] = float(seconds) / number
    return found
