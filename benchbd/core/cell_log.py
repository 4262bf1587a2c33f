"""The log of a cell, which has a limit: whatever a plugin or a program prints, it never fills the disk."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from benchbd.core.files import open_own

KEPT = 1 << 20
"""Bytes of the first part and, at least, of the last part of an attempt that its log keeps."""
LEFT_OUT = b" bytes of output are left out here"
"""What the notice says after the number."""
LONGEST = 3 * KEPT
"""Bytes of an attempt from which on its middle is left out."""


class CellLog:
    """Appends what one attempt at a cell prints to a file, and leaves out the middle of more than ``LONGEST`` bytes.

    One line in the place of the middle says how much is missing. Only one process may write to the file.

    Args:
        path: the log; earlier attempts in it stay. What lies there instead is moved aside (:func:`open_own`).

    Attributes:
        handle: its file descriptor.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.handle = open_own(path, os.O_RDWR)
        self._start = os.lseek(self.handle, 0, os.SEEK_END)
        self._head: int | None = None
        """Bytes of the first part, once something is left out; the notice and the last part follow it."""
        self._notice = b""
        self._left_out = 0

    def write(self, data: bytes) -> None:
        """Append bytes. A full disk loses them: it must not end a cell that could still succeed."""
        with contextlib.suppress(OSError):
            end = os.lseek(self.handle, 0, os.SEEK_END)
            if end < self._start:  # somebody has emptied it
                self._start, self._head, self._notice, self._left_out = end, None, b"", 0
            while data:
                written = os.write(self.handle, data[:KEPT])
                data, end = data[written:], end + written
                if end - self._start > LONGEST:
                    self._shorten(end)
                    end = os.lseek(self.handle, 0, os.SEEK_END)

    def _shorten(self, end: int) -> None:
        """Leave out what lies between the first and the last part, at ends of lines where there are any."""
        if self._head is None:
            first = os.pread(self.handle, KEPT, self._start)
            self._head = first.rfind(b"\n", KEPT // 2) + 1 or len(first)
        last = os.pread(self.handle, KEPT, end - KEPT)
        last = last[last.find(b"\n", 0, KEPT // 2) + 1 :]
        at = self._start + self._head
        self._left_out += end - len(last) - at - len(self._notice)
        self._notice = notice(self._left_out)
        # The new end is written before the old one goes, so that a kill in between loses nothing.
        rest = self._notice + last
        os.truncate(self.handle, at + os.pwrite(self.handle, rest, at))

    def close(self) -> None:
        """Close the file."""
        os.close(self.handle)


def place_after(handle: int, at: int, read: bytes) -> int:
    """Where a reader of a growing log goes on, whose place moves when a middle is left out.

    Args:
        handle: the log's file descriptor.
        at: the place up to which it has read.
        read: the last bytes that it has read there.

    Returns:
        The place after these bytes; that of the notice, if they are left out; 0 in a log that was emptied.
    """
    if os.pread(handle, len(read), at - len(read)) == read:
        return at
    size = os.fstat(handle).st_size
    start = max(0, size - 2 * LONGEST)
    text = os.pread(handle, size - start, start)
    if (found := text.rfind(read)) >= 0:
        return start + found + len(read)
    # The last notice is that of the attempt that runs.
    return start + max(0, text.rfind(b"\n", 0, max(0, text.rfind(LEFT_OUT))))


def notice(left_out: int) -> bytes:
    """The line that stands for a number of bytes that a log leaves out."""
    limit = f"a log keeps the first {KEPT >> 20} MiB and the last of an attempt"
    return f"\n== {left_out:,}".encode() + LEFT_OUT + f": {limit} ==\n".encode()
