"""Prevents orphans: a worker's whole process group dies with its run, even if the run dies by SIGKILL.

There are three mechanisms, because each has a gap. The kernel kills the worker itself when its parent dies (Linux), but
not the processes that the worker started. A watchdog, forked before any heavy import, blocks on a pipe whose other end
only the run holds, and kills the group when the pipe closes. The worker reads end-of-file on its command pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to SIGKILL this process when its parent dies. Exit at once if the parent is already dead.

    Args:
        parent: process ID of the run, as passed by the run.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def start_watchdog(run_pipe: int) -> None:
    """Fork a process that SIGKILLs this process group once ``run_pipe`` reads end-of-file.

    The group's leader must call this while it has one thread.

    Args:
        run_pipe: read end of a pipe whose write end only the run holds. The run never writes to it.
    """
    if os.fork():
        os.close(run_pipe)
        return
    # Close everything but ``run_pipe``, so that the watchdog does not keep the worker's other pipes open.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(run_pipe, 3)
    os.closerange(0, 3)
    os.closerange(4, 4096)
    with contextlib.suppress(OSError):
        while os.read(3, 1):
            pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def kill_group(leader: int) -> None:
    """SIGKILL every process of a group. The group may already be gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
