"""Ctrl-C once: finish what runs. Twice, or SIGTERM, or a closed terminal: stop at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Signals:
    """Counts what was asked for while a run goes on; a context manager.

    Args:
        interrupt: raise KeyboardInterrupt at the second request, because the cell runs in this very thread.

    Attributes:
        count: 0: go on; 1: start nothing more; 2 or more: stop at once.
        leave: SIGTERM or SIGHUP came; jobs that can live without the run are left alone.
    """

    def __init__(self, interrupt: bool) -> None:
        self.count = 0
        self.leave = False
        self._interrupt = interrupt
        self._before: dict[int, Any] = {}

    def _polite(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count >= 2 and self._interrupt:
            raise KeyboardInterrupt

    def _firm(self, number: int, frame: FrameType | None) -> None:
        self.leave = True
        self.count = max(1, self.count)
        self._polite(number, frame)

    def __enter__(self) -> Signals:
        # Only the main thread may set handlers; in another one signals stay as they are.
        if threading.current_thread() is threading.main_thread():
            handlers = {signal.SIGINT: self._polite, signal.SIGTERM: self._firm, signal.SIGHUP: self._firm}
            self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
