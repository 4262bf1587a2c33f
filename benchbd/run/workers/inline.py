"""Runs cells one after another in this process, for debuggers and for small matrices in tests."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import threading
import time
from collections import deque
from types import FrameType
from typing import Any

from benchbd.core.cell_log import CellLog
from benchbd.core.events import Event, log_line
from benchbd.core.files import encoded
from benchbd.errors import RunStopped
from benchbd.run.executor import Job, JobResult, Notify
from benchbd.run.settings import RunSettings, duration_text
from benchbd.run.workers.one_cell import clock_time, load_execute, run_one, set_threads
from benchbd.run.workers.slots import Slot


class _TimeUp(RunStopped):
    """Raised inside a cell that exceeds its time limit."""


class InlineExecutor:
    """Runs one cell at a time in this process: a crash ends the run. ``--timeout`` acts between instructions."""

    name = "inline"
    remote = False
    detaches = False
    places = 1

    def __init__(self, slot: Slot, settings: RunSettings, notify: Notify) -> None:
        self._slot = slot
        self._settings = settings
        self._notify = notify
        self._waiting: deque[Job] = deque()
        self._early: list[JobResult] = []
        os.environ.update(slot.environment())
        self._execute = load_execute(settings.execute)
        set_threads(slot.threads)

    def free(self) -> int:
        """1 unless a job waits."""
        return 1 - len(self._waiting)

    def start(self, job: Job) -> None:
        """Accept a job. It runs in the next :meth:`poll`."""
        self._waiting.append(job)

    def poll(self, seconds: float) -> list[JobResult]:
        """Run the waiting job to its end."""
        ended, self._early = self._early, []
        if not self._waiting:
            if not ended:
                time.sleep(seconds)
            return ended
        return [*ended, self._run(self._waiting.popleft())]

    def _run(self, job: Job) -> JobResult:
        began = time.monotonic()
        self._notify(job.id, {"event": "started", "where": self._slot.name, "slot": 0})
        with contextlib.closing(CellLog(self._settings.log_path(job.id))) as log:

            def write(line: str) -> None:
                log.write(encoded(f"{line}\n"))

            def on_event(event: Event) -> None:
                text = log_line(event)
                if text is not None:
                    write(f"{clock_time()} {text}")
                self._notify(job.id, event)

            write(f"== {job.label}  attempt {job.attempt}  {time.strftime('%Y-%m-%d %H:%M:%S')} ==")
            settings = argparse.Namespace(
                output=str(self._settings.output),
                data=self._settings.data_root,
                device=self._slot.device,
                plugin=list(self._settings.plugins),
            )
            restore = self._arm()
            try:
                status, reason, recorded = run_one(self._execute, {"cell": job.cell}, settings, on_event)
            except _TimeUp:
                limit = duration_text(self._settings.timeout or 0.0)
                status, reason, recorded = "timeout", f"no result after {limit} (--timeout)", False
            except KeyboardInterrupt:
                status, reason, recorded = "cancelled", "stopped while running", False
            finally:
                restore()
            write(f"{clock_time()} {status}{': ' if reason else ''}{reason}")
        return JobResult(job.id, status, reason, recorded, False, time.monotonic() - began)

    def _arm(self) -> Any:
        """Set an alarm for the cell's time limit. Returns a function that removes it."""
        if self._settings.timeout is None or threading.current_thread() is not threading.main_thread():
            return lambda: None

        def ring(number: int, frame: FrameType | None) -> None:
            raise _TimeUp

        before = signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, self._settings.timeout)

        def restore() -> None:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

        return restore

    def drain(self) -> None:
        """Do nothing: at most one job waits, and it is about to start."""

    def cancel(self, job_id: str) -> None:
        """Withdraw a waiting job. Only a signal can interrupt a running one."""
        for job in [j for j in self._waiting if j.id == job_id]:
            self._waiting.remove(job)
            self._early.append(JobResult(job_id, "pending"))

    def close(self) -> None:
        """Drop the waiting job; nothing else runs."""
        self._waiting.clear()
