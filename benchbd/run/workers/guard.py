"""Prevents orphans: a worker, its cell and all that they start die with the run, even if the run dies by SIGKILL.

The run starts a guard, which forks the worker before any heavy import and then only waits. Every descendant whose
parent dies becomes the guard's child, whatever session it has moved to. The guard kills all of them when the worker
dies, or when the run does: it then reads end-of-file from a pipe whose other end only the run holds. The kernel tells
it too (Linux), since a process that the run forked may still hold that end. If the guard itself is killed, the kernel
signals the worker, which kills its own descendants.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import tempfile
from typing import NoReturn

from benchbd.core import process_group
from benchbd.run.workers.wakeup import Wakeup

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def fork_guarded(run: int, run_pipe: int) -> str | None:
    """Fork. The child, which will be the worker, returns; this process guards it and never returns.

    Args:
        run: process ID of the run, which is this process's parent.
        run_pipe: read end of a pipe whose write end only the run holds. The run never writes to it.

    Returns:
        A folder for temporary files that is removed at the end, or None if none can be made.
    """
    process_group.die_with_parent(run, signal.SIGTERM)
    process_group.adopt_orphans()
    guard = os.getpid()
    scratch = _scratch_folder()
    worker = os.fork()
    if worker:
        _watch(worker, run_pipe, scratch)
    os.close(run_pipe)

    def end_worker(number: int, frame: object) -> None:
        process_group.kill_descendants()
        _remove(scratch)
        _die_of(number)

    signal.signal(signal.SIGTERM, end_worker)
    process_group.die_with_parent(guard, signal.SIGTERM)
    process_group.adopt_orphans()
    return scratch


def _scratch_folder() -> str | None:
    with contextlib.suppress(OSError):
        return tempfile.mkdtemp(prefix="benchbd-")
    return None


def _remove(scratch: str | None) -> None:
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)


def _watch(worker: int, run_pipe: int, scratch: str | None) -> NoReturn:
    """Wait for the end of the worker or of the run, kill everything, and end as the worker did."""
    numbers = [n for n in ENDING if signal.getsignal(n) != signal.SIG_IGN]
    # The worker's pipes must not be kept open here.
    os.dup2(run_pipe, 3)
    os.closerange(4, 4096)
    wakeup = Wakeup([signal.SIGCHLD, *numbers])
    ended = process_group.reap()
    while worker not in ended and not wakeup.heard & {*numbers} and 3 not in wakeup.wait(3):
        ended |= process_group.reap()
    status = ended.get(worker)
    process_group.kill_descendants()
    _remove(scratch)
    if status is None:
        _die_of(signal.SIGTERM)
    if os.WIFSIGNALED(status):
        _die_of(os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def _die_of(number: int) -> NoReturn:
    """End this process by a signal, without a core dump: the process that crashed has left its own."""
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
    os.kill(os.getpid(), number)
    os._exit(1)
