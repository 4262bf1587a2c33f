"""What crosses to another machine: data, all of it, and nothing of this one."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from benchbd.plugins import registry
from benchbd.run.cluster.remote import order_of, run_order
from benchbd.run.executor import Job
from benchbd.run.settings import RunSettings
from benchbd.storage.records import read_record


def test_a_cell_crosses_as_json_and_its_plugins_as_text(
    fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = fakes.cell(n=1)
    settings = RunSettings(
        output=tmp_path / "there", plugins=(str(fakes.PLUGIN),), execute=fakes.EXECUTE, device="cpu", timeout=60.0
    )
    order = order_of(Job(cell.id, cell.label, cell.to_json()), settings, ship_plugins=True)
    text = json.dumps(order)
    assert json.loads(text) == order, "no object of Python's is in it"
    assert str(fakes.PLUGIN) not in text, "nor a path that the other machine may not have"
    registry.forget_plugin_file(str(fakes.PLUGIN))
    result = run_order(json.loads(text))
    assert result["status"] == "done"
    assert result["record"] == read_record(tmp_path / "there", cell.id)
    assert result["record"]["spec"] == cell.spec()
