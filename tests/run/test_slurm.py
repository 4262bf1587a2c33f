"""What the Slurm executor concludes from records and the queue, without a Slurm: a queue that says what it is told to.

The executor on a real Slurm is tested by ``make test-cluster``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchbd.errors import UsageError
from benchbd.run.cluster import slurm
from benchbd.run.cluster.slurm import SlurmExecutor, how_it_ended, last_line
from benchbd.run.executor import Job, JobResult
from benchbd.run.settings import RunSettings
from benchbd.storage import records


@pytest.mark.parametrize(
    ("facts", "status", "word"),
    [
        ({}, "lost", "no longer in the queue and left no record"),
        ({"JobState": "COMPLETED", "ExitCode": "0:0"}, "lost", "left no record"),
        ({"JobState": "FAILED", "ExitCode": "0:9"}, "killed", "signal 9"),
        ({"JobState": "FAILED", "ExitCode": "137:0"}, "killed", "signal 9"),
        ({"JobState": "FAILED", "ExitCode": "1:0"}, "failed", "exit code 1"),
        ({"JobState": "CANCELLED", "ExitCode": "0:15"}, "cancelled", "was cancelled"),
        ({"JobState": "CANCELLED+", "ExitCode": "0:0"}, "cancelled", "was cancelled"),
        ({"JobState": "TIMEOUT", "ExitCode": "0:15", "TimeLimit": "02:03:00"}, "timeout", "02:03:00"),
        ({"JobState": "OUT_OF_MEMORY", "ExitCode": "0:125"}, "oom", "mem_gb"),
        ({"JobState": "NODE_FAIL", "ExitCode": "0:0", "NodeList": "gpu7"}, "lost", "gpu7"),
        ({"JobState": "PREEMPTED", "ExitCode": "0:0"}, "killed", "preempted"),
    ],
)
def test_what_slurm_says_of_a_task_that_is_gone(facts: dict[str, str], status: str, word: str) -> None:
    end = how_it_ended(facts, "12_3")
    assert end.status == status
    assert word in end.reason
    assert "Slurm task 12_3" in end.reason


class Queue:
    """Answers as Slurm's commands do. Tasks are submitted in the order of their states."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.facts: dict[str, str] = {}
        self.answers = True
        self.cancelled: list[str] = []
        self.submitted = 0

    def say(self, *words: str) -> str | None:
        if words[0] == "sinfo":
            return "slurm"
        if not self.answers:
            return None
        if words[0] == "squeue":
            return "".join(f"{task}|{state}\n" for task, state in self.states.items())
        if words[0] == "scancel":
            self.cancelled += [word for word in words[1:] if not word.startswith("-")]
            return ""
        return self.facts.get(words[-1])

    def submit(self, paths: list[str]) -> list[SimpleNamespace]:
        self.submitted += 1
        tasks = [f"{self.submitted}_{number}" for number in range(len(paths))]
        self.states |= dict.fromkeys(tasks, "RUNNING")
        return [SimpleNamespace(job_id=task) for task in tasks]


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Queue:
    made = Queue()

    class Fake:
        def __init__(self, **given: Any) -> None:
            pass

        @staticmethod
        def _valid_parameters() -> set[str]:
            return {"partition", "gpus_per_node", "additional_parameters", "array_parallelism"}

        def update_parameters(self, **given: Any) -> None:
            pass

        def map_array(self, function: Any, paths: list[str]) -> list[SimpleNamespace]:
            return made.submit(paths)

    module = ModuleType("submitit")
    module.SlurmExecutor = Fake  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "submitit", module)
    monkeypatch.setattr(slurm, "_output_of", made.say)
    return made


Make = Callable[[], SlurmExecutor]


@pytest.fixture
def make(fakes: ModuleType, tmp_path: Path, queue: Queue) -> Make:
    settings = RunSettings(
        output=tmp_path, plugins=(str(fakes.PLUGIN),), executor="slurm", executor_config={"poll": 0}, device="cpu"
    )
    return lambda: SlurmExecutor(settings, lambda cell_id, event: None)


def job(cell: Any) -> Job:
    return Job(cell.id, cell.label, cell.to_json())


def test_a_task_that_two_looks_miss_is_lost(fakes: ModuleType, make: Make, queue: Queue) -> None:
    this, cell = make(), fakes.cell(n=1)
    this.start(job(cell))
    assert this.poll(0) == []
    queue.states.clear()
    assert this.poll(0) == [], "one look may come between two states"
    (end,) = this.poll(0)
    assert (end.id, end.status, end.recorded) == (cell.id, "lost", False)


def test_a_controller_that_does_not_answer_loses_nothing(fakes: ModuleType, make: Make, queue: Queue) -> None:
    this, cell = make(), fakes.cell(n=1)
    this.start(job(cell))
    this.poll(0)
    queue.answers = False
    assert [this.poll(0) for _ in range(5)] == [[]] * 5
    queue.answers = True
    assert this.poll(0) == []


def test_a_record_counts_though_the_task_is_still_listed(
    fakes: ModuleType, make: Make, queue: Queue, tmp_path: Path
) -> None:
    this, cell, preempted = make(), fakes.cell(n=1), fakes.cell(n=2)
    this.start(job(cell))
    this.start(job(preempted))
    assert this.poll(0) == []
    records.write_record(tmp_path, records.blank(cell, "done") | {"ca": 0.9})
    records.write_record(tmp_path, records.blank(preempted, "cancelled", "preempted"))
    (end,) = this.poll(0)
    assert (end.id, end.status, end.recorded) == (cell.id, "done", True)
    assert this.poll(0) == [], "the preempted one may begin again while it is in the queue"
    queue.states.clear()
    assert this.poll(0) == []
    (end,) = this.poll(0)
    assert (end.id, end.status, end.reason, end.recorded) == (preempted.id, "cancelled", "preempted", True)


def test_a_cancelled_task_is_so_whatever_its_worker_died_of(
    fakes: ModuleType, make: Make, queue: Queue, tmp_path: Path
) -> None:
    this, cell = make(), fakes.cell(n=1)
    this.start(job(cell))
    this.poll(0)
    records.write_record(tmp_path, records.blank(cell, "killed", "killed by signal 15 (SIGTERM)"))
    queue.states.clear()
    queue.facts["1_0"] = "JobId=1 ArrayTaskId=0 JobState=CANCELLED ExitCode=0:15"
    assert this.poll(0) == []
    (end,) = this.poll(0)
    assert (end.status, end.reason) == ("cancelled", "Slurm task 1_0 was cancelled")
    assert end.record is not None
    assert (end.record["id"], end.record["status"], end.record["error"]) == (cell.id, end.status, end.reason)


def test_a_requeued_task_that_the_queue_does_not_list_for_a_while_is_waited_for(
    fakes: ModuleType, make: Make, queue: Queue, tmp_path: Path
) -> None:
    this, cell = make(), fakes.cell(n=1)
    this.start(job(cell))
    this.poll(0)
    records.write_record(tmp_path, records.blank(cell, "cancelled", "preempted"))
    queue.states.clear()
    queue.facts["1_0"] = "JobId=1 ArrayTaskId=0 JobState=PENDING Reason=BeginTime ExitCode=0:0"
    assert [this.poll(0) for _ in range(5)] == [[]] * 5
    queue.facts["1_0"] = "JobId=1 ArrayTaskId=0 JobState=RUNNING ExitCode=0:0"
    assert [this.poll(0) for _ in range(5)] == [[]] * 5
    records.write_record(tmp_path, records.blank(cell, "done") | {"ca": 0.9})
    (end,) = this.poll(0)
    assert (end.id, end.status) == (cell.id, "done")


def test_the_next_run_finds_the_tasks_of_the_one_before(fakes: ModuleType, make: Make, queue: Queue) -> None:
    first, cell, other = make(), fakes.cell(n=1), fakes.cell(n=2)
    first.start(job(cell))
    first.poll(0)
    first.close()
    second = make()
    second.start(job(cell))
    second.start(job(other))
    second.poll(0)
    assert queue.submitted == 2
    assert list(queue.states) == ["1_0", "2_0"], "only the other one was submitted"


def test_a_cancelled_task_leaves_the_queue(fakes: ModuleType, make: Make, queue: Queue) -> None:
    this, cell = make(), fakes.cell(n=1)
    this.start(job(cell))
    this.poll(0)
    this.cancel(cell.id)
    assert queue.cancelled == ["1_0"]
    assert this.poll(0) == [JobResult(cell.id, "cancelled", "Slurm task 1_0 was cancelled")]


def test_no_slurm_on_this_machine(fakes: ModuleType, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "_output_of", lambda *words: None)
    with pytest.raises(UsageError, match=r"no Slurm on this machine .*; run it on a login node"):
        make()


def test_the_last_line_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("x" * 5000 + "\none\ntwo\n")
    assert last_line(log) == "two"
