"""Cells in this very process."""

from __future__ import annotations

import os
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
