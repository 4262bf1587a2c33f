"""The one small protocol that all executors share, and what crosses it: cells as data, ends as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from benchbd.core.events import Event

Notify = Callable[[str, Event], None]
"""Told (cell id, event) whenever a running cell says something."""


class Job(NamedTuple):
    """A cell on its way to an executor.

    Attributes:
        id: the cell's id.
        label: for people.
        cell: ``Cell.to_json()``.
        attempt: 1 for the first try.
        alone: must not share its GPU (a second try after running out of memory on a shared one).
        wave: for executors that take everything at once: cells of a later wave find what earlier ones computed.
    """

    id: str
    label: str
    cell: dict[str, Any]
    attempt: int = 1
    alone: bool = False
    wave: int = 0


class JobResult(NamedTuple):
    """How a job ended.

    Attributes:
        id: the cell's id.
        status: the record's status, or what the executor found out (``killed``, ``oom``, ``timeout``, ``lost``, ...);
            ``pending`` where it was taken back before it began.
        reason: one line, empty when done.
        recorded: True where the cell's own process has written its record already.
        shared: the cell had to share its GPU.
        wall: seconds from start to end.
        record: a record that came back by another way than the output folder (Ray), still to be written.
    """

    id: str
    status: str
    reason: str = ""
    recorded: bool = False
    shared: bool = False
    wall: float = 0.0
    record: dict[str, Any] | None = None


class Executor(Protocol):
    """Runs jobs somewhere. All methods are called from the scheduler's thread."""

    name: str
    remote: bool
    """True where cells are claimed by a run of their own, on the machine that they run on."""
    detaches: bool
    """True where jobs outlive the run that sent them, to be found again by the next."""

    @property
    def places(self) -> int:
        """How many jobs can run at once (for the time left)."""

    def free(self) -> int:
        """How many jobs may be started now."""

    def start(self, job: Job) -> None:
        """Take a job; called only while :meth:`free` is positive."""

    def poll(self, seconds: float) -> list[JobResult]:
        """Wait up to that long for something to happen; return the jobs that ended."""

    def drain(self) -> None:
        """Nothing more is to begin: take back what only waits."""

    def cancel(self, job_id: str) -> None:
        """Stop a job now; it then ends as ``cancelled``."""

    def close(self) -> None:
        """Stop everything still running and leave no process behind."""
