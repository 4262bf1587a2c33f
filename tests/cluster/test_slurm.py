"""The Slurm executor on a real one-node Slurm without accounting."""

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
from typing import Any

import pytest
from ancestors import ancestor
from waiting import wait_for

from benchbd.errors import BenchbdError, UsageError
from benchbd.plan.cell import Cell
from benchbd.run import Outcome, RunSettings, run_cells
from benchbd.run.display.base import NoDisplay
from benchbd.run.display.plain import PlainDisplay
from benchbd.storage import records

pytestmark = pytest.mark.usefixtures("slurm")
Go = Callable[..., Outcome]


@pytest.fixture
def go(fakes: ModuleType, tmp_path: Path) -> Go:
    """Run fake cells through Slurm."""

    def run(cells: list[Cell], **changes: Any) -> Outcome:
        given = {"output": tmp_path, "plugins": (str(fakes.PLUGIN),), "execute": fakes.EXECUTE, "device": "cpu"}
        given |= {"executor": "slurm", "executor_config": {"poll": 0.5}}
        display = changes.pop("display", NoDisplay())
        return run_cells(cells, RunSettings(**{**given, **changes}), display)

    return run


def queue() -> dict[str, str]:
    said = subprocess.run(["squeue", "-h", "-r", "-o", "%i %T"], capture_output=True, text=True, check=True).stdout
    return dict(line.split() for line in said.splitlines())


def started(fakes: ModuleType, output: Path, cell: Cell) -> list[int]:
    return [row[3] for row in fakes.read_trace(output) if row[1:3] == ("start", cell.id)]


def test_every_end_is_noticed_and_a_second_run_is_complete(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    good, bad, crash = fakes.cell(n=1), fakes.cell("raise"), fakes.cell("segfault")
    killed, cancelled = fakes.cell("until-1-hang", 1), fakes.cell("until-1-hang", 2)

    def interfere() -> None:
        # The whole task is killed, not just the worker in it: nobody is left there to write a record.
        (worker,) = wait_for(lambda: started(fakes, tmp_path, killed))
        os.kill(ancestor(worker, "submitit.core._submit"), signal.SIGKILL)
        wait_for(lambda: started(fakes, tmp_path, cancelled))
        tasks = json.loads((tmp_path / "slurm" / "jobs.json").read_text())
        subprocess.run(["scancel", tasks[cancelled.id]], check=True)

    thread = threading.Thread(target=interfere)
    thread.start()
    outcome = go([good, bad, crash, killed, cancelled])
    thread.join()
    assert outcome.statuses == {
        good.id: "done",
        bad.id: "failed",
        crash.id: "failed",
        killed.id: "killed",
        cancelled.id: "cancelled",
    }
    assert outcome.reasons[crash.id] == "the cell's process crashed with SIGSEGV"
    assert "signal 9" in outcome.reasons[killed.id]
    assert records.read_record(tmp_path, killed.id)["status"] == "killed"
    again = go([good, bad, crash, killed, cancelled])
    assert sorted(again.ran) == sorted([killed.id, cancelled.id])
    assert again.counts == {"done": 3, "failed": 2}
    assert wait_for(lambda: not queue())


def test_timeout_is_kept_by_the_task(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    hung = fakes.cell("hang")
    outcome = go([hung], timeout=5.0)
    assert outcome.statuses == {hung.id: "timeout"}
    assert outcome.reasons[hung.id] == "no result after 5s (--timeout)"


def test_shared_stages_come_first(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    shared = [fakes.cell(n=n, seconds=0.5, shared="teacher") for n in range(3)]
    assert go(shared).counts == {"done": 3}
    rows = {(word, cell_id): at for at, word, cell_id, _ in fakes.read_trace(tmp_path)}
    first = min(shared, key=lambda c: rows["start", c.id])
    assert all(rows["start", c.id] >= rows["end", first.id] for c in shared if c is not first)


def test_a_killed_run_is_reattached(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    cell = fakes.cell(n=1, seconds=8.0)
    code = "import sys, json; from pathlib import Path; import run_fakes as f; from benchbd.run import *; "
    code += "from benchbd.run.display.plain import PlainDisplay; c = f.cell(n=1, seconds=8.0); "
    code += "run_cells([c], RunSettings(output=Path(sys.argv[1]), plugins=(str(f.PLUGIN),), execute=f.EXECUTE, "
    code += "device='cpu', executor='slurm', executor_config={'poll': 0.5}), PlainDisplay())"
    run = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE)
    wait_for(lambda: started(fakes, tmp_path, cell))
    run.kill()
    run.communicate()
    lines: list[str] = []
    outcome = go([cell], display=PlainDisplay(lines.append))
    assert outcome.counts == {"done": 1}
    assert len(started(fakes, tmp_path, cell)) == 1, "it was not submitted twice"
    assert any("found in the queue as Slurm task" in line for line in lines)


def test_sigterm_leaves_the_jobs_and_ctrl_c_takes_back_what_waits(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    cells = [fakes.cell(n=n, seconds=3.0) for n in range(5)]
    timer = threading.Thread(target=lambda: _signal_when(fakes, tmp_path, signal.SIGTERM))
    timer.start()
    outcome = go(cells)
    timer.join()
    assert outcome.exit_code == 130
    assert "the same command finds them again" in str(outcome.interrupted)
    assert queue()
    (tmp_path / "trace").write_text("")
    timer = threading.Thread(target=lambda: _signal_when(fakes, tmp_path, signal.SIGINT, "end"))
    timer.start()
    outcome = go(cells)
    timer.join()
    assert outcome.exit_code == 130
    assert 1 <= outcome.counts["done"] < 5
    rows = [row[1:3] for row in fakes.read_trace(tmp_path)]
    assert {i for word, i in rows if word == "start"} <= {i for word, i in rows if word == "end"}, (
        "none was left running"
    )
    # A task that has written its record is over for the run, and still in the queue until its process has ended.
    assert "PENDING" not in queue().values()
    wait_for(lambda: not queue())
    assert go(cells).counts == {"done": 5}


def _signal_when(fakes: ModuleType, output: Path, number: int, word: str = "start") -> None:
    wait_for(lambda: [row for row in fakes.read_trace(output) if row[1] == word])
    time.sleep(0.3)
    os.kill(os.getpid(), number)


def test_settings_reach_slurm_and_bad_ones_get_one_line(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    config = {"poll": 0.5, "cpus_per_task": 2, "mem_gb": 0.5, "timeout_min": 7, "gpus_per_node": 1}
    assert go([fakes.cell(n=1), fakes.cell(n=3)], executor_config=config).counts == {"done": 2}
    script = next((tmp_path / "slurm").glob("*/*submission.sh")).read_text()
    for flag in ("--cpus-per-task=2", "--time=7", "--gpus-per-node=1", "--requeue", "--job-name=benchbd", "--array="):
        assert flag in script, flag
    with pytest.raises(UsageError, match="unknown key 'partion'; did you mean 'partition'"):
        go([fakes.cell(n=2)], executor_config={"partion": "x"})
    with pytest.raises(BenchbdError, match=r"sbatch refused the jobs: .*partition"):
        go([fakes.cell(n=2)], executor_config={"partition": "nowhere"})


def test_a_requeued_task_begins_again(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    """What preemption does where PreemptMode is REQUEUE."""
    cell = fakes.cell("until-1-hang")

    def requeue() -> None:
        wait_for(lambda: started(fakes, tmp_path, cell))
        task = json.loads((tmp_path / "slurm" / "jobs.json").read_text())[cell.id]
        subprocess.run(["scontrol", "requeue", task], check=True)
        wait_for(lambda: queue().get(task) == "PENDING")
        # Slurm lets a requeued task rest for two minutes, in which the node clears away what the first start left:
        # begun before that is done, the task would not find its script.
        wait_for(lambda: subprocess.check_output(["sinfo", "-h", "-o", "%T"], text=True).split() == ["idle"])
        time.sleep(2)
        subprocess.run(["scontrol", "update", f"JobId={task}", "StartTime=now"], check=True)

    thread = threading.Thread(target=requeue)
    thread.start()
    outcome = go([cell])
    thread.join()
    assert outcome.statuses == {cell.id: "done"}
    assert len(started(fakes, tmp_path, cell)) == 2
