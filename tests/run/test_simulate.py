"""Simulated runs: by hand where a hand can, within bounds everywhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchbd.cli import main
from benchbd.errors import UsageError
from benchbd.plan import matrix
from benchbd.plan.shared_work import SharedWork
from benchbd.run.simulate import SHARES, SimulatedJob, estimate, lower_bound, parse_gpus, simulate, work


def job(name: str, own: float, **shared: float) -> SimulatedJob:
    prices = {(key,): seconds for key, seconds in shared.items()}
    return SimulatedJob(name, own, prices, SharedWork(frozenset(prices)))


@pytest.mark.parametrize(
    ("jobs", "gpus", "makespan"),
    [
        ([], 3, 0),
        ([job("a", 3), job("b", 2), job("c", 2)], 1, 7),
        ([job("a", 3), job("b", 2), job("c", 2)], 2, 4),
        ([job("a", 5, x=10), job("b", 1, x=10)], 1, 16),
        # b waits for x, stored at 10, and then does its own second; a ends at 15.
        ([job("a", 5, x=10), job("b", 1, x=10)], 2, 15),
        # b is put off for c, which has nothing to do with a; from 12 to 16 it does what is its own.
        ([job("a", 5, x=10), job("b", 4, x=10), job("c", 12)], 2, 16),
        ([job("a", 0, x=10), job("b", 1, x=10), job("c", 2, x=10), job("d", 3, x=10)], 4, 13),
    ],
)
def test_by_hand(jobs: list[SimulatedJob], gpus: int, makespan: float) -> None:
    assert simulate(jobs, gpus).makespan == pytest.approx(makespan)


def test_idle_share() -> None:
    run = simulate([job("a", 3), job("b", 1)], 2)
    assert (run.makespan, run.work, run.idle) == (3, 4, pytest.approx(1 / 3))


prices = {"x": 7.0, "y": 3.0, "z": 0.5}
plans = st.lists(
    st.tuples(st.floats(0, 50), st.sets(st.sampled_from(sorted(prices)))),
    max_size=12,
).map(lambda given: [job(str(n), own, **{key: prices[key] for key in keys}) for n, (own, keys) in enumerate(given)])


@given(plans, st.integers(1, 9))
def test_no_schedule_beats_the_bounds_and_none_is_worse_than_one_gpu(jobs: list[SimulatedJob], gpus: int) -> None:
    run, total = simulate(jobs, gpus), work(jobs)
    assert run.makespan >= lower_bound(jobs, gpus) - 1e-6
    assert run.makespan <= total + 1e-6
    assert -1e-9 <= run.idle < 1


@given(plans)
def test_one_gpu_does_all_the_work_and_nothing_else(jobs: list[SimulatedJob]) -> None:
    run = simulate(jobs, 1)
    assert run.makespan == pytest.approx(work(jobs))
    assert run.idle == pytest.approx(0, abs=1e-9)


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=20), st.integers(1, 8))
def test_no_gpu_idles_while_unrelated_cells_wait(costs: list[float], gpus: int) -> None:
    """Then the last cell to end began when all GPUs were busy (Graham's bound for lists)."""
    jobs = [job(str(n), seconds) for n, seconds in enumerate(costs)]
    last = min(costs) if len(costs) > gpus else 0.0
    assert simulate(jobs, gpus).makespan <= (work(jobs) - last) / gpus + max(costs) + 1e-6


MATRIX = """
name: m
dataset: digits(train=200, test=60)
model: resnet18(width=4)
recipe: {epochs: 1, batch_size: 50}
attacks: [bn-g, blend]
defenses: [none, fine-pruning, {lfd: {beta: [0.001, 0.01]}}]
"""


def record_of(cell: Any, total: float, stages: Mapping[str, float]) -> dict[str, Any]:
    from benchbd.run.costs import facts_of

    return {**facts_of(cell), "status": "done", "time": {"total": total, "stages": dict(stages)}}


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    Path("m.yaml").write_text(MATRIX)
    return matrix.load("m.yaml")


def test_without_records_trainings_are_counted(plan: Any) -> None:
    """A row: the undefended model, a teacher, two students."""
    found = estimate(plan.cells, [])
    assert (found.known, found.measured) == (0, False)
    assert work(found.jobs) == pytest.approx(2 * (3 + SHARES["teacher"]))


def test_costs_are_those_of_records_and_shared_stages_are_paid_once(plan: Any) -> None:
    """Undefended 100 s, fine-pruning 8 s more, a teacher of 30 s, students of 110 s; other rows cost the same."""
    row = [cell for cell in plan.cells if cell.attack.name == "bn-g"]
    costs = {"none": (100, {"train": 100}), "fine-pruning": (108, {"train": 100}), "lfd": (140, {"teacher": 30})}
    records = [record_of(cell, *costs[cell.defense.name]) for cell in row]
    found = estimate(plan.cells, records)
    assert (found.known, found.measured) == (8, True)
    assert work(found.jobs) == pytest.approx(2 * (100 + 8 + 30 + 110 + 110))
    broken = [{"status": "done", "time": None}, {"status": "done", "time": {"stages": {"train": "x"}}}]
    assert work(estimate(plan.cells, [*records, *broken]).jobs) == work(found.jobs)


def test_the_command_tells_it(plan: Any, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "m.yaml", "--output", "out", "--data", "."]
    assert main([*words, "--simulate", "gpus=1,2"]) == 0
    out = capsys.readouterr().out
    assert "1 GPU: 6.2 trainings, 0% idle" in out
    assert main([*words, "--simulate", "gpus=1,64", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["simulation"]
    assert told["unit"] == "full trainings"
    assert [run["gpus"] for run in told["runs"]] == [1, 64]
    assert main([*words, "--json"]) == 0
    assert "simulation" not in json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("text", ["", "gpus", "gpus=", "gpus=0", "gpus=1,x", "cpus=3", "gpus=-1", "gpus=99999"])
def test_what_cannot_be_simulated_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="gpus=1,8,64"):
        parse_gpus(text)
