"""What is done is skipped, what breaks is tried again, what is stopped goes on later."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waiting import wait_for

from benchbd.errors import BenchbdError
from benchbd.run import Outcome
from benchbd.run.settings import Shard
from benchbd.storage import records
from benchbd.storage.cell_locks import CellLocks, running
from benchbd.storage.cleanup import remove_stale_files

if TYPE_CHECKING:
    from conftest import Told

Go = Callable[..., Outcome]
HELPERS = Path(__file__).parents[1] / "helpers"


def started(fakes: ModuleType, output: Path) -> list[str]:
    """Ids of cells in the order they began."""
    return [row[2] for row in fakes.read_trace(output) if row[1] == "start"]


@pytest.mark.parametrize("executor", ["local", "inline"])
def test_done_cells_are_not_run_again(fakes: ModuleType, go: Go, tmp_path: Path, executor: str) -> None:
    cells = [fakes.cell(n=n) for n in range(3)]
    assert go(cells[:2], executor=executor).counts == {"done": 2}
    outcome = go(cells, executor=executor)
    assert outcome.counts == {"done": 3}
    assert outcome.ran == [cells[2].id]
    assert len(started(fakes, tmp_path)) == 3
    assert go(cells, executor=executor).ran == []


def test_failures_stay_and_interruptions_run_again(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    cells = {do: fakes.cell(do) for do in ("raise", "kill", "diverged")}
    go(list(cells.values()))
    outcome = go(list(cells.values()))
    assert outcome.ran == [cells["kill"].id]
    assert outcome.exit_code == 1, "a failure of an earlier run still counts"
    assert outcome.reasons[cells["raise"].id] == "ValueError: told to"
    assert set(go(list(cells.values()), rerun="failed").ran) == {c.id for c in cells.values()}


def test_rerun_all_and_stale(fakes: ModuleType, go: Go) -> None:
    cells = [fakes.cell(n=n) for n in range(3)]
    go(cells)
    assert go(cells, rerun="stale", stale=frozenset({cells[1].id})).ran == [cells[1].id]
    assert sorted(go(cells, rerun="all").ran) == sorted(c.id for c in cells)


def test_a_finished_record_survives_a_rerun_that_is_killed(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    cell = fakes.cell("kill")
    records.write_record(tmp_path, {**records.blank(cell, "done"), "ca": 0.5})
    outcome = go([cell], rerun="all")
    assert outcome.counts == {"killed": 1}
    assert records.read_record(tmp_path, cell.id)["ca"] == 0.5


def test_retries(fakes: ModuleType, go: Go, told: Told, tmp_path: Path) -> None:
    flaky, hopeless, diverged = fakes.cell("until-2-raise"), fakes.cell("kill"), fakes.cell("diverged")
    outcome = go([flaky, hopeless, diverged], retries=2)
    assert outcome.statuses == {flaky.id: "done", hopeless.id: "killed", diverged.id: "diverged"}
    tries = started(fakes, tmp_path)
    assert [tries.count(c.id) for c in (flaky, hopeless, diverged)] == [3, 3, 1]
    assert records.read_record(tmp_path, hopeless.id)["attempts"] == 3
    assert any("attempt 3 of 3" in note for note in told.notes)


def test_retries_go_on_counting_in_the_next_run(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    cell = fakes.cell("raise")
    go([cell])
    go([cell], retries=2)
    assert started(fakes, tmp_path).count(cell.id) == 3
    assert go([cell], retries=2).ran == []


def test_fail_fast(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    cells = [fakes.cell("hang"), fakes.cell("meet-2-raise"), fakes.cell(n=1), fakes.cell(n=2)]
    outcome = go(cells, fail_fast=True)
    assert outcome.statuses == {
        cells[0].id: "cancelled",
        cells[1].id: "failed",
        cells[2].id: "pending",
        cells[3].id: "pending",
    }
    assert outcome.exit_code == 1
    assert records.read_record(tmp_path, cells[0].id)["error"] == "--fail-fast"


def test_longest_expected_first(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    earlier = [fakes.cell(n=n, seconds=s, seed=1) for n, s in ((1, 0.01), (2, 0.2), (3, 0.1))]
    go(earlier)
    (tmp_path / "trace").unlink()
    again = [fakes.cell(n=n, seconds=s, seed=2) for n, s in ((1, 0.01), (2, 0.2), (3, 0.1))]
    go(again, jobs=1)
    assert started(fakes, tmp_path) == [again[1].id, again[2].id, again[0].id]


def test_nobody_waits_for_a_shared_training_while_others_can_run(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    # Long enough that a worker which is slow to begin has begun before the shared training ends.
    shared = [fakes.cell(n=n, seconds=2.0, shared="teacher") for n in range(3)]
    others = [fakes.cell(n=10 + n, seconds=1.5, attack=str(n)) for n in range(2)]
    go([*shared, *others], jobs=2)
    rows = {(word, cell_id): at for at, word, cell_id, _ in fakes.read_trace(tmp_path)}
    first, second, _ = sorted(shared, key=lambda cell: rows["start", cell.id])
    assert rows["start", others[0].id] < rows["start", second.id]
    assert rows["start", second.id] >= rows["end", first.id], "its teacher is in the store when it begins"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 4))
def test_shards_together_run_every_cell_once(
    fakes: ModuleType, go: Go, tmp_path_factory: pytest.TempPathFactory, count: int
) -> None:
    output = tmp_path_factory.mktemp("shards")
    cells = [fakes.cell(n=n) for n in range(9)]
    ran: list[str] = []
    for index in range(1, count + 1):
        outcome = go(cells, output=output, shard=Shard(index, count), executor="inline")
        assert set(outcome.statuses) == set(outcome.ran)
        ran += outcome.ran
    assert sorted(ran) == sorted(c.id for c in cells)


def test_out_of_memory_on_a_shared_gpu_is_tried_once_more_alone(
    fakes: ModuleType, go: Go, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchbd.run.workers.slots.visible_gpus", lambda: ("0",))
    tight, hopeless, fine = fakes.cell("until-1-oom"), fakes.cell("oom"), fakes.cell(n=1, seconds=0.3)
    outcome = go([tight, hopeless, fine], jobs=None, jobs_per_gpu=2, device="auto")
    assert outcome.statuses == {tight.id: "done", hopeless.id: "oom", fine.id: "done"}
    tries = started(fakes, tmp_path)
    assert [tries.count(c.id) for c in (tight, hopeless, fine)] == [2, 2, 1]
    assert sum("trying once more, alone" in note for note in told.notes) == 2


def test_budget_stops_cleanly_and_the_next_run_goes_on(
    fakes: ModuleType, go: Go, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick, slow = fakes.cell(n=1), fakes.cell("until-1-hang")
    runs: list[Any] = []

    def tick() -> None:
        """Let the time be up as soon as one cell is done and the other one runs."""
        if told.ends and slow.id in started(fakes, tmp_path):
            runs[0].began -= 1000.0

    with monkeypatch.context() as patch:
        patch.setattr(told, "begin", lambda facts, text: runs.append(facts))
        patch.setattr(told, "tick", tick)
        outcome = go([quick, slow], budget=600.0)
    assert outcome.statuses == {quick.id: "done", slow.id: "cancelled"}
    assert outcome.exit_code == 130
    assert outcome.interrupted == "the budget of 10m00s is used up"
    assert go([quick, slow], budget=600.0).counts == {"done": 2}


def test_budget_starts_no_cell_that_cannot_end_in_it(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    long = fakes.cell(n=1, seed=0)
    records.write_record(
        tmp_path, {**records.blank(long, "done"), "ca": 0.5, "time": {"total": 500.0, "own": 500.0, "stages": {}}}
    )
    same, short = fakes.cell(n=1, seed=1), fakes.cell(n=2)
    records.write_record(
        tmp_path,
        {**records.blank(fakes.cell(n=2, seed=1), "done"), "ca": 0.5, "time": {"total": 0.1, "own": 0.1, "stages": {}}},
    )
    outcome = go([same, short], budget=60.0, jobs=1)
    assert outcome.statuses == {same.id: "pending", short.id: "done"}
    assert outcome.exit_code == 130
    assert go([same], budget=60.0).counts == {"done": 1}, "alone it gets its turn all the same"


def test_a_full_disk_stops_the_run_and_blames_no_cell(
    fakes: ModuleType, go: Go, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchbd.run.scheduler.disk_is_full", lambda folder: True)
    cells = [fakes.cell("until-1-full"), fakes.cell(n=1, seconds=0.1), fakes.cell(n=2)]
    outcome = go(cells, jobs=1)
    assert outcome.statuses[cells[0].id] == "cancelled"
    assert outcome.exit_code == 1
    assert any("the disk is full; free some space" in note for note in told.notes)
    assert go(cells).counts == {"done": 3}


def test_a_disk_that_only_one_cell_fills_fails_that_cell(fakes: ModuleType, go: Go) -> None:
    broken, fine = fakes.cell("full"), fakes.cell(n=1, seconds=0.1)
    assert go([broken, fine], jobs=1).statuses == {broken.id: "failed", fine.id: "done"}


def test_results_that_did_not_fit_for_a_moment_blame_no_cell(fakes: ModuleType, go: Go) -> None:
    unlucky, fine = fakes.cell("until-1-results-full"), fakes.cell(n=1, seconds=0.1)
    assert go([unlucky, fine], jobs=1).statuses == {unlucky.id: "cancelled", fine.id: "done"}
    assert go([unlucky, fine]).counts == {"done": 2}, "no flag is needed"


def test_a_record_that_somebody_removes_is_missed_at_the_end(
    fakes: ModuleType, go: Go, told: Told, tmp_path: Path
) -> None:
    kept, removed, last = fakes.cell(n=1), fakes.cell(n=2), fakes.cell("remove-records", n=3)
    go([kept])
    go([removed])
    outcome = go([kept, removed, last], jobs=1)
    assert outcome.statuses == {kept.id: "lost", removed.id: "lost", last.id: "done"}
    assert outcome.exit_code == 1
    assert any("2 records are missing" in note for note in told.notes)


def test_a_cell_that_another_run_has_is_left_to_it(
    fakes: ModuleType, go: Go, told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchbd.run.scheduler.FOREIGN", 0.2)
    theirs, mine = fakes.cell(n=1), fakes.cell(n=2)
    other = CellLocks(tmp_path)
    assert other.take(theirs.id)

    def finish() -> None:
        records.write_record(tmp_path, records.blank(theirs, "done") | {"ca": 0.9})
        other.close()

    timer = threading.Timer(1.5, finish)
    timer.start()
    outcome = go([theirs, mine])
    timer.join()
    assert outcome.counts == {"done": 2}
    assert outcome.ran == [mine.id]
    assert any("another process" in note for note in told.notes)


def test_records_that_cannot_be_written_end_the_run_with_one_line(
    fakes: ModuleType, go: Go, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(output: Path, record: dict[str, Any]) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(records, "write_record", refuse)
    with pytest.raises(BenchbdError, match=r"records cannot be written: .*Permission denied"):
        go([fakes.cell("raise")])


# A run in a process of its own, to be interrupted and killed.


def launch(output: Path, jobs: int, *cells: str, under: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    # The tests themselves may run under nohup.
    hangup = ["-c", "import os, signal, sys; signal.signal(1, signal.SIG_DFL); os.execvp(sys.argv[1], sys.argv[1:])"]
    arguments = [sys.executable, *hangup, *under, sys.executable, str(HELPERS / "run_fakes.py"), str(output), str(jobs)]
    return subprocess.Popen(
        [*arguments, *cells], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_first_interrupt_drains(fakes: ModuleType, tmp_path: Path) -> None:
    process = launch(tmp_path, 1, "done:1:1.5", "done:2:0", "done:3:0")
    wait_for(lambda: started(fakes, tmp_path))
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "finishing 1 running cell, starting no more" in said
    first = fakes.cell(n=1, seconds=1.5)
    assert started(fakes, tmp_path) == [first.id]
    assert records.read_record(tmp_path, first.id)["status"] == "done"


def test_interrupt_during_the_last_cells_is_no_interruption(fakes: ModuleType, tmp_path: Path) -> None:
    process = launch(tmp_path, 1, "done:1:1.0")
    wait_for(lambda: started(fakes, tmp_path))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 0


@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM,), (signal.SIGHUP,)])
def test_second_interrupt_kills(fakes: ModuleType, tmp_path: Path, numbers: tuple[int, ...]) -> None:
    process = launch(tmp_path, 2, "hang:1:0", "done:2:60", "done:3:0")
    wait_for(lambda: len(started(fakes, tmp_path)) == 2)
    for number in numbers:
        process.send_signal(number)
        time.sleep(0.5)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert not any(alive(row[3]) for row in fakes.read_trace(tmp_path))
    assert records.read_record(tmp_path, fakes.cell("hang", 1).id)["status"] == "cancelled"
    assert records.read_record(tmp_path, fakes.cell(n=3).id) is None
    assert not running(tmp_path)


def test_nohup_protects_a_run_from_the_end_of_its_terminal(fakes: ModuleType, tmp_path: Path) -> None:
    process = launch(tmp_path, 1, "done:1:1.5", "done:2:0", under=("nohup",))
    wait_for(lambda: started(fakes, tmp_path))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert records.read_record(tmp_path, fakes.cell(n=2).id)["status"] == "done"


def test_a_run_goes_on_when_nobody_reads_its_messages(fakes: ModuleType, tmp_path: Path) -> None:
    process = launch(tmp_path, 1, "done:1:0.5", "raise:2:0")
    process.stderr.close()
    assert process.wait(120) == 1
    assert records.read_record(tmp_path, fakes.cell(n=1, seconds=0.5).id)["status"] == "done"


def test_no_orphans_after_the_run_is_killed(fakes: ModuleType, tmp_path: Path) -> None:
    process = launch(tmp_path, 3, "children:1:0", "hang:2:0", "done:3:60")
    wait_for(lambda: len(started(fakes, tmp_path)) == 3 and (tmp_path / "child").exists())
    worker, child = json.loads((tmp_path / "child").read_text())
    pids = {row[3] for row in fakes.read_trace(tmp_path)} | {worker, child}
    groups = {os.getpgid(pid) for pid in pids}
    assert len(pids) == 4
    process.kill()
    process.communicate()
    wait_for(lambda: not any(alive(pid) for pid in pids), 10)
    members = [int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit()]
    left = [pid for pid in members if alive(pid) and _group(pid) in groups]
    assert left == [], "watchdogs are gone too"
    assert running(tmp_path) == set()


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def test_a_killed_run_goes_on(fakes: ModuleType, tmp_path: Path) -> None:
    wanted = [f"done:{n}:0.05" for n in range(8)]
    process = launch(tmp_path, 1, *wanted)
    wait_for(lambda: len(started(fakes, tmp_path)) >= 3)
    process.kill()
    process.communicate()
    ready = {path.stem for path in (tmp_path / "records").glob("*.json")}
    assert 2 <= len(ready) < 8
    before = {path.name: path.read_bytes() for path in (tmp_path / "records").glob("*.json")}
    process = launch(tmp_path, 2, *wanted)
    process.communicate(timeout=60)
    assert process.returncode == 0
    again = started(fakes, tmp_path)
    assert all(again.count(i) == 1 for i in ready), "what was done was not done again"
    assert all((tmp_path / "records" / name).read_bytes() == data for name, data in before.items())
    remove_stale_files(tmp_path, older_than=0.0)  # the killed cell may have left a half-written file
    assert len(list((tmp_path / "records").iterdir())) == 8
