"""The course of a cell: its training loss, CA and ASR by epoch, and CA and ASR of the models that were traced.

A record's ``notes.train_loss`` holds the mean loss of each epoch, one list for each training, or one list.
``notes.curve`` holds ``name``, ``ca`` and ``asr`` of each traced model, in their order. ``notes.rates_by_epoch`` holds
``epochs``, ``ca``, ``asr`` and ``ra`` of the undefended training and of the one that made the cell's model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from benchbd.report.groups import SeedRecords
from benchbd.storage.record_schema import by_epoch

FINAL = "model"
"""Name of the training that made the model of the cell."""


class Course(NamedTuple):
    """Values along a training, averaged over seeds at the places that all seeds have.

    Attributes:
        x: epochs, counts, or names of stages.
        y: the values.
        seeds: number of seeds.
        unit: what ``x`` counts, such as ``epoch`` or ``pruned``; empty for names of stages.
    """

    x: list[Any]
    y: list[float]
    seeds: int
    unit: str = ""


def _numbers(values: Any) -> list[float]:
    """A list of finite numbers; empty for anything else."""
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        return []
    return [float(v) for v in values] if all(map(math.isfinite, values)) else []


def train_loss(record: Mapping[str, Any]) -> list[float]:
    """The training loss of the cell's own model by epoch, from epoch 1 on; empty if the record has none."""
    given = (record.get("notes") or {}).get("train_loss")
    return _numbers(given.get(FINAL) if isinstance(given, Mapping) else given)


def traced(record: Mapping[str, Any], metric: str) -> dict[str, float]:
    """``ca`` or ``asr`` of the traced models by their names, in order; empty if the record has none."""
    found: dict[str, float] = {}
    points = (record.get("notes") or {}).get("curve")
    for point in points if isinstance(points, list) else ():
        named = isinstance(point, Mapping) and isinstance(point.get("name"), str)
        if named and (value := _numbers([point.get(metric)])):
            found[point["name"]] = value[0]
    return found


def _mean(found: Sequence[Mapping[Any, float]]) -> tuple[list[Any], list[float]]:
    """Means at the places that all have, in the order of the first."""
    shared = [place for place in found[0] if all(place in other for other in found)]
    return shared, [math.fsum(one[place] for one in found) / len(found) for place in shared]


def loss_course(entry: SeedRecords) -> Course | None:
    """The training loss by epoch; None if no record has one."""
    found = [dict(enumerate(losses, 1)) for r in entry.done() if (losses := train_loss(r))]
    if not found:
        return None
    x, y = _mean(found)
    return Course(x, y, len(found), "epoch")


def epoch_course(entry: SeedRecords, metric: str) -> Course | None:
    """CA or ASR by epoch of the training that made the cell's model; None if no two epochs have it in every seed."""
    rates = [by_epoch(record, FINAL) for record in entry.done()]
    found = [
        {epoch: value for epoch, value in zip(each["epochs"], each[metric], strict=True) if value is not None}
        for each in rates
        if each
    ]
    if not any(found):
        return None
    x, y = _mean([each for each in found if each])
    return Course(x, y, len(found), "epoch") if len(x) > 1 else None


def rate_course(entry: SeedRecords, metric: str) -> Course | None:
    """CA or ASR of the traced models; None if no record has two of them that every seed has."""
    found = [rates for record in entry.done() if (rates := traced(record, metric))]
    if not found:
        return None
    x, y = _mean(found)
    counts, unit = counted_names(x)
    return Course(counts or x, y, len(found), unit) if len(x) > 1 else None


def counted_names(names: Iterable[str]) -> tuple[list[float], str]:
    """Numbers and their unit for names such as ``3 pruned`` or ``epoch 3``; an empty list if one is of another form."""
    parts = [re.fullmatch(r"(?:(\d+) (\D+)|(\D+) (\d+))", name) for name in names]
    units = {(part[2] or part[3]).strip() for part in parts if part}
    if not all(parts) or len(units) != 1:
        return [], ""
    return [float(part[1] or part[4]) for part in parts if part], units.pop()
