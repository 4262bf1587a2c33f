"""A worker process, which runs the cells of one slot one after another: ``python -m benchbd.run.workers.worker``.

The run and the worker exchange JSON lines over two dedicated pipes. Stdout and stderr, including native crash reports,
go to the running cell's log. Torch is imported only once. The worker leads its own process group, which dies with the
run (:mod:`benchbd.run.workers.process_group`).
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import importlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchbd.core.events import Event, Listener, encode, log_line
from benchbd.core.files import open_log
from benchbd.run.workers import process_group

Execute = Callable[..., dict[str, Any]]


def load_execute(name: str) -> Execute:
    """The function ``module:function`` that runs one cell."""
    module, _, function = name.partition(":")
    found: Execute = getattr(importlib.import_module(module), function)
    return found


def set_threads(threads: int) -> None:
    """Limit torch to the slot's number of threads."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
        with contextlib.suppress(RuntimeError):  # torch accepts this only before the first parallel work
            torch.set_num_interop_threads(1)


def device_is_sound() -> bool:
    """False if CUDA has failed in this process. Such errors persist: every later call fails too."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        torch.zeros(8, device="cuda").sum().item()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    except RuntimeError:
        return False
    return True


def run_one(
    execute: Execute, order: dict[str, Any], settings: argparse.Namespace, on_event: Listener
) -> tuple[str, str, bool]:
    """Run one cell.

    Returns:
        The status, the reason in one line (empty if done), and whether the record was written.
    """
    try:
        record = execute(
            order["cell"],
            output=Path(settings.output),
            data_root=settings.data,
            device=settings.device,
            plugins=settings.plugin,
            on_event=on_event,
        )
    except Exception as error:
        # ``execute`` records errors inside a cell. This handles errors around it, such as a full disk. The log may be
        # on that disk too, and a failed print must not end the worker: the cell would be blamed for it.
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exc()
        return "failed", " ".join(f"{type(error).__name__}: {error}".split()), False
    return str(record.get("status", "failed")), str(record.get("error") or ""), True


def clock_time() -> str:
    """Local time of day for log lines."""
    return time.strftime("%H:%M:%S")


class Worker:
    """The worker's main loop on its two pipes."""

    def __init__(self, settings: argparse.Namespace) -> None:
        self.settings = settings
        self.commands = os.fdopen(settings.commands, "rb")
        self.events = settings.events
        self.lock = threading.Lock()
        self.execute: Execute | None = None

    def say(self, event: Event) -> None:
        """Send an event to the run. If the run is gone, kill the process group."""
        data = encode(event)
        with self.lock:
            try:
                while data:
                    data = data[os.write(self.events, data) :]
            except BrokenPipeError:
                process_group.kill_group(os.getpgid(0))

    def open_log(self, order: dict[str, Any]) -> None:
        """Redirect stdout and stderr to the cell's log."""
        handle = open_log(Path(self.settings.output) / "logs" / f"{order['id']}.log")
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.close(handle)
        self.write(f"== {order['label']}  attempt {order['attempt']}  {time.strftime('%Y-%m-%d %H:%M:%S')} ==")

    def write(self, line: str) -> None:
        """Write a line to the open log. A full disk must not end a cell that could still succeed."""
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()

    def serve(self) -> None:
        """Run cells until the command pipe closes."""
        self.execute = load_execute(self.settings.execute)
        set_threads(self.settings.threads)
        self.say({"event": "ready", "pid": os.getpid()})
        for line in self.commands:
            order = json.loads(line)
            try:
                self.open_log(order)
            except OSError as error:
                self.say({"event": "note", "text": f"no log for {order['id']}: {error}"})

            def on_event(event: Event, last: list[str] = [""]) -> None:  # noqa: B006 - a new list for each cell
                text = log_line(event)
                if text is not None and text != last[0]:
                    last[0] = text
                    self.write(f"{clock_time()} {text}")
                self.say(event)

            os.environ["BENCHBD_GPU_SHARE"] = str(order.get("share") or "")
            status, reason, recorded = run_one(self.execute, order, self.settings, on_event)
            self.write(f"{clock_time()} {status}{': ' if reason else ''}{reason}")
            sound = status == "done" or device_is_sound()
            gc.collect()
            self.say(
                {
                    "event": "ended",
                    "id": order["id"],
                    "status": status,
                    "reason": reason,
                    "recorded": recorded,
                    "sound": sound,
                }
            )


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
    process_group.die_with_parent(settings.parent)
    process_group.start_watchdog(settings.run_pipe)
    faulthandler.enable()
    Worker(settings).serve()


if __name__ == "__main__":
    main()
