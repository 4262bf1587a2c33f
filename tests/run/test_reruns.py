"""Reruns and damaged records: a finished result is never lost, and one damaged record costs one cell."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchbd.cli import main
from benchbd.plan.cell import Cell
from benchbd.run import Outcome
from benchbd.storage import records

Go = Callable[..., Outcome]


def finished(cell: Cell, **fields: Any) -> dict[str, Any]:
    return records.blank(cell, "done") | {"ca": 0.75, "asr": 0.1} | fields


@pytest.mark.parametrize("executor", ["local", "inline"])
@pytest.mark.parametrize(("do", "status"), [("raise", "failed"), ("oom", "oom"), ("diverged", "diverged")])
def test_a_failed_rerun_leaves_the_result_and_says_so(
    fakes: ModuleType, go: Go, tmp_path: Path, executor: str, do: str, status: str
) -> None:
    cell, other = fakes.cell(do), fakes.cell(n=2)
    records.write_record(tmp_path, finished(cell))
    before = records.record_path(tmp_path, cell.id).read_bytes()
    outcome = go([cell, other], executor=executor, rerun="all", jobs=1)
    assert outcome.statuses == {cell.id: status, other.id: "done"}
    assert outcome.reasons[cell.id].endswith("; the earlier result stays")
    assert outcome.exit_code == 1
    assert records.record_path(tmp_path, cell.id).read_bytes() == before
    last = records.failed_rerun(tmp_path, cell.id)
    assert last is not None
    assert (last["status"], last["attempts"]) == (status, 1)
    assert go([cell, other], executor=executor).exit_code == 0, "the result counts"
    again = go([cell, other], executor=executor, rerun="failed")
    assert again.ran == [cell.id]
    assert again.statuses[cell.id] == status


@pytest.mark.parametrize(("do", "status"), [("kill", "killed"), ("hang", "timeout")])
def test_a_killed_rerun_leaves_the_result(fakes: ModuleType, go: Go, tmp_path: Path, do: str, status: str) -> None:
    cell = fakes.cell(do)
    records.write_record(tmp_path, finished(cell))
    outcome = go([cell], rerun="all", timeout=1.0)
    assert outcome.statuses == {cell.id: status}
    assert records.read_record(tmp_path, cell.id) == finished(cell)
    assert records.failed_reruns(tmp_path) == {cell.id}


def test_a_rerun_that_fails_once_and_then_works_replaces_the_result(fakes: ModuleType, go: Go, tmp_path: Path) -> None:
    cell = fakes.cell("until-1-raise")
    records.write_record(tmp_path, finished(cell))
    assert go([cell], rerun="all", retries=1).counts == {"done": 1}
    record = records.read_record(tmp_path, cell.id)
    assert record is not None
    assert record["ca"] == 0.9
    assert records.failed_reruns(tmp_path) == set()


def test_a_record_that_cannot_be_read_costs_its_cell_alone(
    fakes: ModuleType, go: Go, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell, other = fakes.cell("raise"), fakes.cell(n=2)
    records.write_record(tmp_path, finished(cell))
    path = records.record_path(tmp_path, cell.id)
    from benchbd.core.files import read_plain

    def refuse(name: Any, *more: Any) -> bytes:
        if str(name) == str(path):
            raise PermissionError(13, "Permission denied", str(name))
        return read_plain(name, *more)

    with monkeypatch.context() as patch:
        patch.setattr("benchbd.storage.record_file.read_plain", refuse)
        for rerun in (None, "all"):
            outcome = go([cell, other], rerun=rerun, executor="inline")
            assert outcome.statuses == {cell.id: "unreadable", other.id: "done"}
            why = "its record cannot be read (Permission denied); check its permissions and the disk"
            assert outcome.reasons == {cell.id: why}
            assert outcome.exit_code == 1
    assert records.read_record(tmp_path, cell.id) == finished(cell)


def _status(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    assert main(["status", *words, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out), err


def test_status_and_plan_tell_a_failed_rerun_and_a_damaged_record(
    toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from toy_matrices import ONE_CELL

    from benchbd.plan import matrix

    monkeypatch.chdir(tmp_path)
    Path("m.yaml").write_text(ONE_CELL)
    (cell,) = matrix.load("m.yaml").cells
    output = Path("out")
    records.write_record(output, finished(cell))
    records.write_record(output, records.blank(cell, "timeout", "no result after 1h"))
    found, err = _status(["m.yaml", "--output", "out"], capsys)
    assert found["counts"] == {"done": 1}
    assert found["cells"][0]["error"] == (
        "the last rerun ended as timeout: no result after 1h; the earlier result stays"
    )
    assert err == ""
    assert main(["show", cell.id, "--output", "out"]) == 0
    assert "timeout: no result after 1h; the earlier result stays" in capsys.readouterr().out
    path = records.record_path(output, cell.id)
    path.unlink()
    os.mkfifo(path)
    found, err = _status(["m.yaml", "--output", "out"], capsys)
    assert found["counts"] == {"damaged": 1}
    reason = "a record must be a plain file; it is a pipe, not a file; benchbd run runs its cell again"
    assert err == f"benchbd: {path}: {reason}\n"
    assert main(["plan", "m.yaml", "--output", "out"]) == 0
    out, again = capsys.readouterr()
    assert "(1 damaged)" in out
    assert again == err
