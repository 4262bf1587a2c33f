"""Runs one cell in the process that calls it."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchbd.core.events import Listener
from benchbd.core.forks import only_this_process
from benchbd.errors import RunStopped

Execute = Callable[..., dict[str, Any]]


def load_execute(name: str) -> Execute:
    """The function ``module:function`` that runs one cell."""
    module, _, function = name.partition(":")
    found: Execute = getattr(importlib.import_module(module), function)
    return found


def set_threads(threads: int) -> None:
    """Let torch, and the numerical libraries that are already loaded, use the slot's number of threads."""
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
        with contextlib.suppress(RuntimeError):  # torch accepts this only before the first parallel work
            torch.set_num_interop_threads(1)
    if "threadpoolctl" in sys.modules and threads > 1:
        sys.modules["threadpoolctl"].threadpool_limits(threads)


def run_one(
    execute: Execute, order: dict[str, Any], settings: argparse.Namespace, on_event: Listener
) -> tuple[str, str, bool]:
    """Run one cell.

    Returns:
        The status, the reason in one line (empty if done), and whether the record was written.

    Raises:
        RunStopped, KeyboardInterrupt: the user, or the time limit, stops the cell.
    """
    try:
        with only_this_process():
            record = execute(
                order["cell"],
                output=Path(settings.output),
                data_root=settings.data,
                device=settings.device,
                plugins=settings.plugin,
                on_event=on_event,
            )
    except (KeyboardInterrupt, RunStopped):
        raise
    except BaseException as error:
        # ``execute`` records errors inside a cell. This handles errors around it, such as a full disk. The log may be
        # on that disk too, and a failed print must not end the worker: the cell would be blamed for it.
        with contextlib.suppress(OSError, ValueError):
            traceback.print_exc()
        return "failed", " ".join(f"{type(error).__name__}: {error}".split()), False
    return str(record.get("status", "failed")), str(record.get("error") or ""), True


def clock_time() -> str:
    """Local time of day for log lines."""
    return time.strftime("%H:%M:%S")
