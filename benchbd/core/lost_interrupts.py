"""Ctrl-C at a moment when Python cannot raise it."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

MOMENT = 0.01
"""Seconds until the signal is sent again."""


@contextlib.contextmanager
def no_interrupt_is_lost() -> Iterator[None]:
    """Send SIGINT again, within the block, after Python could only print and drop its KeyboardInterrupt.

    The signal may arrive while a finaliser or a callback of a weak reference runs, such as those of the import system.
    Nothing can be raised from there, and nothing from the hook that hears of it: the signal comes a moment later.
    """
    before = sys.unraisablehook

    def again(lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            later = threading.Timer(MOMENT, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
            later.daemon = True
            later.start()
        else:
            before(lost)

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = before
