"""A part of ``make gpu`` in a process of its own, which is killed with all that it started when its time is up."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE = 5.0
"""Seconds that a process has to end after SIGTERM."""


def run_part(
    command: Sequence[str],
    *,
    seconds: float,
    environment: Mapping[str, str],
    log: Path,
    fact: Callable[[dict[str, Any]], None],
    tick: Callable[[], None] = lambda: None,
) -> str:
    """Run a command; returns how it ended: ``done``, ``stopped: ...`` or ``failed: ...``.

    Args:
        command: program and arguments. Each line of its output that is a JSON object is a fact.
        seconds: when to stop it.
        environment: its variables.
        log: file to which its other output is appended.
        fact: gets each fact.
        tick: is called about once a second.
    """
    deadline = time.monotonic() + seconds
    with log.open("ab") as errors:
        errors.write(f"== {' '.join(command[1:])}\n".encode())
        errors.flush()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=dict(environment), start_new_session=True
        )
        try:
            ended = _relay(process, deadline, fact, errors.write, tick)
        finally:
            _end(process)
    if not ended:
        return f"stopped: its {seconds:.0f} s were over"
    return "done" if process.returncode == 0 else f"failed: exit code {process.returncode}; see {log.name}"


def _relay(
    process: subprocess.Popen[bytes],
    deadline: float,
    fact: Callable[[dict[str, Any]], None],
    other: Callable[[bytes], object],
    tick: Callable[[], None],
) -> bool:
    """Pass on the output until it ends. Returns False if the deadline came first."""
    assert process.stdout is not None
    buffer = b""
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while (left := deadline - time.monotonic()) > 0:
            ready = selector.select(min(1.0, left))
            tick()
            if not ready:
                continue
            chunk = os.read(process.stdout.fileno(), 1 << 16)
            *lines, buffer = (buffer + chunk).split(b"\n")
            for line in lines:
                _pass_on(line, fact, other)
            if not chunk:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, deadline - time.monotonic()))
                return process.returncode is not None
    return False


def _pass_on(line: bytes, fact: Callable[[dict[str, Any]], None], other: Callable[[bytes], object]) -> None:
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict) and "text" in found:
            sys.stdout.write(f"  {found['text']}\n")
            sys.stdout.flush()
            fact(found)
            return
    other(line + b"\n")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its whole group: nicely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(PATIENCE)
    if process.stdout is not None:
        process.stdout.close()
