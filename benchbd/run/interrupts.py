"""Signal handling. Ctrl-C once finishes the running cells; twice stops at once, as do SIGTERM and a closed terminal.

Under ``nohup``, a closed terminal stops nothing.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Signals:
    """Counts stop requests during a run; a context manager.

    Args:
        interrupt: whether to raise KeyboardInterrupt at the second request, because the cell runs in this thread.

    Attributes:
        count: 0: continue; 1: start no more cells; 2 or more: stop at once.
        leave: whether SIGTERM or SIGHUP arrived. Jobs that can outlive the run are then left running.
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
        # Only the main thread may set handlers. In another thread, the handlers stay as they are.
        if threading.current_thread() is threading.main_thread():
            handlers = {signal.SIGINT: self._polite, signal.SIGTERM: self._firm}
            if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup wants the run to outlive its terminal
                handlers[signal.SIGHUP] = self._firm
            self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
