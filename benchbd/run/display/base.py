"""What a person sees while cells run: nothing, plain lines, or a live table. One small interface for all three."""

from __future__ import annotations

from typing import Any, Protocol

from benchbd.core.events import Event
from benchbd.run.outcome import Outcome


class Facts(Protocol):
    """What the scheduler tells of the whole matrix at any moment."""

    @property
    def total(self) -> int:
        """Cells this run has to run."""

    @property
    def left(self) -> int:
        """Cells not yet ended."""

    @property
    def counts(self) -> dict[str, int]:
        """Cells by status so far, those kept from earlier runs included."""

    def eta(self) -> float | None:
        """Seconds until the last cell is expected to end; None while nothing is known."""


class Display(Protocol):
    """Told by the scheduler, from its thread, what happens."""

    def begin(self, facts: Facts, text: str) -> None:
        """The run starts; ``text`` says in one line what it is about to do."""

    def event(self, cell_id: str, label: str, event: Event) -> None:
        """A running cell said something (see :mod:`benchbd.core.events`)."""

    def ended(
        self, cell_id: str, label: str, status: str, reason: str, wall: float, record: dict[str, Any] | None
    ) -> None:
        """A cell came to an end."""

    def note(self, text: str) -> None:
        """Something a person should know: a retry, a replaced worker, a drain."""

    def tick(self) -> None:
        """Called a few times a second."""

    def end(self, outcome: Outcome) -> None:
        """The run is over."""


class NoDisplay:
    """Says nothing."""

    def begin(self, facts: Facts, text: str) -> None:
        """Nothing."""

    def event(self, cell_id: str, label: str, event: Event) -> None:
        """Nothing."""

    def ended(
        self, cell_id: str, label: str, status: str, reason: str, wall: float, record: dict[str, Any] | None
    ) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def tick(self) -> None:
        """Nothing."""

    def end(self, outcome: Outcome) -> None:
        """Nothing."""


def numbers(record: dict[str, Any] | None) -> str:
    """The few figures of a record worth a line: ``CA 0.912  ASR 0.034``."""
    if not record:
        return ""
    found = [(name.upper(), record.get(name)) for name in ("ca", "asr")]
    return "  ".join(f"{name} {value:.3f}" for name, value in found if isinstance(value, (int, float)))
