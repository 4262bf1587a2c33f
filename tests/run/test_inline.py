"""Cells in this very process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchbd.run import Outcome
from benchbd.storage import records

Go = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Inline sets variables of this process; put them back afterwards."""
    for name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "CUDA_VISIBLE_DEVICES",
        "BENCHBD_GPU_SHARE",
        "BENCHBD_WORKERS",
        "OMP_WAIT_POLICY",
    ):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def test_inline_runs_here_and_logs(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    good, bad = fakes.cell(n=1), fakes.cell("raise-outside")
    outcome = go([good, bad], executor="inline")
    assert outcome.statuses == {good.id: "done", bad.id: "failed"}
    assert {row[3] for row in fakes.read_trace(tmp_path)} == {os.getpid()}
    assert "acting" in (tmp_path / "logs" / f"{good.id}.log").read_text()
    assert records.read_record(tmp_path, bad.id)["error"] == "RuntimeError: broken before any record"


def test_an_event_that_cannot_be_shown_ends_neither_the_run_nor_its_cell(
    fakes: ModuleType, go: Go, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told, "event", lambda *given: 1 / 0)
    for executor in ("local", "inline"):
        assert go([fakes.cell(n=1)], executor=executor, rerun="all").counts == {"done": 1}


THREADS = """
import numpy
import sklearn.cluster
import torch
from threadpoolctl import threadpool_info

from benchbd import Defense, defense


@defense("threads-in-force", version=1)
class ThreadsInForce(Defense):
    \"""Notes the threads that libraries use.\"""

    def train(self, lab):
        pools = {pool["num_threads"] for pool in threadpool_info()}
        lab.note("threads", sorted(pools | {torch.get_num_threads()}))
        return lab.train(lab.poisoned)
"""
BLOCK = "{dataset: {digits: {train: 60, test: 40}}, model: lenet-s, attacks: [bn-g], defenses: [threads-in-force]"


@pytest.mark.parametrize("order", [(1, 4), (4, 1)])
@pytest.mark.parametrize("executor", ["inline", "local"])
def test_every_library_has_the_threads_of_the_cell_in_any_order(
    tmp_path: Path, executor: str, order: tuple[int, int]
) -> None:
    (tmp_path / "p.py").write_text(THREADS)
    blocks = "".join(f"  - {BLOCK}, threads: {threads}}}\n" for threads in order)
    recipe = "recipe: {epochs: 1, batch_size: 32, augment: []}"
    (tmp_path / "m.yaml").write_text(f"name: m\nseeds: 0\n{recipe}\nblocks:\n{blocks}")
    command = [sys.executable, "-m", "benchbd", "run", "m.yaml", "--plugin", "p.py", "--output", "out", "--jobs", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command += ["--executor", executor, "--device", "cpu"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(path.read_text()) for path in (tmp_path / "out" / "records").glob("*.json")]
    assert {record["env"]["threads"]: record["notes"]["threads"] for record in found} == {1: [1], 4: [4]}


def test_inline_timeout(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    hung, good = fakes.cell("hang"), fakes.cell(n=1)
    outcome = go([hung, good], executor="inline", timeout=0.5)
    assert outcome.statuses == {hung.id: "timeout", good.id: "done"}
    assert outcome.reasons[hung.id] == "no result after 0s (--timeout)"


def test_inline_and_local_write_the_same_records(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    cells = [fakes.cell(n=1), fakes.cell("raise"), fakes.cell("diverged")]

    def made(executor: str) -> list[dict[str, Any]]:
        go(cells, executor=executor, output=tmp_path / executor)
        found = [records.read_record(tmp_path / executor, c.id) for c in cells]
        return [{k: v for k, v in r.items() if k not in ("time", "env")} for r in found]

    assert made("inline") == made("local")
