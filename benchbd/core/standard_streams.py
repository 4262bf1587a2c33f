"""Standard input, output and error that may be closed, or whose reader may go away."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

_MODES = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_standard_streams() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed on the null device.

    Call this before anything else is opened: a pipe or file that got such a number would receive all messages.
    """
    for handle, (name, mode) in enumerate(_MODES):
        try:
            os.fstat(handle)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != handle:
                os.dup2(null, handle)
                os.close(null)
            os.set_inheritable(handle, True)
        if getattr(sys, name) is None:
            stream = open(handle, mode, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


def discard(stream: TextIO) -> None:
    """Send what is written to a stream from now on, and what it still holds, to the null device."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


class _Lasting:
    """A stream that goes on without its reader: what cannot be written is lost, and nothing is raised."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            discard(self._stream)
            return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def lasting_stderr() -> Iterator[None]:
    """Messages that can no longer be written are dropped within the block, and the command goes on.

    The reader of a pipe may have ended, the terminal may be closed, the disk of a log file may be full.
    """
    before = sys.stderr
    sys.stderr = cast("TextIO", _Lasting(before))
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before


def on_terminal(stream: TextIO) -> bool:
    """Whether a person reads a stream on a terminal that can show tables. CI does not count as one."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb") and not os.environ.get("CI")
