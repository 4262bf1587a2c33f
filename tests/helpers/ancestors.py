"""Processes above a process."""

from __future__ import annotations

from pathlib import Path


def parent(pid: int) -> int:
    """The process that started another; 0 where that one has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def ancestor(pid: int, word: str) -> int:
    """The nearest process above another with a word in its command line.

    Raises:
        LookupError: there is no such process.
    """
    above = parent(pid)
    while above:
        if word.encode() in Path(f"/proc/{above}/cmdline").read_bytes():
            return above
        above = parent(above)
    raise LookupError(f"no process above {pid} has {word!r} in its command line")
