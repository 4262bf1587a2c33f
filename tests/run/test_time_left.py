"""The time that a run still takes: cells pay for what they compute themselves, not for what others have computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchbd.plan import matrix
from benchbd.run.display.base import NoDisplay
from benchbd.run.scheduler import Scheduler
from benchbd.run.settings import RunSettings
from benchbd.storage import records

MATRIX = {
    "dataset": "digits(train=200, test=60)",
    "model": "resnet18(width=4)",
    "seeds": [0, 1],
    "recipe": {"epochs": 3, "batch_size": 50},
    "attacks": ["bn-g"],
    "defenses": [{"lfd": {"teachers": 1, "teacher_epochs": 5, "beta": [0.001, 0.002, 0.003, 0.004]}}],
}
TEACHER, OWN = 130.0, 12.0


@pytest.fixture
def cells() -> Sequence[Any]:
    return matrix.resolve(MATRIX, "test").cells


def finish(folder: Path, cell: Any, stages: dict[str, float], trainings: dict[str, int]) -> None:
    time = {"total": TEACHER + OWN, "own": TEACHER + OWN, "stages": stages}
    measured = {"ca": 0.9, "asr": 0.5, "ra": 0.4, "time": time, "trainings": trainings}
    records.write_record(folder, {**records.blank(cell, "done", None), **measured})


def time_left(cells: Sequence[Any], folder: Path, budget: float | None = None) -> Scheduler:
    scheduler = Scheduler(cells, RunSettings(output=folder, budget=budget), NoDisplay())
    scheduler.executor = SimpleNamespace(places=1)  # type: ignore[assignment]
    return scheduler


def test_a_teacher_that_is_stored_costs_the_other_cells_nothing(cells: Sequence[Any], tmp_path: Path) -> None:
    first, rest = cells[0], [cell for cell in cells if cell.seed == cells[0].seed][1:]
    finish(tmp_path, first, {"teacher": TEACHER, "train": 8.0}, {"teacher": 1, "full": 1})
    run = time_left([first, *rest], tmp_path)
    # Records of other variants tell of their data set and model only, and the mean is theirs.
    assert run.eta() == pytest.approx(OWN * len(rest))
    assert time_left([first, *rest], tmp_path, budget=60.0)._fits(rest[0]), (
        "a budget has room for what is left of a cell"
    )


def test_a_teacher_that_nobody_has_trained_is_paid_once(cells: Sequence[Any], tmp_path: Path) -> None:
    seeds = [[cell for cell in cells if cell.seed == seed] for seed in (0, 1)]
    finish(tmp_path, seeds[0][0], {"teacher": TEACHER, "train": 8.0}, {"teacher": 1, "full": 1})
    run = time_left(seeds[1], tmp_path)
    assert run.eta() == pytest.approx(TEACHER + OWN * len(seeds[1]))
    run.running[run.waiting[0].id] = SimpleNamespace()  # type: ignore[assignment]
    run._started_at[run.waiting.pop(0).id] = run.began
    assert run.eta() == pytest.approx(TEACHER + OWN * len(seeds[1]), abs=2.0)


@pytest.mark.parametrize(
    ("stages", "trainings"),
    [
        ({}, {}),
        ({"teacher": None}, {"teacher": 1}),
        ({"teacher": 5.0}, {"teacher": 0}),
        ({"teacher": "x"}, {"full": 1}),
    ],
)
def test_records_that_do_not_say_what_a_teacher_costs(
    cells: Sequence[Any], tmp_path: Path, stages: dict[str, Any], trainings: dict[str, int]
) -> None:
    finish(tmp_path, cells[0], {}, {})
    run = time_left(cells, tmp_path)
    record = {**records.blank(cells[1], "done", None), "time": {"total": 1.0, "stages": stages}, "trainings": trainings}
    run.costs.learn(record)
    assert run.eta() is not None
