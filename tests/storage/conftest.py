"""A store on a quick disk, and what it said."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_matrices import ONE_CELL

from benchbd.plan import matrix
from benchbd.plan.cell import Cell
from benchbd.storage.artifacts import Store


@pytest.fixture(autouse=True)
def _quick(quick_disk: None) -> None: ...


@pytest.fixture
def cell(toys: Path) -> Cell:
    """The one cell of a matrix of toy plugins."""
    return matrix.resolve(matrix.parse(ONE_CELL, "m"), "m").cells[0]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def store(tmp_path: Path, said: list[str]) -> Store:
    return Store(tmp_path / "store", said.append)
