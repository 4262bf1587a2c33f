"""A store on a disk that need not be waited for, and what it said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchbd.storage.artifacts import Store


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    """What fsync is for, a power cut, no test can bring about; without it they take a fraction of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", said.append)
