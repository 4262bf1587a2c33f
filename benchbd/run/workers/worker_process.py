"""The run's side of a worker process: start it, exchange messages, find its cause of death."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchbd.core import process_group
from benchbd.core.events import Event, decode
from benchbd.core.user_variables import user_variables
from benchbd.run.executor import Job
from benchbd.run.settings import RunSettings
from benchbd.run.workers.slots import WORKER_THREADS, Slot, thread_variables

_HASHES = {"PYTHONHASHSEED": "0"}
"""A plugin that depends on the order of a set gives the same numbers in every worker. The user's value stays."""
END_LIMIT = 15.0
"""Seconds that a worker has to kill what its cell has started, before it is killed itself."""
AT_ONCE = 1 << 24
"""Bytes of a worker's events that are read before the run turns to its other workers."""
OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
"""Signals from outside. Any other signal is a crash of the cell itself."""


def oom_kills() -> int:
    """Number of processes that this machine's kernel has killed for lack of memory since it booted."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0


def cause_of_death(returncode: int, oom_before: int, what: str = "the cell's process") -> tuple[str, str]:
    """Status and reason for a cell whose process, or whose worker, died.

    Args:
        returncode: exit code; negative for a signal.
        oom_before: :func:`oom_kills` at the start of the cell.
        what: what died.
    """
    if returncode >= 0:
        return "failed", f"{what} exited with code {returncode} in the middle of the cell"
    number = signal.Signals(-returncode) if -returncode in set(signal.Signals) else None
    name = number.name if number else f"signal {-returncode}"
    if number == signal.SIGKILL and oom_kills() > oom_before:
        return "oom", "killed by the kernel: out of memory (host memory, not the GPU's)"
    if number == signal.SIGKILL:
        return "killed", "killed by signal 9 (SIGKILL), often a memory limit"
    if number in OUTSIDE:
        return "killed", f"killed by signal {-returncode} ({name})"
    return "failed", f"{what} crashed with {name}"


class WorkerProcess:
    """A worker of one slot, from its start to its death."""

    def __init__(self, slot: Slot, workers: int, settings: RunSettings) -> None:
        self.slot = slot
        self.job: Job | None = None
        self.ready = False
        self.began = time.monotonic()
        self.waiting_since: float | None = None
        self.stopping: tuple[str, str] | None = None
        """Status and reason of the cell that the worker has been asked to stop."""
        self.stopping_since = 0.0
        self.oom_before = oom_kills()
        self.buffer = b""
        self.start_log = settings.output / "logs" / f"worker-{os.getpid()}-{slot.number}.log"
        self.start_log.parent.mkdir(parents=True, exist_ok=True)
        command_read, self.commands = os.pipe()
        self.events, event_write = os.pipe()
        run_read, self.run_pipe = os.pipe()
        worker_ends = (command_read, event_write, run_read)
        arguments = [
            sys.executable,
            "-m",
            "benchbd.run.workers.worker",
            "--commands",
            str(command_read),
            "--events",
            str(event_write),
        ]
        arguments += ["--run-pipe", str(run_read), "--parent", str(os.getpid()), "--threads", str(slot.threads)]
        arguments += ["--output", str(settings.output), "--device", slot.device, "--execute", settings.execute]
        arguments += ["--data", settings.data_root] if settings.data_root else []
        for plugin in settings.plugins:
            arguments += ["--plugin", plugin]
        try:
            self.start_log.unlink(missing_ok=True)
            with self.start_log.open("xb") as log:
                self.process = subprocess.Popen(
                    arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={
                        **_HASHES,
                        **user_variables(),
                        **slot.environment(workers),
                        **thread_variables(WORKER_THREADS),
                    },
                    pass_fds=worker_ends,
                    start_new_session=True,
                )
        finally:
            for handle in worker_ends:
                os.close(handle)
        os.set_blocking(self.events, False)

    def send(self, job: Job) -> None:
        """Send a cell to the worker. The next poll detects a worker that has died in the meantime."""
        self.job, self.began, self.waiting_since, self.oom_before = job, time.monotonic(), None, oom_kills()
        self.stopping = None
        share = None if self.slot.gpu is None else 1 if job.alone else self.slot.share
        order = {"id": job.id, "label": job.label, "cell": job.cell, "attempt": job.attempt, "share": share}
        self._command(order)

    def stop_cell(self, status: str, reason: str) -> None:
        """Ask the worker to kill the cell's process. The cell then ends with this status and reason."""
        if self.job is not None and self.stopping is None:
            self.stopping, self.stopping_since = (status, reason), time.monotonic()
            self._command({"stop": self.job.id})

    def _command(self, command: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError):
            data = json.dumps(command).encode() + b"\n"
            while data:
                data = data[os.write(self.commands, data) :]

    def read(self) -> list[Event]:
        """The events that the worker has sent since the last call; more than ``AT_ONCE`` bytes wait for the next."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(AT_ONCE >> 16):
                if not (chunk := os.read(self.events, 1 << 16)):
                    break
                self.buffer += chunk
        *lines, self.buffer = self.buffer.split(b"\n")
        return [event for line in lines if (event := decode(line)) is not None]

    def leave(self) -> None:
        """Tell the worker's guard to kill the worker and everything it has started, without waiting for that."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """Kill the worker and everything it has started, and close the pipes. Returns the worker's exit code."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # If the worker is already dying (a core dump may take a moment), its own exit code is the useful one.
            if self.process.poll() is None and not self.ready:
                self.process.wait(0.05)
        self.leave()
        try:
            status = self.process.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            process_group.kill_group(self.process.pid)
            status = self.process.wait()
        for handle in (self.commands, self.events, self.run_pipe):
            os.close(handle)
        self.start_log.unlink(missing_ok=True)
        return status
