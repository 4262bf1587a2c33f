"""The Ray executor on a local Ray with two declared GPUs."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ancestors import ancestor
from training_programs import SAVE, TINY_NET

from benchbd import testing
from benchbd.core.contents import contents_digest
from benchbd.core.paths import FILES_VARIABLE
from benchbd.errors import UsageError
from benchbd.plan.cell import Cell
from benchbd.run import Outcome, RunSettings, run_cells
from benchbd.run.display.base import NoDisplay
from benchbd.storage import records
from benchbd.testing.plugin_under_test import PLUGINS

pytestmark = pytest.mark.usefixtures("ray")
Go = Callable[..., Outcome]


@pytest.fixture
def go(fakes: ModuleType, tmp_path: Path) -> Go:
    """Run fake cells through Ray."""

    def run(cells: list[Cell], **changes: Any) -> Outcome:
        given = {"output": tmp_path, "plugins": (str(fakes.PLUGIN),), "execute": fakes.EXECUTE, "executor": "ray"}
        return run_cells(cells, RunSettings(**{**given, **changes}), NoDisplay())

    return run


def test_every_end_comes_back(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    good, bad, crash = fakes.cell(n=1), fakes.cell("raise"), fakes.cell("segfault")
    outcome = go([good, bad, crash])
    assert outcome.statuses == {good.id: "done", bad.id: "failed", crash.id: "failed"}
    assert outcome.reasons[crash.id] == "the cell's process crashed with SIGSEGV"
    assert "Segmentation fault" in (tmp_path / "logs" / f"{crash.id}.log").read_text()
    assert go([good, bad, crash]).ran == []


def test_records_and_logs_come_home_without_a_shared_folder(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    cell, bad = fakes.cell("talk"), fakes.cell("raise")
    outcome = go([cell, bad], output=tmp_path / "here", executor_config={"output": str(tmp_path / "there")})
    assert outcome.counts == {"done": 1, "failed": 1}
    assert records.read_record(tmp_path / "here", cell.id)["status"] == "done"
    assert records.read_record(tmp_path / "here", bad.id)["status"] == "failed"
    assert "said on stdout" in (tmp_path / "here" / "logs" / f"{cell.id}.log").read_text()


def test_a_killed_ray_worker_costs_its_cell_only(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    hung, good = fakes.cell("until-1-hang"), fakes.cell(n=1)

    def kill() -> None:
        deadline = time.monotonic() + 120
        while not (rows := [r for r in fakes.read_trace(tmp_path) if r[1:3] == ("start", hung.id)]):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(ancestor(rows[0][3], "ray::"), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    outcome = go([hung, good])
    thread.join()
    assert outcome.statuses == {hung.id: "killed", good.id: "done"}
    assert outcome.reasons[hung.id] == "the Ray worker died; it may have been killed"
    ours = [r[3] for r in fakes.read_trace(tmp_path)]
    deadline = time.monotonic() + 30  # it notices the death a moment later than Ray does
    while any(_alive(pid) for pid in ours) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in ours), "our worker died with it"
    assert go([hung, good]).counts == {"done": 2}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_rooms_are_counted(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    assert go([fakes.cell("meet-2", n) for n in range(2)]).counts == {"done": 2}
    with pytest.raises(UsageError, match="a cell needs 64 CPUs and 1 GPUs; the cluster has 2 CPUs and 2 GPUs"):
        go([fakes.cell(n=5)], executor_config={"num_cpus": 64})
    with pytest.raises(UsageError, match="unknown key 'num_gpu'; did you mean 'num_gpus'"):
        go([fakes.cell(n=5)], executor_config={"num_gpu": 1})


def test_fractions_of_a_gpu_are_shared_and_who_runs_out_of_memory_there_gets_one_alone(
    fakes: ModuleType, go: Go, tmp_path: Path
) -> None:
    config = {"num_gpus": 0.5, "num_cpus": 0.25}
    together = [fakes.cell("meet-4", n) for n in range(4)]
    assert go(together, executor_config=config).counts == {"done": 4}, "four at once on two GPUs"
    tight, hopeless = fakes.cell("until-1-oom"), fakes.cell("oom")
    outcome = go([tight, hopeless], executor_config=config)
    assert outcome.statuses == {tight.id: "done", hopeless.id: "oom"}
    starts = [row[2] for row in fakes.read_trace(tmp_path) if row[1] == "start"]
    assert [starts.count(cell.id) for cell in (tight, hopeless)] == [2, 2]


def test_the_files_of_a_program_reach_the_machine_that_runs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, there = tmp_path / "mine", tmp_path / "there"
    (mine / "code").mkdir(parents=True)
    (mine / "train.py").write_text(
        TINY_NET + "import sys, os; sys.path.append('code'); import saving; print(os.getcwd())"
    )
    (mine / "code" / "saving.py").write_text("from __main__ import save_file, state" + SAVE)
    monkeypatch.setenv(FILES_VARIABLE, str(mine))
    spec = "command(run='python train.py', files=['train.py', 'code'])"
    cell, gone = testing.cell(defense=spec), testing.cell(defense=spec.replace("'code'", "'code', 'gone.txt'"))
    settings = RunSettings(
        output=tmp_path / "here",
        plugins=(str(PLUGINS),),
        executor="ray",
        device="cpu",
        executor_config={"output": str(there), "num_gpus": 0},
    )
    outcome = run_cells([cell, gone], settings, NoDisplay())
    assert outcome.statuses == {cell.id: "done", gone.id: "failed"}, outcome.reasons
    assert "'gone.txt' is not in" in outcome.reasons[gone.id]
    record = records.read_record(tmp_path / "here", cell.id)
    assert record is not None
    assert record["data"]["defense_files"] == contents_digest([mine / "train.py", mine / "code" / "saving.py"])
    assert str(mine) not in (tmp_path / "here" / "logs" / f"{cell.id}.log").read_text()
