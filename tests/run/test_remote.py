"""What crosses to another machine: data, all of it, and nothing of this one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchbd import testing
from benchbd.core.paths import FILES_VARIABLE
from benchbd.errors import UsageError
from benchbd.plugins import registry
from benchbd.run.cluster.remote import order_of, run_order
from benchbd.run.cluster.sent_files import own_files
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


def test_plugins_of_one_file_name_cross_with_the_helpers_beside_each(
    fakes: ModuleType, tmp_path: Path, plugin_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = """
    from ._helper import POWER

    @attack("NAME", version=1)
    class Helped(Attack):
        power: int = POWER
    """
    for name, power in (("one", 1), ("two", 2)):
        plugin_file(f"POWER = {power}\n", f"{name}/_helper.py")
        plugin_file(text.replace("NAME", name), f"{name}/mine.py")
    settings = RunSettings(output=tmp_path, plugins=tuple(str(tmp_path / n / "mine.py") for n in ("one", "two")))
    cell = fakes.cell()
    order = json.loads(json.dumps(order_of(Job(cell.id, cell.label, cell.to_json()), settings, ship_plugins=True)))
    for name in ("one", "two"):
        shutil.rmtree(tmp_path / name)

    def run(order: dict[str, Any], plugins: list[str]) -> dict[str, Any]:
        for path in plugins:
            registry.add_plugin_file(path)
        return {name: registry.make("attacks", name).params()["power"] for name in ("one", "two")}

    monkeypatch.setattr("benchbd.run.cluster.remote._run", run)
    assert run_order(order) == {"one": 1, "two": 2}


def test_the_bytes_of_a_plugin_and_its_helpers_cross_unchanged(
    fakes: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"# -*- coding: latin-1 -*-\n"
    given = {"mine.py": head + b"from ._helper import NAME\n", "_helper.py": head + b"NAME = '\xe9'\n"}
    for name, source in given.items():
        (tmp_path / name).write_bytes(source)
    settings, cell = RunSettings(output=tmp_path, plugins=(str(tmp_path / "mine.py"),)), fakes.cell()
    order = json.loads(json.dumps(order_of(Job(cell.id, cell.label, cell.to_json()), settings, ship_plugins=True)))

    def run(order: dict[str, Any], plugins: list[str]) -> dict[str, Any]:
        return {path.name: path.read_bytes() for path in Path(plugins[0]).parent.iterdir()}

    monkeypatch.setattr("benchbd.run.cluster.remote._run", run)
    assert run_order(order) == given


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training program of two files beside a matrix, one of them executable."""
    folder = tmp_path / "mine"
    (folder / "code" / "sub").mkdir(parents=True)
    (folder / "train.sh").write_text("#!/bin/sh")
    (folder / "train.sh").chmod(0o755)
    (folder / "code" / "sub" / "é.py").write_text("1")
    (folder / "not mine.txt").write_text("stays here")
    monkeypatch.setenv(FILES_VARIABLE, str(folder))
    return folder


COMMAND = "command(run='./train.sh', files=['train.sh', 'code'])"


def test_the_files_of_a_program_cross_with_it(fakes: ModuleType, tmp_path: Path, program: Path) -> None:
    own = own_files(testing.cell(defense=COMMAND))
    assert own is not None
    files = own.read()
    assert [(name, mode) for name, mode, _ in files] == [("code/sub/é.py", 0o644), ("train.sh", 0o755)]
    cell = fakes.cell("files")
    settings = RunSettings(
        output=tmp_path / "there", plugins=(str(fakes.PLUGIN),), execute=fakes.EXECUTE, device="cpu", timeout=60.0
    )
    order = order_of(Job(cell.id, cell.label, cell.to_json()), settings, ship_plugins=True, own=own)
    assert str(program) not in json.dumps(order)
    shutil.rmtree(program)
    registry.forget_plugin_file(str(fakes.PLUGIN))
    result = run_order(order, files)
    assert result["status"] == "done", result["reason"]
    assert result["record"]["notes"]["files"] == {"code/sub/é.py": "1", "train.sh": "#!/bin/sh"}
    assert not Path(result["record"]["notes"]["place"]).exists()
    for damaged in (files[:1], [(name, mode, content + b" ") for name, mode, content in files]):
        result = run_order(order, damaged)
        assert (result["status"], result["record"]) == ("failed", None)
        assert result["reason"] == "the files of the defense did not arrive as they were sent (their hashes differ)"


def test_files_that_change_or_go_while_they_are_sent_are_one_line(program: Path) -> None:
    cell = testing.cell(defense=COMMAND)
    own = own_files(cell)
    assert own is not None
    (program / "train.sh").write_text("#!/bin/bash")
    with pytest.raises(UsageError, match="a file of the program changed while it was sent"):
        own.read()
    (program / "train.sh").unlink()
    with pytest.raises(UsageError, match=r"train.sh cannot be read \(No such file"):
        own.read()
    with pytest.raises(UsageError, match=r"files: 'train.sh' is not in"):
        own_files(cell)
    assert own_files(testing.cell(defense="none")) is None


def test_a_shared_file_system_has_the_files_where_they_are(fakes: ModuleType, tmp_path: Path, program: Path) -> None:
    cell = fakes.cell("files")
    settings = RunSettings(output=tmp_path / "out", plugins=(str(fakes.PLUGIN),), execute=fakes.EXECUTE, device="cpu")
    order = order_of(Job(cell.id, cell.label, cell.to_json()), settings)
    with pytest.MonkeyPatch.context() as other:  # the environment of a task need not be the user's
        other.delenv(FILES_VARIABLE)
        assert run_order(order)["record"]["notes"]["place"] == str(program)
