"""A process of its own for each cell, forked from a worker that has loaded everything (as asv does for benchmarks).

Whatever a plugin changes in its process, it changes for its own cell only: torch's modes, hooks and patched functions,
threads, random numbers, the environment, signal handlers, limits. When the cell's process ends, the worker kills
everything that it has started, so that nothing of a cell is left when the next one begins.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

from benchbd.core import process_group
from benchbd.core.events import Event, decode, encode, log_line
from benchbd.core.files import open_log
from benchbd.errors import RunStopped
from benchbd.run.workers.one_cell import Execute, clock_time, run_one, set_threads
from benchbd.run.workers.slots import WORKER_THREADS, thread_variables
from benchbd.storage.record_schema import STATUSES

SEED = 0
"""Seed of the global random numbers of every cell. The harness does not use them; a plugin may."""
FROM_CELLS = ("stage", "progress", "waiting", "log", "warning", "note")
"""Kinds of events that a cell sends to the run. Its result goes to its worker."""
LONGEST_LINE = 1 << 24
"""Bytes after which a line in a cell's pipe cannot be an event."""


class CellProcess:
    """A cell's process, seen from its worker.

    Args:
        execute: the function that runs a cell.
        order: the cell, as the run sent it.
        settings: settings of the worker.
        close: file descriptors of the worker that the cell must not have.

    Attributes:
        pipe: file descriptor from which the cell's events are read.
        silent: whether the cell has closed its end of the pipe.
    """

    def __init__(
        self, execute: Execute, order: dict[str, Any], settings: argparse.Namespace, close: tuple[int, ...]
    ) -> None:
        self.id = str(order["id"])
        self.result: Event | None = None
        self.silent = False
        self._buffer = b""
        self._scratch = _scratch_folder(settings.scratch)
        self.pipe, write = os.pipe()
        os.set_blocking(self.pipe, False)
        worker = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            _run(execute, order, settings, write, worker, (self.pipe, *close), self._scratch)
        os.close(write)

    def read(self) -> list[Event]:
        """The events that the cell has sent since the last call; its result is kept in ``result``."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self.pipe, 1 << 16):
                self._buffer += chunk
                if len(self._buffer) > LONGEST_LINE:
                    break
            self.silent = not chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > LONGEST_LINE:
            self._buffer = b""
        events = [event for line in lines if (event := decode(line)) is not None]
        for event in events:
            if _is_result(event):
                self.result = event
        return [event for event in events if event["event"] in FROM_CELLS]

    def end(self) -> bool:
        """Kill the process and everything it has started. Returns False if a process does not end."""
        return process_group.kill_descendants()

    def close(self) -> None:
        """Close the pipe and remove the scratch folder."""
        os.close(self.pipe)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)


def _is_result(event: Event) -> bool:
    """Whether an event is a result as :func:`_run` sends it; a plugin may write anything to the pipe."""
    fields = event.keys() == {"event", "status", "reason", "recorded"}
    return fields and event["event"] == "ended" and event["status"] in STATUSES


def _scratch_folder(parent: str | None) -> str | None:
    """A new folder for a cell's temporary files; None if none can be made."""
    with contextlib.suppress(OSError):
        return parent and tempfile.mkdtemp(prefix="cell-", dir=parent)
    return None


def _run(
    execute: Execute,
    order: dict[str, Any],
    settings: argparse.Namespace,
    pipe: int,
    worker: int,
    close: tuple[int, ...],
    scratch: str | None,
) -> NoReturn:
    """Run the cell in the new process, and end it without returning to the worker's code."""
    try:
        _detach(worker, close)
        messages = _Messages(pipe)
        _open_log(order, settings, messages)
        _fresh_state(order, settings, scratch)
        try:
            status, reason, recorded = run_one(execute, order, settings, messages.event)
        except (KeyboardInterrupt, RunStopped) as error:
            # Nobody interrupts this process, which has left the terminal: a plugin raised this.
            status, reason, recorded = "failed", type(error).__name__, False
        messages.write(f"{clock_time()} {status}{': ' if reason else ''}{reason}")
        messages.send({"event": "ended", "status": status, "reason": reason, "recorded": recorded})
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _detach(worker: int, close: tuple[int, ...]) -> None:
    """Leave the worker's session, signal handlers and files."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    os.setsid()
    process_group.die_with_parent(worker)
    for handle in close:
        os.close(handle)


def _fresh_state(order: dict[str, Any], settings: argparse.Namespace, scratch: str | None) -> None:
    """Set what each cell gets of its own: threads, temporary files, random numbers."""
    if settings.device != "cpu":  # on a CPU the cell says how many, since sums depend on it
        os.environ.update(thread_variables(settings.threads))
        set_threads(settings.threads)
    elif "benchbd.engine.threads" in sys.modules:
        sys.modules["benchbd.engine.threads"].libraries_have(WORKER_THREADS)
    os.environ["BENCHBD_GPU_SHARE"] = str(order.get("share") or "")
    if scratch is not None:
        # Compiled code is for all cells. torch keeps it in the folder for temporary files unless told otherwise.
        with contextlib.suppress(Exception):
            user = "".join(c if c.isalnum() else "_" for c in getpass.getuser())
            compiled = Path(tempfile.gettempdir()) / f"torchinductor_{user}"
            os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiled))
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
    random.seed(SEED)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.manual_seed(SEED)


class _Messages:
    """What a cell says: events to its worker, lines to its log. A copy that a plugin forks says nothing."""

    def __init__(self, pipe: int) -> None:
        self._pipe, self._pid = pipe, os.getpid()
        self._last = ""

    def send(self, event: Event) -> None:
        """Send an event to the worker."""
        if os.getpid() != self._pid:
            return
        data = encode(event)
        while data:
            data = data[os.write(self._pipe, data) :]

    def write(self, line: str) -> None:
        """Write a line to the log. A full disk must not end a cell that could still succeed."""
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def event(self, event: Event) -> None:
        """Write an event to the log and send it."""
        text = log_line(event)
        if text is not None and text != self._last:
            self._last = text
            self.write(f"{clock_time()} {text}")
        self.send(event)


def _open_log(order: dict[str, Any], settings: argparse.Namespace, messages: _Messages) -> None:
    """Redirect stdout and stderr to the cell's log, or to nothing if there can be no log."""
    try:
        handle = open_log(Path(settings.output) / "logs" / f"{order['id']}.log")
    except OSError as error:
        messages.send({"event": "note", "text": f"no log for {order['id']}: {error}"})
        handle = os.open(os.devnull, os.O_WRONLY)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    messages.write(f"== {order['label']}  attempt {order['attempt']}  {time.strftime('%Y-%m-%d %H:%M:%S')} ==")
