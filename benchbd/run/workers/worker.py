"""A worker process, which runs the cells of one slot one after another: ``python -m benchbd.run.workers.worker``.

The worker imports torch and everything that cells need only once, and forks a process for each cell
(:mod:`benchbd.run.workers.cell_process`). It has one thread, no CUDA context, and never runs a user's code. The run and
the worker exchange JSON lines over two dedicated pipes. A guard keeps everything from outliving the run
(:mod:`benchbd.run.workers.guard`).
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import json
import os
import signal

from benchbd.core import process_group
from benchbd.core.events import Event, encode
from benchbd.run.workers.cell_process import CellProcess
from benchbd.run.workers.guard import fork_guarded
from benchbd.run.workers.one_cell import Execute, load_execute
from benchbd.run.workers.wakeup import Wakeup
from benchbd.run.workers.warm import warm_for, warm_up


class Worker:
    """The worker's main loop on its two pipes."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.execute: Execute = load_execute(settings.execute)
        self.wakeup = Wakeup([signal.SIGCHLD])
        self.cell: CellProcess | None = None
        self._commands = b""

    def say(self, event: Event) -> None:
        """Send an event to the run. If the run is gone, end."""
        data = encode(event)
        while data:
            try:
                data = data[os.write(self.settings.events, data) :]
            except BrokenPipeError:
                self.leave()

    def leave(self) -> None:
        """End with everything that was started."""
        process_group.kill_descendants()
        if self.cell is not None:
            self.cell.close()
        os._exit(0)

    def serve(self) -> None:
        """Run cells until the command pipe closes."""
        warm_up()
        self.say({"event": "ready", "pid": os.getpid()})
        while True:
            pipes = [] if self.cell is None else self.cell.open_pipes
            ready = self.wakeup.wait(self.settings.commands, *pipes)
            if self.cell is not None:
                self.relay(self.cell)
                status = process_group.reap().get(self.cell.pid)
                if status is not None:
                    self.ended(self.cell, os.waitstatus_to_exitcode(status))
            if self.settings.commands in ready:
                self.obey()

    def obey(self) -> None:
        """Read commands: a cell to run, or ``stop`` with the ID of the cell to stop."""
        chunk = os.read(self.settings.commands, 1 << 16)
        if not chunk:
            self.leave()
        *lines, self._commands = (self._commands + chunk).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "stop" not in order:
                warm_for(order["cell"])
                ours = (self.settings.commands, self.settings.events, *self.wakeup.handles)
                self.cell = CellProcess(self.execute, order, self.settings, close=ours)
            elif self.cell is not None and self.cell.id == order["stop"]:
                self.ended(self.cell, None)

    def relay(self, cell: CellProcess) -> None:
        """Pass on the cell's events, and its output to its log."""
        cell.keep_output()
        for event in cell.read():
            self.say(event)

    def ended(self, cell: CellProcess, code: int | None) -> None:
        """Clean up after a cell, then report its end.

        Args:
            cell: the cell.
            code: exit code of its process, negative for a signal; None to stop the cell.
        """
        gone = cell.end()
        self.relay(cell)
        cell.close()
        self.cell = None
        event: Event = {"event": "ended", "id": cell.id}
        if code is None:
            event["stopped"] = True
        elif cell.result is None:
            event["code"] = code
        else:
            event |= cell.result
        self.say(event)
        if not gone:  # the run replaces this worker, and its guard tries once more
            self.leave()


def main() -> None:
    """Entry point; only :class:`benchbd.run.workers.local.LocalExecutor` starts it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchbd.run.workers.worker", description="Internal: runs cells for a benchbd run."
    )
    for name in ("commands", "events", "run-pipe", "parent", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("output", "device", "execute"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--data")
    parser.add_argument("--plugin", action="append", default=[])
    settings = parser.parse_args()
    settings.scratch = fork_guarded(settings.parent, settings.run_pipe)
    faulthandler.enable()
    with contextlib.suppress(KeyboardInterrupt):
        Worker(settings).serve()


if __name__ == "__main__":
    main()
