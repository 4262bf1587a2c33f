"""A folder with a good matrix in it, and a command that must be refused in one line."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from good_matrix import GOOD

from benchbd.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_registry: None) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHBD_DATA", raising=False)
    (tmp_path / "good.yaml").write_text(GOOD)
    return tmp_path


@pytest.fixture
def refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    writes_nothing_outside: Callable[[Path], AbstractContextManager[None]],
) -> Callable[..., str]:
    """Run a command that must be refused; return its one line."""

    def never(*_: Any) -> None:
        raise AssertionError("a run was started")

    monkeypatch.setattr("benchbd.run.run_cells", never)

    def run(*words: str) -> str:
        before = sorted(folder.rglob("*"))
        began = time.process_time()
        with writes_nothing_outside(folder):
            code = main(words)
        out, err = capsys.readouterr()
        assert code == 2, err
        assert out == ""
        assert err.startswith("benchbd: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        assert err[:-1].isprintable()
        assert len(err) < 1_100
        assert time.process_time() - began < 3, "a refusal must be quick"
        assert sorted(folder.rglob("*")) == before
        return err.removeprefix("benchbd: ").rstrip("\n")

    return run
