"""Runs cells on this machine: a worker process per slot, replaced when it dies."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchbd.errors import BenchbdError
from benchbd.run import lifeline
from benchbd.run.executor import Ended, Job, Notify
from benchbd.run.settings import RunSettings, duration_text
from benchbd.run.slots import Slot

START_LIMIT = 300.0
"""Seconds a worker may take to import torch; a cold network disk can need a minute."""
START_TRIES = 3
"""Workers that may die in a row before they are ready, until the run gives up."""
OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals that others send; the rest is a crash of the cell's own."""


def oom_kills() -> int:
    """How many processes this machine's kernel has killed for want of memory since it started."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


def cause_of_death(returncode: int, oom_before: int) -> tuple[str, str]:
    """Status and reason for a worker that died under a cell."""
    if returncode >= 0:
        return "failed", f"the worker exited with code {returncode} in the middle of the cell"
    number = signal.Signals(-returncode) if -returncode in set(signal.Signals) else None
    name = number.name if number else f"signal {-returncode}"
    if number == signal.SIGKILL and oom_kills() > oom_before:
        return "oom", "killed by the kernel: out of memory (host memory, not the GPU's)"
    if number == signal.SIGKILL:
        return "killed", "killed by signal 9 (SIGKILL), often a memory limit"
    if number in OUTSIDE:
        return "killed", f"killed by signal {-returncode} ({name})"
    return "failed", f"the worker crashed with {name}"


class _Worker:
    """The parent's end of one worker process."""

    def __init__(self, slot: Slot, settings: RunSettings) -> None:
        self.slot = slot
        self.job: Job | None = None
        self.ready = False
        self.began = time.monotonic()
        self.waiting_since: float | None = None
        self.oom_before = oom_kills()
        self.buffer = b""
        self.start_log = settings.output / "logs" / f"worker-{os.getpid()}-{slot.index}.log"
        self.start_log.parent.mkdir(parents=True, exist_ok=True)
        command_read, self.commands = os.pipe()
        self.events, event_write = os.pipe()
        life_read, self.lifeline = os.pipe()
        theirs = (command_read, event_write, life_read)
        arguments = [sys.executable, "-m", "benchbd.run.worker", "--commands", str(command_read), "--events", str(event_write)]
        arguments += ["--lifeline", str(life_read), "--parent", str(os.getpid()), "--threads", str(slot.threads)]
        arguments += ["--output", str(settings.output), "--device", slot.device, "--execute", settings.execute]
        arguments += ["--data", settings.data_root] if settings.data_root else []
        for plugin in settings.plugins:
            arguments += ["--plugin", plugin]
        try:
            with self.start_log.open("wb") as log:
                self.process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **slot.environment()},
                    pass_fds=theirs,
                    start_new_session=True,
                )
        finally:
            for handle in theirs:
                os.close(handle)
        os.set_blocking(self.events, False)

    def send(self, job: Job) -> None:
        """Give the worker a cell. A worker that died meanwhile is noticed by the next poll."""
        self.job, self.began, self.waiting_since, self.oom_before = job, time.monotonic(), None, oom_kills()
        share = 1 if job.alone else self.slot.share
        order = {"id": job.id, "label": job.label, "cell": job.cell, "attempt": job.attempt, "share": share}
        with contextlib.suppress(BrokenPipeError):
            data = json.dumps(order).encode() + b"\n"
            while data:
                data = data[os.write(self.commands, data) :]

    def read(self) -> list[dict[str, Any]]:
        """Everything the worker has said since the last call."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.events, 1 << 16):
                self.buffer += chunk
        *lines, self.buffer = self.buffer.split(b"\n")
        said = []
        for line in lines:
            with contextlib.suppress(ValueError):
                message = json.loads(line)
                if isinstance(message, dict):
                    said.append(message)
        return said

    def end(self) -> int:
        """Kill the whole group, close the pipes; the exit status of the worker itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # When it is dying of itself (a core dump may take a moment), its own status is the one to know.
            if self.process.poll() is None and not self.ready:
                self.process.wait(0.05)
        lifeline.kill_group(self.process.pid)
        status = self.process.wait()
        for handle in (self.commands, self.events, self.lifeline):
            os.close(handle)
        self.start_log.unlink(missing_ok=True)
        return status


class LocalExecutor:
    """One worker per slot, started when first needed and fed until it dies."""

    name = "local"

    def __init__(self, slots: list[Slot], settings: RunSettings, notify: Notify) -> None:
        self.slots = slots
        self._settings = settings
        self._notify = notify
        self._workers: dict[int, _Worker] = {}
        self._queued: dict[int, Job] = {}
        """Jobs by slot whose worker is still starting."""
        self._alone: deque[Job] = deque()
        self._quiet: str | None = None
        """GPU that takes no new job because one that wants to be alone waits for it, or runs there."""
        self._failed_starts = 0
        self._cancelled: dict[str, str] = {}
        self._early: list[Ended] = []

    @property
    def places(self) -> int:
        """Number of slots."""
        return len(self.slots)

    def _busy(self, slot: Slot) -> bool:
        worker = self._workers.get(slot.index)
        return slot.index in self._queued or (worker is not None and worker.job is not None)

    def _open_slots(self) -> list[Slot]:
        return [s for s in self.slots if not self._busy(s) and (s.gpu is None or s.gpu != self._quiet)]

    def free(self) -> int:
        """Idle slots."""
        return len(self._open_slots())

    def start(self, job: Job) -> None:
        """Hand a job to an idle slot; slots with a worker that is already up come first."""
        if job.alone:
            self._alone.append(job)
            self._place_alone()
            return
        slots = self._open_slots()
        self._give(job, min(slots, key=lambda s: (s.index not in self._workers, s.index)))

    def _give(self, job: Job, slot: Slot) -> None:
        worker = self._workers.get(slot.index)
        if worker is not None and worker.ready:
            self._begin(worker, job)
            return
        self._queued[slot.index] = job
        if worker is None:
            self._workers[slot.index] = _Worker(slot, self._settings)

    def _begin(self, worker: _Worker, job: Job) -> None:
        worker.send(job)
        self._notify(job.id, {"event": "started", "where": worker.slot.name, "slot": worker.slot.index})

    def _place_alone(self) -> None:
        """Let the next job that wants to be alone begin once its GPU is idle; keep new jobs off that GPU."""
        if not self._alone:
            return
        if self._quiet is None:
            load = {s.gpu: sum(self._busy(o) for o in self.slots if o.gpu == s.gpu) for s in self.slots}
            self._quiet = min(load, key=lambda gpu: load[gpu])
        mine = [s for s in self.slots if s.gpu == self._quiet]
        if not any(self._busy(s) for s in mine):
            # Idle neighbours hold a CUDA context and cached memory each.
            for slot in mine[1:]:
                if slot.index in self._workers:
                    self._workers.pop(slot.index).end()
            self._give(self._alone.popleft(), mine[0])

    def poll(self, seconds: float) -> list[Ended]:
        """Read what workers say, notice the dead and the late."""
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
            # Asked first: what a dead worker said before it died is in the pipe by then.
            dead = worker.process.poll() is not None
            for message in worker.read():
                ended += self._heard(worker, message)
            if self._workers.get(worker.slot.index) is not worker:
                continue
            if dead:
                ended += self._died(worker)
            else:
                ended += self._late(worker)
        if ended and self._quiet is not None and not any(self._busy(s) for s in self.slots if s.gpu == self._quiet):
            self._quiet = None
        self._place_alone()
        return ended

    def _heard(self, worker: _Worker, message: dict[str, Any]) -> list[Ended]:
        kind, job = message.get("event"), worker.job
        if kind == "ready":
            worker.ready, self._failed_starts = True, 0
            queued = self._queued.pop(worker.slot.index, None)
            if queued is not None:
                self._begin(worker, queued)
            return []
        if job is None:
            return []
        if kind != "ended":
            self._clock(worker, message)
            self._notify(job.id, message)
            return []
        worker.job = None
        status = str(message.get("status"))
        if not message.get("sound", True) or status == "oom":
            self._notify(job.id, {"event": "note", "text": f"{worker.slot.name}: worker replaced after {status}"})
            del self._workers[worker.slot.index]
            worker.end()
        shared = worker.slot.share > 1 and not job.alone
        wall = time.monotonic() - worker.began
        return [Ended(job.id, status, str(message.get("reason", "")), bool(message.get("recorded")), shared, wall)]

    @staticmethod
    def _clock(worker: _Worker, message: dict[str, Any]) -> None:
        """Stop a cell's clock while it waits for a stage that another worker computes."""
        now = time.monotonic()
        waits = message.get("event") == "waiting"
        if waits and worker.waiting_since is None:
            worker.waiting_since = now
        elif not waits and worker.waiting_since is not None:
            worker.began += now - worker.waiting_since
            worker.waiting_since = None

    def _died(self, worker: _Worker) -> list[Ended]:
        del self._workers[worker.slot.index]
        log = worker.start_log.read_text(errors="replace").strip() if worker.start_log.exists() else ""
        status, reason = cause_of_death(worker.end(), worker.oom_before)
        job = worker.job
        if job is not None:
            if job.id in self._cancelled:
                status, reason = "cancelled", self._cancelled.pop(job.id)
            else:
                self._notify(job.id, {"event": "note", "text": f"{worker.slot.name}: worker replaced: {reason}"})
            return [Ended(job.id, status, reason, False, worker.slot.share > 1 and not job.alone, time.monotonic() - worker.began)]
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= START_TRIES:
                last = log.splitlines()[-1] if log else reason
                raise BenchbdError(f"worker processes do not start: {last}")
        queued = self._queued.pop(worker.slot.index, None)
        if queued is not None:
            self._give(queued, worker.slot)
        return []

    def _late(self, worker: _Worker) -> list[Ended]:
        now = time.monotonic()
        if not worker.ready:
            if now - worker.began > START_LIMIT:
                lifeline.kill_group(worker.process.pid)
            return []
        job, limit = worker.job, self._settings.timeout
        if job is None or limit is None or worker.waiting_since is not None or now - worker.began <= limit:
            return []
        del self._workers[worker.slot.index]
        worker.end()
        reason = f"no result after {duration_text(limit)} (--timeout)"
        return [Ended(job.id, "timeout", reason, False, worker.slot.share > 1 and not job.alone, now - worker.began)]

    def cancel(self, job_id: str) -> None:
        """Kill the worker that runs a job, or forget the job where it has not begun."""
        for job in [j for j in self._alone if j.id == job_id]:
            self._alone.remove(job)
            self._early.append(Ended(job_id, "cancelled", "stopped before it began"))
        for index, job in list(self._queued.items()):
            if job.id == job_id:
                del self._queued[index]
                self._early.append(Ended(job_id, "cancelled", "stopped before it began"))
        for worker in self._workers.values():
            if worker.job is not None and worker.job.id == job_id:
                self._cancelled[job_id] = "stopped while it ran"
                lifeline.kill_group(worker.process.pid)

    def close(self) -> None:
        """Kill every worker and whatever it started."""
        for worker in self._workers.values():
            worker.end()
        self._workers.clear()
        self._queued.clear()
