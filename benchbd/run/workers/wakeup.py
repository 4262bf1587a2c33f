"""Waits for file descriptors and signals at once."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
from collections.abc import Iterable


class Wakeup:
    """Turns signals into something that :func:`wait` can wait for. The main thread creates and closes it.

    Attributes:
        heard: numbers of the signals that arrived so far.
        handles: its file descriptors, which a forked process closes.
    """

    def __init__(self, numbers: Iterable[int]) -> None:
        self.heard: set[int] = set()
        self._read, self._write = os.pipe()
        for end in (self._read, self._write):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self.handles = (self._read, self._write)
        self._before = {number: signal.signal(number, lambda n, frame: self.heard.add(n)) for number in numbers}

    def wait(self, *handles: int) -> set[int]:
        """Wait until a signal arrives or a file descriptor is readable. Returns the readable ones."""
        with selectors.DefaultSelector() as selector:
            for handle in (*handles, self._read):
                selector.register(handle, selectors.EVENT_READ)
            ready = {key.fd for key, _ in selector.select()}
        with contextlib.suppress(BlockingIOError):
            while os.read(self._read, 4096):
                pass
        return ready - {self._read}

    def close(self) -> None:
        """Restore the former handlers."""
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)
