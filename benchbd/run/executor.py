"""The protocol that all executors implement, and the data that it passes: jobs and their results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from benchbd.core.events import Event

Notify = Callable[[str, Event], None]
"""A function that receives (cell ID, event) for each event of a running cell."""


class Job(NamedTuple):
    """A cell for an executor to run.

    Attributes:
        id: the cell's ID.
        label: the cell's readable name.
        cell: ``Cell.to_json()``.
        attempt: number of the attempt, from 1.
        alone: whether the job must not share its GPU (a second attempt after it ran out of memory on a shared GPU).
        wave: order for executors that take all jobs at once. Cells of a later wave reuse the results of earlier ones.
    """

    id: str
    label: str
    cell: dict[str, Any]
    attempt: int = 1
    alone: bool = False
    wave: int = 0


class JobResult(NamedTuple):
    """The result of a job.

    Attributes:
        id: the cell's ID.
        status: the record's status, or a status that the executor detected (``killed``, ``oom``, ``timeout``, ``lost``,
            ...); ``pending`` if the job was withdrawn before it started.
        reason: one line; empty if the status is ``done``.
        recorded: whether the cell's own process has already written its record.
        shared: whether the cell shared its GPU.
        wall: seconds from start to end.
        record: a record that did not arrive through the output folder (Ray) and must still be written.
    """

    id: str
    status: str
    reason: str = ""
    recorded: bool = False
    shared: bool = False
    wall: float = 0.0
    record: dict[str, Any] | None = None


class Executor(Protocol):
    """Runs jobs. The scheduler calls all methods from its own thread."""

    name: str
    remote: bool
    """True if a run on the cell's own machine locks the cell."""
    detaches: bool
    """True if jobs outlive the run that submitted them, so that the next run finds them again."""

    @property
    def places(self) -> int:
        """Number of jobs that can run at once; used to estimate the time left."""

    def free(self) -> int:
        """Number of jobs that may be started now."""

    def start(self, job: Job) -> None:
        """Accept a job. Called only while :meth:`free` is positive."""

    def poll(self, seconds: float) -> list[JobResult]:
        """Wait up to ``seconds`` for something to happen, and return the results of the jobs that ended."""

    def drain(self) -> None:
        """Start no more jobs, and withdraw the waiting ones."""

    def cancel(self, job_id: str) -> None:
        """Stop a job now. It then ends as ``cancelled``."""

    def close(self) -> None:
        """Stop every running job and leave no process behind."""
