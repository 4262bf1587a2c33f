"""Simulated runs: by hand where a hand can, within bounds everywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchbd.errors import UsageError
from benchbd.plan.shared_work import SharedWork
from benchbd.run.simulate import SimulatedJob, lower_bound, parse_simulate, simulate, work


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


@pytest.mark.parametrize("text", ["", "gpus", "gpus=", "gpus=0", "gpus=1,x", "cpus=3", "gpus=-1", "gpus=99999"])
def test_what_cannot_be_simulated_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="gpus=1,8,64"):
        parse_simulate(text)


def test_gpus_and_cores_can_be_simulated() -> None:
    assert parse_simulate("gpus=1,64") == ("gpus", [1, 64])
    assert parse_simulate("cores=2") == ("cores", [2])
    assert parse_simulate("gpus=2,8,2") == ("gpus", [2, 8])
