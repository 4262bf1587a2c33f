"""One damaged thing costs one thing: no reader waits for a pipe, and no finished record is lost."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchbd.core.cell_log import CellLog
from benchbd.core.files import NotAFile, open_plain, read_plain
from benchbd.core.locks import FileLock, lock_state
from benchbd.plan.cell import Cell, identity
from benchbd.storage import records, results_file
from benchbd.storage.artifacts import Store
from benchbd.storage.record_file import Unusable

KEY = "ab" * 32


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def _full_folder(path: Path) -> None:
    path.mkdir()
    (path / "mine").write_text("mine")


IN_PLACE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pipe": (os.mkfifo, "it is a pipe, not a file"),
    "socket": (_socket, "it is a socket, not a file"),
    "folder": (_full_folder, "it is a folder, not a file"),
    "link": (lambda path: path.symlink_to("/etc/passwd"), "it is a symbolic link, not a file"),
    "dangling": (lambda path: path.symlink_to("nowhere"), "it is a symbolic link, not a file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is a symbolic link, not a file"),
}


@pytest.fixture(params=IN_PLACE)
def put_in_place(request: pytest.FixtureRequest) -> tuple[Callable[[Path], Any], str]:
    return IN_PLACE[request.param]


def finished(cell: Cell, **fields: Any) -> dict[str, Any]:
    return records.blank(cell, "done") | {"ca": 0.9, "asr": 0.1} | fields


def test_nothing_but_a_file_is_opened_and_nothing_is_waited_for(tmp_path: Path, put_in_place: Any) -> None:
    make, reason = put_in_place
    make(tmp_path / "x")
    for use in (open_plain, read_plain):
        with pytest.raises(NotAFile, match=reason):
            use(tmp_path / "x")
    assert lock_state(tmp_path / "x") == "none"


def test_a_device_is_not_read() -> None:
    with pytest.raises(NotAFile, match="it is a device, not a file"):
        read_plain("/dev/zero")


def test_logs_and_locks_take_the_place_of_what_is_no_file(tmp_path: Path, put_in_place: Any) -> None:
    make, _ = put_in_place
    make(tmp_path / "log")
    CellLog(tmp_path / "log").close()
    assert read_plain(tmp_path / "log") == b""
    make(tmp_path / "lock")
    lock = FileLock(tmp_path / "lock")
    lock.take()
    assert lock_state(tmp_path / "lock") == "held"
    lock.release()
    moved = [path for path in tmp_path.iterdir() if ".damaged-" in path.name]
    assert all((path / "mine").read_text() == "mine" for path in moved), "a full folder is not deleted"


def test_a_record_takes_the_place_of_what_is_none_which_is_kept(cell: Cell, tmp_path: Path, put_in_place: Any) -> None:
    make, reason = put_in_place
    path = records.record_path(tmp_path, cell.id)
    path.parent.mkdir()
    make(path)
    before = path.lstat()
    found, problem = records.look_up(tmp_path, cell.id)
    assert found is None
    assert problem is not None
    assert reason in str(problem)
    assert not problem.unreadable
    skipped: list[Unusable] = []
    assert results_file.load(tmp_path, identity, skipped.append) == []
    assert [(p.where, p.reason) for p in skipped] == [(problem.where, problem.reason)]
    assert records.write_record(tmp_path, finished(cell))
    assert records.read_record(tmp_path, cell.id) == finished(cell)
    (kept,) = (tmp_path / "damaged").iterdir()
    assert os.path.samestat(kept.lstat(), before)


@pytest.mark.parametrize("wrong", [{"ca": 1.7}, {"ca": None}, {"asr": -3}, {"time": {"total": -5.0, "stages": {}}}])
def test_impossible_numbers_are_no_result_and_are_kept_aside(cell: Cell, tmp_path: Path, wrong: dict[str, Any]) -> None:
    records.write_record(tmp_path, finished(cell))
    path = records.record_path(tmp_path, cell.id)
    text = json.dumps(finished(cell, **wrong))
    path.write_text(text)
    assert records.read_record(tmp_path, cell.id) is None
    assert records.write_record(tmp_path, records.blank(cell, "failed", "why"))
    assert [kept.read_text() for kept in (tmp_path / "damaged").iterdir()] == [text]


def test_a_rerun_without_a_result_never_replaces_one(cell: Cell, tmp_path: Path) -> None:
    records.write_record(tmp_path, finished(cell))
    before = records.record_path(tmp_path, cell.id).read_bytes()
    for status in ("failed", "oom", "timeout", "killed", "cancelled", "lost", "diverged", "skipped"):
        assert not records.write_record(tmp_path, records.blank(cell, status, "why"))
        assert records.record_path(tmp_path, cell.id).read_bytes() == before
        last = records.last_attempt(tmp_path, cell.id)
        assert last is not None
        assert last["status"] == status
        assert records.failed_reruns(tmp_path) == {cell.id}
    assert records.write_record(tmp_path, finished(cell, ca=0.8))
    assert records.last_attempt(tmp_path, cell.id) == finished(cell, ca=0.8)
    assert records.failed_reruns(tmp_path) == set()


@pytest.mark.parametrize("closed", [False, True])
def test_a_folder_in_place_of_a_failed_rerun_costs_no_result(cell: Cell, tmp_path: Path, closed: bool) -> None:
    (tmp_path / "failed_reruns" / f"{cell.id}.json" / "inside").mkdir(parents=True)
    if closed:
        (tmp_path / "damaged").write_text("a file")
    assert records.write_record(tmp_path, finished(cell))
    assert records.read_record(tmp_path, cell.id) == finished(cell)
    assert records.failed_reruns(tmp_path) == ({cell.id} if closed else set())
    assert records.failed_rerun(tmp_path, cell.id) is None


def test_a_record_that_cannot_be_read_is_not_replaced(
    cell: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.write_record(tmp_path, finished(cell))
    path = records.record_path(tmp_path, cell.id)

    def refuse(*_: Any) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("benchbd.storage.record_file.read_plain", refuse)
        found, problem = records.look_up(tmp_path, cell.id)
        assert found is None
        assert problem is not None
        assert problem.unreadable
        for record in (records.blank(cell, "failed"), finished(cell, ca=0.5)):
            with pytest.raises(OSError, match="is not replaced"):
                records.write_record(tmp_path, record)
    assert records.read_record(tmp_path, cell.id) == finished(cell)
    assert not (tmp_path / "damaged").exists()


def test_the_record_of_another_cell_is_not_this_one(cell: Cell, tmp_path: Path) -> None:
    records.write_record(tmp_path, finished(cell))
    (tmp_path / "records" / f"{cell.id} (copy).json").write_bytes(records.record_path(tmp_path, cell.id).read_bytes())
    skipped: list[Unusable] = []
    assert len(results_file.load(tmp_path, identity, skipped.append)) == 1
    assert "is the record of another cell" in skipped[0].reason


ODD_TEXT = os.fsdecode(b"caf\xe9.png")


def test_odd_text_is_escaped_when_a_record_is_written_but_not_in_what_names_the_cell(
    cell: Cell, tmp_path: Path
) -> None:
    notes = {"file": ODD_TEXT, "\ud800": ["\0", "a\u202eb", "tab\tline\nword", "\N{NO-BREAK SPACE}é"]}
    records.write_record(tmp_path, finished(cell, notes=notes, error="\x1b[31m", label="a\x1bb"))
    read = records.read_record(tmp_path, cell.id)
    assert read is not None
    odd = ["\\x00", "a\\u202eb", "tab\tline\nword", "\N{NO-BREAK SPACE}é"]
    assert read["notes"] == {"file": "caf\\udce9.png", "\\ud800": odd}
    assert (read["error"], read["label"]) == ("\\x1b[31m", "a\x1bb")


def test_notes_that_no_file_holds_do_not_cost_the_cell(cell: Cell, tmp_path: Path) -> None:
    deep: list[Any] = []
    for _ in range(5_000):
        deep = [deep]
    records.write_record(tmp_path, finished(cell, notes={"deep": deep, "long": 10**6_000, "good": 1}))
    read = records.read_record(tmp_path, cell.id)
    assert read is not None
    assert read["notes"]["good"] == 1
    assert "too large to print" in read["notes"]["long"]


def test_a_results_file_holds_what_old_records_hold(cell: Cell, tmp_path: Path) -> None:
    records.write_record(tmp_path, finished(cell))
    path = records.record_path(tmp_path, cell.id)
    notes = {"file": ODD_TEXT, "line": "a\u2028b\x85c", "huge": math.inf}
    path.write_text(json.dumps(finished(cell, notes=notes)).replace("Infinity", "1e999"))
    results_file.write(results_file.load(tmp_path, identity), tmp_path / "r.jsonl")
    (read,) = results_file.load(tmp_path / "r.jsonl", identity)
    assert read["notes"] == {**notes, "huge": None}
    (tmp_path / "r.jsonl").write_bytes(b"\xff\n" + (tmp_path / "r.jsonl").read_bytes() + b"{\n")
    skipped: list[Unusable] = []
    assert results_file.load(tmp_path / "r.jsonl", identity, skipped.append) == [read]
    assert [p.where.rpartition(", ")[2] for p in skipped] == ["line 1", "line 3"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, kind) for name in ("meta.json", "arrays.safetensors", "") for kind in IN_PLACE),
        *((name, kind) for name in ("..", "../..") for kind in ("pipe", "socket")),  # links are refused
    ],
)
def test_what_is_no_file_in_the_store_is_rebuilt(store: Store, name: str, kind: str) -> None:
    make, _ = IN_PLACE[kind]
    arrays = {"x": np.arange(3)}
    store.put("model", KEY, arrays, {})
    place = Path(os.path.normpath(store.path("model", KEY) / name))
    if place.is_dir():
        place.rename(place.with_name("elsewhere"))
    else:
        place.unlink()
    make(place)
    found, computed = store.memo("model", KEY, lambda: (arrays, {}))
    assert computed
    assert found.arrays["x"].tolist() == [0, 1, 2]
    assert store.get("model", KEY) is not None


@pytest.mark.parametrize("name", ["tmp", "locks"])
def test_what_is_no_folder_in_the_store_is_replaced(store: Store, name: str) -> None:
    store.root.mkdir()
    os.mkfifo(store.root / name)
    _, computed = store.memo("model", KEY, lambda: ({"x": np.arange(3)}, {}))
    assert computed
    assert (store.root / name).is_dir()


@pytest.mark.timeout(60)
def test_a_pipe_among_half_written_artifacts_is_not_waited_for(store: Store) -> None:
    (store.root / "tmp").mkdir(parents=True)
    os.mkfifo(store.root / "tmp" / f"model-{KEY[:32]}-1")
    assert store.memo("model", KEY, lambda: ({"x": np.arange(3)}, {}))[1]


def test_a_pipe_in_place_of_a_lock_is_replaced(store: Store) -> None:
    (store.root / "locks").mkdir(parents=True)
    os.mkfifo(store.root / "locks" / f"model-{KEY}.lock")
    assert store.memo("model", KEY, lambda: ({"x": np.arange(3)}, {}))[1]
