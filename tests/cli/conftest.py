"""A matrix of the toy plugins in a folder of its own, and what a command says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from toy_matrix_text import MATRIX

from benchbd.cli import main


@pytest.fixture
def toy_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys: Path) -> Path:
    """A matrix file in a folder of its own, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCHBD_DATA", raising=False)
    path = tmp_path / "toys.yaml"
    path.write_text(MATRIX)
    return path


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must go well and return what it printed."""

    def run(*words: str) -> str:
        code = main(words)
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    return run
