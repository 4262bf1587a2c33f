"""The parent process of a program of somebody else: it ends the program in time, with everything that it has started.

It is a process of its own, so that it may adopt orphans and reap any child without touching those of its caller.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from typing import Any, NoReturn

from benchbd.core import process_group


def main(arguments: list[str]) -> NoReturn:
    """Run a program as :func:`supervise` does; its arguments as text."""
    caller, report, seconds, *words = arguments
    supervise(int(caller), int(report), float(seconds), words)


def supervise(caller: int, report: int, seconds: float, words: list[str]) -> NoReturn:
    """Run a program, and write one JSON object about its end to a pipe.

    The object has ``status`` (as of ``os.waitpid``; null if it was ended here), ``timed_out``, ``peak`` (bytes of the
    largest process) and ``error`` (why the program did not start, or null).

    Args:
        caller: process ID of the caller, with which everything ends.
        report: file descriptor of the pipe.
        seconds: time limit.
        words: the program and its arguments.
    """
    process_group.adopt_orphans()

    def end(number: int, frame: object) -> None:
        process_group.kill_descendants()
        if number == signal.SIGALRM:
            _report(report, status=None, timed_out=True)
        os._exit(1)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGALRM, end)
    process_group.die_with_parent(caller, signal.SIGTERM)
    this = os.getpid()
    try:
        # Nothing else runs in this process that a function between fork and exec could disturb.
        program = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, preexec_fn=lambda: process_group.die_with_parent(this)
        )
    except OSError as error:
        _report(report, error=error.strerror or str(error))
        os._exit(1)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == program.pid:
            break
    signal.setitimer(signal.ITIMER_REAL, 0)
    process_group.kill_descendants()
    _report(report, status=status)
    os._exit(0)


def _report(pipe: int, **facts: Any) -> None:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    full = {"status": None, "timed_out": False, "peak": peak, "error": None, **facts}
    os.write(pipe, json.dumps(full).encode())
