"""Runs cells on this machine. Each slot has a worker, which forks a process for each cell; a dead one is replaced."""

from __future__ import annotations

import selectors
import time
from collections import deque

from benchbd.core.events import Event, is_waiting
from benchbd.errors import BenchbdError
from benchbd.run.executor import Job, JobResult, Notify
from benchbd.run.settings import RunSettings, duration_text
from benchbd.run.workers.slots import Slot
from benchbd.run.workers.worker_process import WorkerProcess, cause_of_death
from benchbd.storage.record_schema import STATUSES

START_LIMIT = 300.0
"""Seconds a worker may take to import torch; a cold network disk can need a minute."""
STOP_LIMIT = 12.0
"""Seconds a worker may take to kill its cell with everything the cell has started; then the worker is killed too."""
START_TRIES = 3
"""Number of workers that may die in a row before they are ready; the run then gives up."""


class LocalExecutor:
    """Keeps one worker per slot. A worker starts when it is first needed and runs jobs until the run ends."""

    name = "local"
    remote = False
    detaches = False

    def __init__(self, slots: list[Slot], settings: RunSettings, notify: Notify) -> None:
        self.slots = slots
        self._settings = settings
        self._notify = notify
        self._workers: dict[int, WorkerProcess] = {}
        self._queued: dict[int, Job] = {}
        """Jobs whose worker is still starting, by slot."""
        self._alone: deque[Job] = deque()
        self._quiet: str | None = None
        """GPU that accepts no new jobs, because a job that needs a GPU alone waits for it or runs on it."""
        self._failed_starts = 0
        self._early: list[JobResult] = []

    @property
    def places(self) -> int:
        """Number of slots."""
        return len(self.slots)

    def _busy(self, slot: Slot) -> bool:
        worker = self._workers.get(slot.number)
        return slot.number in self._queued or (worker is not None and worker.job is not None)

    def _open_slots(self) -> list[Slot]:
        return [s for s in self.slots if not self._busy(s) and (s.gpu is None or s.gpu != self._quiet)]

    def free(self) -> int:
        """Number of idle slots."""
        return len(self._open_slots())

    def start(self, job: Job) -> None:
        """Give a job to an idle slot. Slots with a running worker come first."""
        if job.alone:
            self._alone.append(job)
            self._place_alone()
            return
        slots = self._open_slots()
        self._give(job, min(slots, key=lambda s: (s.number not in self._workers, s.number)))

    def _give(self, job: Job, slot: Slot) -> None:
        worker = self._workers.get(slot.number)
        if worker is not None and worker.ready:
            self._begin(worker, job)
            return
        self._queued[slot.number] = job
        self._notify(job.id, {"event": "starting", "where": slot.name})
        if worker is None:
            self._workers[slot.number] = WorkerProcess(slot, len(self.slots), self._settings)

    def _begin(self, worker: WorkerProcess, job: Job) -> None:
        worker.send(job)
        self._notify(job.id, {"event": "started", "where": worker.slot.name, "slot": worker.slot.number})

    def _place_alone(self) -> None:
        """Start the next job that needs a GPU alone once that GPU is idle. Keep new jobs off the GPU until then."""
        if not self._alone:
            return
        if self._quiet is None:
            load = {s.gpu: sum(self._busy(o) for o in self.slots if o.gpu == s.gpu) for s in self.slots}
            self._quiet = min(load, key=lambda gpu: load[gpu])
        mine = [s for s in self.slots if s.gpu == self._quiet]
        if not any(self._busy(s) for s in mine):
            self._give(self._alone.popleft(), mine[0])

    def poll(self, seconds: float) -> list[JobResult]:
        """Read the workers' events, and handle workers that died or exceeded the time limit."""
        ended = self._early
        self._early = []
        with selectors.DefaultSelector() as selector:
            for worker in self._workers.values():
                selector.register(worker.events, selectors.EVENT_READ)
            if self._workers:
                selector.select(0 if ended else seconds)
            elif not ended:
                time.sleep(seconds)
        for worker in list(self._workers.values()):
            # Check this before reading: everything that a dead worker sent is in the pipe by then.
            dead = worker.process.poll() is not None
            for message in worker.read():
                ended += self._on_message(worker, message)
            if self._workers.get(worker.slot.number) is not worker:
                continue
            if dead:
                ended += self._died(worker)
            else:
                ended += self._check_time(worker)
        if ended and self._quiet is not None and not any(self._busy(s) for s in self.slots if s.gpu == self._quiet):
            self._quiet = None
        self._place_alone()
        return ended

    def _on_message(self, worker: WorkerProcess, message: Event) -> list[JobResult]:
        kind, job = message.get("event"), worker.job
        if kind == "ready":
            worker.ready, self._failed_starts = True, 0
            queued = self._queued.pop(worker.slot.number, None)
            if queued is not None:
                self._begin(worker, queued)
            return []
        if job is None:
            return []
        if kind != "ended":
            self._clock(worker, message)
            self._notify(job.id, message)
            return []
        if message.get("id") != job.id:
            return []
        status, reason = message.get("status", ""), message.get("reason", "")
        if worker.stopping is not None and message.get("stopped"):
            status, reason = worker.stopping
        elif "code" in message:
            status, reason = cause_of_death(message["code"], worker.oom_before)
        elif status not in STATUSES:
            status, reason = "failed", "the cell ended without a result"
        return [self._result(worker, job, status, reason, recorded=bool(message.get("recorded")))]

    @staticmethod
    def _result(worker: WorkerProcess, job: Job, status: str, reason: str, *, recorded: bool = False) -> JobResult:
        """The result of a worker's job; the worker is then free."""
        worker.job = None
        shared = worker.slot.share > 1 and not job.alone
        return JobResult(job.id, status, reason, recorded, shared, time.monotonic() - worker.began)

    @staticmethod
    def _clock(worker: WorkerProcess, message: Event) -> None:
        """Stop a cell's clock while it waits for a stage that another worker computes."""
        now = time.monotonic()
        if is_waiting(message) and worker.waiting_since is None:
            worker.waiting_since = now
        elif not is_waiting(message) and worker.waiting_since is not None:
            worker.began += now - worker.waiting_since
            worker.waiting_since = None

    def _died(self, worker: WorkerProcess) -> list[JobResult]:
        del self._workers[worker.slot.number]
        log = worker.start_log.read_text(errors="replace").strip() if worker.start_log.exists() else ""
        status, reason = cause_of_death(worker.end(), worker.oom_before, "the worker")
        job = worker.job
        if job is not None:
            if worker.stopping is not None:
                status, reason = worker.stopping
            else:
                self._notify(job.id, {"event": "note", "text": f"{worker.slot.name}: worker replaced: {reason}"})
            return [self._result(worker, job, status, reason)]
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= START_TRIES:
                last = log.splitlines()[-1] if log else reason
                raise BenchbdError(f"worker processes do not start: {last}")
        queued = self._queued.pop(worker.slot.number, None)
        if queued is not None:
            self._give(queued, worker.slot)
        return []

    def _check_time(self, worker: WorkerProcess) -> list[JobResult]:
        now = time.monotonic()
        if not worker.ready:
            if now - worker.began > START_LIMIT:
                worker.leave()
            return []
        job, limit = worker.job, self._settings.timeout
        if job is None:
            return []
        if worker.stopping is not None:
            if now - worker.stopping_since <= STOP_LIMIT:
                return []
            del self._workers[worker.slot.number]
            worker.end()
            return [self._result(worker, job, *worker.stopping)]
        if limit is not None and worker.waiting_since is None and now - worker.began > limit:
            worker.stop_cell("timeout", f"no result after {duration_text(limit)} (--timeout)")
        return []

    def drain(self) -> None:
        """Withdraw the jobs whose worker is still starting."""
        for job in [*self._alone, *self._queued.values()]:
            self.cancel(job.id)

    def cancel(self, job_id: str) -> None:
        """Kill the process that runs a job, or withdraw a job that has not started."""
        for job in [j for j in self._alone if j.id == job_id]:
            self._alone.remove(job)
            self._early.append(JobResult(job_id, "pending"))
        for index, job in list(self._queued.items()):
            if job.id == job_id:
                del self._queued[index]
                self._early.append(JobResult(job_id, "pending"))
        for worker in self._workers.values():
            if worker.job is not None and worker.job.id == job_id:
                worker.stop_cell("cancelled", "stopped while running")

    def close(self) -> None:
        """Kill every worker and all processes it started."""
        for worker in self._workers.values():
            worker.leave()
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()
        self._queued.clear()
