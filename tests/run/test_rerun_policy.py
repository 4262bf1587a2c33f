"""What an earlier record means for a run, and how a run is summed up."""

from __future__ import annotations

import pytest

from benchbd.run.outcome import STATUSES as OUTCOMES
from benchbd.run.outcome import Outcome
from benchbd.run.rerun_policy import FAILURES, INTERRUPTIONS, attempts_of, needs_run
from benchbd.storage.record_schema import STATUSES


def test_every_status_has_a_meaning() -> None:
    assert {"done", "skipped"} | FAILURES | INTERRUPTIONS == set(STATUSES)
    assert set(OUTCOMES) == {*STATUSES, "pending", "unreadable"}


@pytest.mark.parametrize("status", STATUSES)
def test_what_runs_again_by_itself(status: str) -> None:
    assert needs_run({"status": status}) is (status in INTERRUPTIONS)
    assert needs_run({"status": status}, rerun="all")
    assert needs_run({"status": status}, rerun="failed") is (status in FAILURES | INTERRUPTIONS)
    assert needs_run({"status": status}, rerun="stale", stale=True)


def test_no_record_runs() -> None:
    assert needs_run(None)


def test_stale_needs_asking_for() -> None:
    assert not needs_run({"status": "done"}, stale=True)
    assert not needs_run({"status": "done"}, failed_rerun=True)
    assert needs_run({"status": "done"}, failed_rerun=True, rerun="failed")
    assert not needs_run({"status": "done"}, stale=True, rerun="failed")
    assert not needs_run({"status": "done"}, rerun="stale")


def test_retries_count_earlier_runs() -> None:
    once, twice = {"status": "failed"}, {"status": "failed", "attempts": 2}
    assert (attempts_of(None), attempts_of(once), attempts_of(twice), attempts_of({"status": "done"})) == (0, 1, 2, 0)
    assert needs_run(once, retries=1)
    assert not needs_run(twice, retries=1)
    assert needs_run(twice, retries=2)
    assert not needs_run({"status": "diverged"}, retries=5), "trying again would diverge again"
    assert attempts_of({"status": "failed", "attempts": "many"}) == 1


def test_exit_codes() -> None:
    def code(*statuses: str, interrupted: str | None = None) -> int:
        return Outcome({str(i): s for i, s in enumerate(statuses)}, {}, [], 0.0, interrupted).exit_code

    assert code() == 0
    assert code("done", "done", "skipped") == 0
    assert code("done", "failed") == 1
    assert code("done", "pending") == 1
    assert code("done", "pending", interrupted="interrupted") == 130
    assert Outcome({"a": "failed", "b": "done", "c": "done"}, {}, [], 0.0).counts == {"done": 2, "failed": 1}
