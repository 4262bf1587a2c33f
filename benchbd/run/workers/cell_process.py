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
from benchbd.core.cell_log import CellLog
from benchbd.core.events import Event, decode, encode, is_for_log_alone, log_line
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
REST = 64
"""Reads of a dead cell's output, of 64 KiB each: more than a pipe holds."""


class CellProcess:
    """A cell's process, seen from its worker.

    Args:
        execute: the function that runs a cell.
        order: the cell, as the run sent it.
        settings: settings of the worker.
        close: file descriptors of the worker that the cell must not have.

    Attributes:
        open_pipes: file descriptors of the cell's events and output, each until the cell has closed its other end.
    """

    def __init__(
        self, execute: Execute, order: dict[str, Any], settings: argparse.Namespace, close: tuple[int, ...]
    ) -> None:
        self.id = str(order["id"])
        self.result: Event | None = None
        self._buffer = b""
        self._notes: list[Event] = []
        self._log = self._open_log(Path(settings.output) / "logs" / f"{self.id}.log")
        self._scratch = _scratch_folder(settings.scratch)
        (self._events, events), (self._output, output) = os.pipe(), os.pipe()
        self.open_pipes = [self._events, self._output]
        for pipe in self.open_pipes:
            os.set_blocking(pipe, False)
        worker = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            ours = (*self.open_pipes, *([] if self._log is None else [self._log.handle]), *close)
            _run(execute, order, settings, (events, output), worker, ours, self._scratch)
        for pipe in (events, output):
            os.close(pipe)

    def _open_log(self, path: Path) -> CellLog | None:
        """The cell's log; None, and a note for the run, if there can be none."""
        try:
            return CellLog(path)
        except OSError as error:
            self._notes.append({"event": "note", "text": f"no log for {self.id}: {error}"})
            return None

    def keep_output(self) -> bool:
        """Write a part of what the cell has printed to its log. Returns whether there may be more."""
        try:
            chunk = os.read(self._output, 1 << 16)
        except BlockingIOError:
            return False
        if not chunk and self._output in self.open_pipes:
            self.open_pipes.remove(self._output)
        if self._log is not None:
            self._log.write(chunk)
        return bool(chunk)

    def read(self) -> list[Event]:
        """The events that the cell has sent since the last call; its result is kept in ``result``."""
        with contextlib.suppress(BlockingIOError):
            while chunk := os.read(self._events, 1 << 16):
                self._buffer += chunk
                if len(self._buffer) > LONGEST_LINE:
                    break
            if not chunk and self._events in self.open_pipes:
                self.open_pipes.remove(self._events)
        *lines, self._buffer = self._buffer.split(b"\n")
        if len(self._buffer) > LONGEST_LINE:
            self._buffer = b""
        notes, self._notes = self._notes, []
        events = [*notes, *(event for line in lines if (event := decode(line)) is not None)]
        for event in events:
            if _is_result(event):
                self.result = event
        return [event for event in events if event["event"] in FROM_CELLS]

    def end(self) -> bool:
        """Kill the process and everything it has started. Returns False if a process does not end."""
        return process_group.kill_descendants()

    def close(self) -> None:
        """Write the rest of the output to the log, close the pipes and remove the scratch folder."""
        for _ in range(REST):
            if not self.keep_output():
                break
        for pipe in (self._events, self._output):
            os.close(pipe)
        if self._log is not None:
            self._log.close()
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
    pipes: tuple[int, int],
    worker: int,
    close: tuple[int, ...],
    scratch: str | None,
) -> NoReturn:
    """Run the cell in the new process, and end it without returning to the worker's code."""
    try:
        _detach(worker, close)
        messages = _Messages(pipes[0])
        _print_to(pipes[1])
        messages.write(f"== {order['label']}  attempt {order['attempt']}  {time.strftime('%Y-%m-%d %H:%M:%S')} ==")
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
        """Write a line to the log, whatever a plugin has done to the standard streams."""
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def event(self, event: Event) -> None:
        """Write an event to the log and send it."""
        text, printed = log_line(event), is_for_log_alone(event)
        if text is not None and (printed or text != self._last):
            self._last = text
            self.write(f"{clock_time()} {text}")
        if not printed:  # a program may print gigabytes
            self.send(event)


def _print_to(pipe: int) -> None:
    """Redirect stdout and stderr to a pipe, from which the worker writes the cell's log."""
    os.dup2(pipe, 1)
    os.dup2(pipe, 2)
    os.close(pipe)
