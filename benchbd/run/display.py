"""What a person sees while cells run: nothing, plain lines, or a live table. One small interface for all three."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol

from benchbd.errors import UsageError
from benchbd.run.outcome import Outcome
from benchbd.run.settings import duration_text

NAMES = ("auto", "rich", "plain", "none")


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

    def event(self, cell_id: str, label: str, event: dict[str, Any]) -> None:
        """A running cell said something (see :mod:`benchbd.run.executor`)."""

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

    def event(self, cell_id: str, label: str, event: dict[str, Any]) -> None:
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


def remark(event: dict[str, Any]) -> str | None:
    """What of an event should be shown at once: notes, warnings, lines of a cell's log (tracebacks stay in there)."""
    field = {"note": "text", "warning": "warning", "log": "line"}.get(str(event.get("event")))
    text = str(event.get(field, "")).strip() if field else ""
    return text if text and "\n" not in text else None


def numbers(record: dict[str, Any] | None) -> str:
    """The few figures of a record worth a line: ``CA 0.912  ASR 0.034``."""
    if not record:
        return ""
    found = [(name.upper(), record.get(name)) for name in ("ca", "asr")]
    return "  ".join(f"{name} {value:.3f}" for name, value in found if isinstance(value, (int, float)))


class PlainDisplay:
    """One line for each thing that happens; for logs, CI and pipes."""

    def __init__(self, write: Callable[[str], None] | None = None, heartbeat: float = 60.0) -> None:
        self._write = write or self._to_stderr
        self._heartbeat = heartbeat
        self._last = time.monotonic()
        self._facts: Facts | None = None
        self._now: dict[str, str] = {}

    @staticmethod
    def _to_stderr(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        self._write(f"{time.strftime('%H:%M:%S')} {text}")

    def begin(self, facts: Facts, text: str) -> None:
        """Say what is about to be done."""
        self._facts = facts
        self._line(text)

    def event(self, cell_id: str, label: str, event: dict[str, Any]) -> None:
        """Starts get a line; stages and epochs are kept for the heartbeat."""
        kind = event.get("event")
        if kind == "started":
            self._now[cell_id] = label
            self._line(f"start  {label}  [{cell_id}] on {event.get('where')}")
        elif kind == "progress":
            loss = event.get("loss")
            tail = f" loss {loss:.3f}" if isinstance(loss, (int, float)) else ""
            self._now[cell_id] = f"{label}: {event.get('stage')} {event.get('epoch')}/{event.get('epochs')}{tail}"
        elif kind in ("stage", "waiting"):
            self._now[cell_id] = f"{label}: {event.get('stage')}"
        elif (text := remark(event)) is not None:
            self._line(f"note   {text}  [{cell_id}]")

    def ended(
        self, cell_id: str, label: str, status: str, reason: str, wall: float, record: dict[str, Any] | None
    ) -> None:
        """One line with the result or the reason."""
        self._now.pop(cell_id, None)
        facts = self._facts
        place = f"{facts.total - facts.left}/{facts.total} " if facts else ""
        what = numbers(record) if status == "done" else reason
        eta = facts.eta() if facts else None
        rest = f"  (about {duration_text(eta)} left)" if eta else ""
        self._line(f"{place}{status:<6} {label}  {what}  in {duration_text(wall)}{rest}")

    def note(self, text: str) -> None:
        """One line."""
        self._line(f"note   {text}")

    def tick(self) -> None:
        """After a silent minute, say what runs."""
        if self._now and time.monotonic() - self._last > self._heartbeat:
            self._line("still  " + "; ".join(self._now.values()))

    def end(self, outcome: Outcome) -> None:
        """The summary is printed by the command line."""


def make_display(name: str = "auto") -> Display:
    """``rich`` on a terminal, plain lines otherwise and in CI; or what was asked for. Raises UsageError."""
    if name not in NAMES:
        raise UsageError(f"--display must be one of {', '.join(NAMES)}, not {name!r}")
    if name == "none":
        return NoDisplay()
    terminal = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb") and not os.environ.get("CI")
    if name == "rich" or (name == "auto" and terminal):
        from benchbd.run.rich_display import RichDisplay

        return RichDisplay()
    return PlainDisplay()
