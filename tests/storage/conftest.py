"""A store on a quick disk, and what it said."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchbd.storage.artifacts import Store


@pytest.fixture(autouse=True)
def _quick(quick_disk: None) -> None: ...


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", said.append)
