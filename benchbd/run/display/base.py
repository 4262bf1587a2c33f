"""The interface of the progress displays: none, plain lines, or a live table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from benchbd.core.events import Event
from benchbd.run.display.grid import Result
from benchbd.run.outcome import Outcome

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell


class Facts(Protocol):
    """The state of the whole matrix, as the scheduler reports it at any moment."""

    @property
    def total(self) -> int:
        """Number of cells that this run has to run."""

    @property
    def left(self) -> int:
        """Number of cells that have not ended."""

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells by status so far, including those kept from earlier runs."""

    @property
    def cells(self) -> Mapping[str, Cell]:
        """Every cell of the run by ID, those kept from earlier runs included."""

    @property
    def kept(self) -> Mapping[str, Result]:
        """Results that this run keeps, by ID. Another run may finish a cell, so the mapping grows at its end."""

    @property
    def running(self) -> Collection[str]:
        """IDs of the cells that are with the executor."""

    def eta(self) -> float | None:
        """Expected seconds until the last cell ends; None if unknown."""


class Display(Protocol):
    """Shows the progress of a run. The scheduler calls all methods from its own thread."""

    def begin(self, facts: Facts, text: str) -> None:
        """The run starts; ``text`` announces it in one line."""

    def event(self, cell_id: str, label: str, event: Event) -> None:
        """A running cell sent an event (see :mod:`benchbd.core.events`)."""

    def ended(
        self, cell_id: str, label: str, status: str, reason: str, wall: float, record: dict[str, Any] | None
    ) -> None:
        """A cell ended."""

    def note(self, text: str) -> None:
        """Show a message to the user: a retry, a replaced worker, a drain."""

    def tick(self) -> None:
        """Called a few times a second."""

    def end(self, outcome: Outcome) -> None:
        """The run is over."""


class NoDisplay:
    """Shows nothing."""

    def begin(self, facts: Facts, text: str) -> None:
        """Do nothing."""

    def event(self, cell_id: str, label: str, event: Event) -> None:
        """Do nothing."""

    def ended(
        self, cell_id: str, label: str, status: str, reason: str, wall: float, record: dict[str, Any] | None
    ) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def tick(self) -> None:
        """Do nothing."""

    def end(self, outcome: Outcome) -> None:
        """Do nothing."""


def numbers(record: dict[str, Any] | None) -> str:
    """The main metrics of a record in one line: ``CA 0.912  ASR 0.034``."""
    if not record:
        return ""
    found = [(name.upper(), record.get(name)) for name in ("ca", "asr")]
    return "  ".join(f"{name} {value:.3f}" for name, value in found if isinstance(value, (int, float)))
