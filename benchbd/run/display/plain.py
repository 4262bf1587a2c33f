"""A display of plain text lines, for logs and pipes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from typing import Any

from benchbd.core.events import Event, remark, sound
from benchbd.run.display.base import Facts, numbers
from benchbd.run.outcome import Outcome
from benchbd.run.settings import duration_text


class PlainDisplay:
    """Writes one line per event, for logs, CI and pipes."""

    def __init__(self, write: Callable[[str], None] | None = None, heartbeat: float = 60.0) -> None:
        self._write = write or self._to_stderr
        self._heartbeat = heartbeat
        self._last = time.monotonic()
        self._facts: Facts | None = None
        self._now: dict[str, str] = {}
        self._loading = False

    @staticmethod
    def _to_stderr(line: str) -> None:
        with contextlib.suppress(OSError):  # the reader of the messages may be gone; the run goes on
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    def _line(self, text: str) -> None:
        self._last = time.monotonic()
        self._write(f"{time.strftime('%H:%M:%S')} {text}")

    def begin(self, facts: Facts, text: str) -> None:
        """Announce the run."""
        self._facts = facts
        self._line(text)

    def event(self, cell_id: str, label: str, event: Event) -> None:
        """Write a line for a start and for the first wait; remember stages and epochs for the heartbeat."""
        event = sound(event)
        kind = event.get("event")
        if kind == "starting":
            self._now[cell_id] = f"{label}: loading PyTorch"
            if not self._loading:
                self._loading = True
                self._line("note   the workers load PyTorch before the first cell starts")
        elif kind == "started":
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
        """Write one line with the result or the reason."""
        self._now.pop(cell_id, None)
        facts = self._facts
        place = f"{facts.total - facts.left}/{facts.total} " if facts else ""
        detail = numbers(record) if status == "done" else reason
        eta = facts.eta() if facts else None
        rest = f"  (about {duration_text(eta)} left)" if eta else ""
        self._line(f"{place}{status:<6} {label}  {detail}  in {duration_text(wall)}{rest}")

    def note(self, text: str) -> None:
        """Write one line."""
        self._line(f"note   {text}")

    def tick(self) -> None:
        """After a silent minute, list the running cells."""
        if self._now and time.monotonic() - self._last > self._heartbeat:
            self._line("still  " + "; ".join(self._now.values()))

    def end(self, outcome: Outcome) -> None:
        """Do nothing: the command line prints the summary."""
