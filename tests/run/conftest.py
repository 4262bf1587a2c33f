"""What all tests of the runner share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchbd.plan.cell import Cell
from benchbd.run import Outcome, RunSettings, run_cells
from benchbd.run.display.base import NoDisplay


class Told(NoDisplay):
    """Remembers what the scheduler said."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ends: list[tuple[str, str, str]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def event(self, cell_id: str, label: str, event: dict[str, Any]) -> None:
        self.events.append((cell_id, event))

    def ended(
        self, cell_id: str, label: str, status: str, reason: str, wall: float, record: dict[str, Any] | None
    ) -> None:
        self.ends.append((cell_id, status, reason))


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def go(fakes: ModuleType, tmp_path: Path, told: Told) -> Callable[..., Outcome]:
    """Run fake cells: ``go(cells, jobs=2, ...)``."""

    def run(cells: Sequence[Cell], **settings: Any) -> Outcome:
        given = {
            "output": tmp_path,
            "plugins": (str(fakes.PLUGIN),),
            "execute": fakes.EXECUTE,
            "jobs": 2,
            "device": "cpu",
        }
        return run_cells(cells, RunSettings(**{**given, **settings}), told)

    return run
