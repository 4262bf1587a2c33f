"""No orphans: a worker's whole process group dies with the run that started it, also by SIGKILL.

Three nets, because each has a hole. The kernel kills the worker itself when its parent dies (Linux), but none of the
processes the worker started. A watchdog, forked before anything heavy is imported, sleeps on a pipe whose other end
only the run holds, and kills the group when it closes. The worker reads end-of-file on its command pipe.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to SIGKILL this process when its parent dies; exit at once where it already has.

    Args:
        parent: process id of the run, as the run itself gave it.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def start_watchdog(lifeline: int) -> None:
    """Fork a process that SIGKILLs this process group once ``lifeline`` reads end-of-file.

    Must be called by the group's leader while it has one thread.

    Args:
        lifeline: read end of a pipe whose write end only the run holds. Nothing is ever written to it.
    """
    if os.fork():
        os.close(lifeline)
        return
    # Everything but the lifeline is let go, so that no pipe of the worker stays open because of its watchdog.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.dup2(lifeline, 3)
    os.closerange(0, 3)
    os.closerange(4, 4096)
    with contextlib.suppress(OSError):
        while os.read(3, 1):
            pass
    os.killpg(os.getpgid(0), signal.SIGKILL)


def kill_group(leader: int) -> None:
    """SIGKILL everything in a process group; it may be gone already."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)
