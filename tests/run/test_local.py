"""A worker process per slot: what breaks costs one cell and says why."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchbd.core.cell_log import KEPT, LONGEST
from benchbd.errors import BenchbdError
from benchbd.run import Outcome
from benchbd.run.executor import Job, JobResult
from benchbd.run.settings import RunSettings
from benchbd.run.workers import worker_process
from benchbd.run.workers.local import LocalExecutor
from benchbd.run.workers.slots import Slot
from benchbd.run.workers.worker_process import cause_of_death
from benchbd.storage import records

Go = Callable[..., Outcome]


def alive(pid: int) -> bool:
    """True where a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("do", "status", "reason"),
    [
        ("raise", "failed", "ValueError: told to"),
        ("segfault", "failed", "the cell's process crashed with SIGSEGV"),
        ("kill", "killed", "killed by signal 9 (SIGKILL), often a memory limit"),
        ("exit", "failed", "the cell's process exited with code 7 in the middle of the cell"),
        ("oom", "oom", "oom, as told"),
        ("diverged", "diverged", "diverged, as told"),
        ("raise-outside", "failed", "RuntimeError: broken before any record"),
    ],
)
def test_a_broken_cell_costs_one_cell(
    fakes: ModuleType, go: Go, tmp_path: Path, do: str, status: str, reason: str
) -> None:
    cells = [fakes.cell(n=1), fakes.cell(do), fakes.cell(n=2), fakes.cell(n=3)]
    outcome = go(cells)
    assert outcome.counts == {"done": 3, status: 1}
    assert outcome.exit_code == 1
    assert outcome.reasons == {cells[1].id: reason}
    record = records.read_record(tmp_path, cells[1].id)
    assert record is not None
    assert (record["status"], record["error"], record["attempts"]) == (status, reason, 1)
    assert set(record) >= {"ca", "asr", "ra", "detection", "poison", "time", "env", "spec"}, "a failure is a whole row"


def test_a_worker_that_dies_after_its_record_was_written_has_done_its_cell(
    fakes: ModuleType, go: Go, tmp_path: Path
) -> None:
    outcome = go([fakes.cell("die-late"), fakes.cell(n=1)])
    assert outcome.counts == {"done": 2}
    assert outcome.exit_code == 0


def test_workers_are_fed_many_cells(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    go([fakes.cell(n=n) for n in range(20)], jobs=2)
    trace = fakes.read_trace(tmp_path)
    assert len([row for row in trace if row[1] == "end"]) == 20
    assert len({row[3] for row in trace}) == 20, "each in a process of its own"
    assert len({fakes.parent(tmp_path, pid) for pid in {row[3] for row in trace}}) <= 2
    assert not any(alive(row[3]) for row in trace)


def test_a_cuda_error_ends_with_its_cell(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    before, broken, after = fakes.cell(n=1), fakes.cell("cuda"), fakes.cell(n=2)
    outcome = go([before, broken, after], jobs=1)
    assert outcome.statuses == {before.id: "done", broken.id: "failed", after.id: "done"}
    assert "CUDA error: an illegal memory access" in outcome.reasons[broken.id]
    pids = {row[3] for row in fakes.read_trace(tmp_path)}
    assert len({fakes.parent(tmp_path, pid) for pid in pids}) == 1, "the worker stays"


def test_no_more_cells_at_once_than_slots(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    go([fakes.cell("meet-3", n) for n in range(3)] + [fakes.cell(n=n, seconds=0.1) for n in range(5)], jobs=3)
    now = most = 0
    for row in sorted(fakes.read_trace(tmp_path)):
        now += 1 if row[1] == "start" else -1
        most = max(most, now)
    assert most == 3


def test_a_hang_ends_at_the_timeout(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    began = time.monotonic()
    hung = fakes.cell("hang")
    outcome = go([hung, *[fakes.cell(n=n) for n in range(3)]], timeout=6.0)
    assert time.monotonic() - began < 120
    assert outcome.counts == {"done": 3, "timeout": 1}
    assert outcome.reasons[hung.id] == "no result after 6s (--timeout)"
    assert not any(alive(row[3]) for row in fakes.read_trace(tmp_path))


def test_what_a_killed_cell_started_dies_with_it(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    go([fakes.cell("children")], timeout=2.0)
    worker, child = json.loads((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while (alive(worker) or alive(child)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(worker)
    assert not alive(child)


def test_everything_a_cell_says_is_in_its_log(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    talk, crash, quiet = fakes.cell("talk"), fakes.cell("segfault"), fakes.cell(n=5)
    go([talk, crash, quiet], jobs=1)
    text = (tmp_path / "logs" / f"{talk.id}.log").read_text()
    assert text.startswith(f"== {talk.label}  attempt 1")
    assert "said on stdout" in text
    assert "said on stderr by native code" in text
    assert text.rstrip().endswith("done")
    crashed = (tmp_path / "logs" / f"{crash.id}.log").read_text()
    assert "Segmentation fault" in crashed
    assert "_misbehave" in crashed, "the Python stack of a native crash is there"
    assert "said on" not in (tmp_path / "logs" / f"{quiet.id}.log").read_text()
    assert sorted(p.name for p in (tmp_path / "logs").iterdir()) == sorted(f"{c.id}.log" for c in (talk, crash, quiet))


def test_a_cell_that_prints_without_end_does_not_fill_the_disk(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    flood = fakes.cell("flood")
    go([flood], jobs=1)
    log = tmp_path / "logs" / f"{flood.id}.log"
    assert log.stat().st_size < LONGEST + KEPT
    text = log.read_text()
    assert text.startswith(f"== {flood.label}  attempt 1")
    assert "the beginning" in text[:1000]
    assert "the end" in text[-1000:]
    assert "bytes of output are left out here" in text
    assert text.rstrip().endswith("done")


def test_workers_see_one_thread_and_no_gpu(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    cell = fakes.cell("environment")
    go([cell], jobs=1)
    record = records.read_record(tmp_path, cell.id)
    assert record is not None
    assert record["notes"] == {
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "BENCHBD_GPU_SHARE": "",
        "device": "cpu",
    }


def test_workers_that_cannot_start_end_the_run_with_one_line(fakes: ModuleType, go: Go) -> None:
    with pytest.raises(BenchbdError, match=r"worker processes do not start: .*no_such_module"):
        go([fakes.cell()], execute="no_such_module:execute")


def test_killed_by_the_kernel_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "oom_kills", lambda: 4)
    assert cause_of_death(-9, 3)[0] == "oom"
    assert cause_of_death(-9, 4)[0] == "killed"
    assert cause_of_death(-15, 3)[0] == "killed"
    assert cause_of_death(-11, 3, "the worker") == ("failed", "the worker crashed with SIGSEGV")
    assert cause_of_death(-11, 3) == ("failed", "the cell's process crashed with SIGSEGV")
    assert cause_of_death(-6, 3) == ("failed", "the cell's process crashed with SIGABRT")


def executor(
    fakes: ModuleType, output: Path, slots: list[Slot], heard: list[tuple[str, dict[str, Any]]]
) -> LocalExecutor:
    settings = RunSettings(output=output, plugins=(str(fakes.PLUGIN),), execute=fakes.EXECUTE)
    return LocalExecutor(slots, settings, lambda cell_id, event: heard.append((cell_id, event)))


def job(cell: Any, **changes: Any) -> Job:
    return Job(cell.id, cell.label, cell.to_json(), **changes)


def drain(local: LocalExecutor, count: int) -> list[JobResult]:
    ended: list[JobResult] = []
    deadline = time.monotonic() + 30
    while len(ended) < count and time.monotonic() < deadline:
        ended += local.poll(0.1)
    return ended


def test_slots_of_a_gpu_share_it_and_say_so(fakes: ModuleType, tmp_path: Path) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    local = executor(fakes, tmp_path, [Slot(i, gpu, 2, 1) for i, gpu in enumerate(("3", "5", "3", "5"))], heard)
    cells = [fakes.cell("environment", n, seconds=0.3) for n in range(4)]
    try:
        for cell in cells:
            local.start(job(cell))
        assert local.free() == 0
        ended = drain(local, 4)
    finally:
        local.close()
    assert all(e.shared and e.recorded and e.status == "done" for e in ended)
    seen = [records.read_record(tmp_path, c.id)["notes"] for c in cells]
    assert sorted(n["CUDA_VISIBLE_DEVICES"] for n in seen) == ["3", "3", "5", "5"]
    assert {n["BENCHBD_GPU_SHARE"] for n in seen} == {"2"}
    assert {n["device"] for n in seen} == {"cuda"}


def test_a_job_that_wants_to_be_alone_gets_its_gpu_to_itself(fakes: ModuleType, tmp_path: Path) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    local = executor(fakes, tmp_path, [Slot(0, "0", 2, 1), Slot(1, "0", 2, 1)], heard)
    before, alone, after = fakes.cell(n=1, seconds=0.4), fakes.cell("environment", 2, seconds=0.4), fakes.cell(n=3)
    try:
        local.start(job(before))
        local.start(job(alone, alone=True))
        assert local.free() == 0, "nothing new goes to a GPU that is being emptied"
        ended = drain(local, 1)
        assert [e.id for e in ended] == [before.id]
        ended = drain(local, 1)
        assert [(e.id, e.shared) for e in ended] == [(alone.id, False)]
        assert local.free() == 2
        local.start(job(after))
        assert [e.id for e in drain(local, 1)] == [after.id]
    finally:
        local.close()
    rows = {(word, cell_id): at for at, word, cell_id, _ in fakes.read_trace(tmp_path)}
    assert rows["start", alone.id] >= rows["end", before.id]
    assert records.read_record(tmp_path, alone.id)["notes"]["BENCHBD_GPU_SHARE"] == "1"


def test_waiting_for_another_worker_stops_the_clock(fakes: ModuleType, tmp_path: Path) -> None:
    local = executor(fakes, tmp_path, [Slot(0, None, 1, 1)], [])
    cell = fakes.cell(n=1, seconds=30)
    try:
        local.start(job(cell))
        while not local.poll(0.05) and not local._workers[0].job:
            pass
        worker = local._workers[0]
        worker.began -= 100
        local._clock(worker, {"event": "waiting"})
        worker.waiting_since -= 90
        local._clock(worker, {"event": "progress"})
        assert worker.waiting_since is None
        assert 9 < time.monotonic() - worker.began < 20
        pid = worker.process.pid
    finally:
        local.close()
    assert not alive(pid)


def test_cancel_stops_what_runs_and_what_waits(fakes: ModuleType, tmp_path: Path) -> None:
    local = executor(fakes, tmp_path, [Slot(0, None, 1, 1)], [])
    cell = fakes.cell("hang")
    try:
        local.start(job(cell))
        local.cancel(cell.id)
        assert [(e.id, e.status) for e in drain(local, 1)] == [(cell.id, "pending")], "it had not begun"
        local.start(job(cell))
        deadline = time.monotonic() + 20
        while not fakes.read_trace(tmp_path) and time.monotonic() < deadline:
            local.poll(0.05)
        local.cancel(cell.id)
        assert [(e.id, e.status) for e in drain(local, 1)] == [(cell.id, "cancelled")]
    finally:
        local.close()
