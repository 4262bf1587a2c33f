"""One small matrix of real trainings through every executor, broken on the way where there is a cluster.

The records are the same but for environment and time, and what a second run made after the breakage is the same too.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ancestors import parent
from waiting import wait_for

MATRIX = """
name: same
seeds: [0]
recipe: {epochs: 1, batch_size: 256}
blocks:
  - dataset: digits
    model: lenet-s
    attacks: [none, bn-g]
    defenses: [none, fine-pruning]
"""
VOLATILE = ("env", "time", "peak_memory_bytes", "trainings_computed")
"""The machine, the clock, and what depends on them: memory, and which of two cells came first to a shared training."""
LIMIT = 600
"""Seconds a run may take; it needs some twenty on two idle cores."""


def begin(folder: Path, executor: str, *words: str) -> subprocess.Popen[str]:
    """Start the matrix in a process of its own."""
    matrix = folder / "same.yaml"
    matrix.write_text(MATRIX)
    command = [sys.executable, "-m", "benchbd", "run", str(matrix), "--output", str(folder / executor)]
    command += ["--device", "cpu", "--display", "plain", "--executor", executor, *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a run to end with an exit code; what it said."""
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == code, said[-3000:]
    return said


def records(folder: Path, executor: str) -> dict[str, dict[str, Any]]:
    """Records by id."""
    found = [json.loads(path.read_text()) for path in (folder / executor / "records").glob("*.json")]
    return {record["id"]: record for record in found}


def essence(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Records without what may differ."""
    return {i: {k: v for k, v in record.items() if k not in VOLATILE} for i, record in found.items()}


def run(folder: Path, executor: str, *words: str) -> dict[str, dict[str, Any]]:
    """Run the matrix to its end; the records without what may differ."""
    end(begin(folder, executor, *words))
    return essence(records(folder, executor))


def processes(word: str) -> list[int]:
    """Processes with a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if word in text and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


def variables(pid: int) -> dict[str, str]:
    """The environment of a process; empty where it has gone."""
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(entry.partition("=")[::2] for entry in text.split("\0"))


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    found = run(tmp_path_factory.mktemp("inline"), "inline")
    assert [record["status"] for record in found.values()] == ["done"] * 4
    return found


def test_local(inline: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    assert run(tmp_path, "local", "--jobs", "2") == inline


def slurm_task(folder: Path, *, but: str = "") -> tuple[int, str, str] | None:
    """A task of ours that runs: its process, its number in the queue, its cell."""
    try:
        known = json.loads((folder / "slurm" / "slurm" / "jobs.json").read_text())
    except (OSError, ValueError):
        return None
    cells = {task: cell_id for cell_id, task in known.items()}
    for pid in processes("submitit.core._submit"):
        its = variables(pid)
        task = f"{its.get('SLURM_ARRAY_JOB_ID')}_{its.get('SLURM_ARRAY_TASK_ID')}"
        if task in cells and cells[task] != but:
            return pid, task, cells[task]
    return None


@pytest.mark.usefixtures("slurm")
def test_slurm_with_a_task_killed_and_another_cancelled(inline: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    config = ("--executor-config", "{poll: 1, timeout_min: 20}")
    process = begin(tmp_path, "slurm", *config)
    pid, _, killed = wait_for(lambda: slurm_task(tmp_path), LIMIT)
    os.kill(pid, signal.SIGKILL)
    _, task, cancelled = wait_for(lambda: slurm_task(tmp_path, but=killed), LIMIT)
    subprocess.run(["scancel", task], check=True)
    said = end(process, 1)
    first = records(tmp_path, "slurm")
    assert {i: r["status"] for i, r in first.items()} == {
        i: "killed" if i == killed else "cancelled" if i == cancelled else "done" for i in inline
    }
    assert "signal 9" in first[killed]["error"]
    assert "continue: benchbd run" in said
    assert run(tmp_path, "slurm", *config) == inline
    again = records(tmp_path, "slurm")
    assert all(again[i] == first[i] for i in inline if first[i]["status"] == "done"), "what was done stayed as it was"


def test_ray_with_a_worker_killed(inline: dict[str, dict[str, Any]], ray: Any, tmp_path: Path) -> None:
    # The two declared GPUs are asked for, one a cell, and counted by Ray; the cells compute on the CPU.
    config = ("--executor-config", f"{{address: '{ray.get_runtime_context().gcs_address}', num_gpus: 1}}")
    process = begin(tmp_path, "ray", *config)
    # Its own worker process is up, too: the cell has begun.
    (pid, *_) = wait_for(lambda: [p for p in processes("ray::benchbd digits") if _children(p)], LIMIT)
    os.kill(pid, signal.SIGKILL)
    end(process, 1)
    first = records(tmp_path, "ray")
    assert sorted(r["status"] for r in first.values()) == ["done", "done", "done", "killed"]
    assert run(tmp_path, "ray", *config) == inline
    assert all(records(tmp_path, "ray")[i] == r for i, r in first.items() if r["status"] == "done")


def _children(pid: int) -> list[int]:
    return [p for p in processes("benchbd.run.workers.worker") if parent(p) == pid]
