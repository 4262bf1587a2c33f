"""Which cells a run works on: what an earlier record means for it."""

from __future__ import annotations

from typing import Any, Literal

FAILURES = frozenset({"failed", "diverged", "oom", "timeout"})
"""Ends that the cell brought on itself: running it again would most likely bring them again."""

INTERRUPTIONS = frozenset({"killed", "lost", "cancelled"})
"""Ends that came from outside. Such a cell simply runs again."""

RETRIABLE = frozenset({"failed", "oom", "timeout", "killed", "lost"})
"""Ends after which ``--retries`` tries again. ``diverged`` is a result of the method, not of bad luck."""


def attempts_of(record: dict[str, Any] | None) -> int:
    """Times the cell was tried so far without a result."""
    if record is None or record.get("status") == "done":
        return 0
    tried = record.get("attempts", 1)
    return tried if isinstance(tried, int) and tried > 0 else 1


def needs_run(
    record: dict[str, Any] | None,
    *,
    rerun: Literal["failed", "stale", "all"] | None = None,
    stale: bool = False,
    retries: int = 0,
) -> bool:
    """True where the cell has to run.

    No record: run. ``done``: keep, unless ``rerun`` is ``all``, or ``stale`` and the record is. A failure: keep, unless
    ``rerun`` is ``failed`` (or ``all``), or fewer than ``retries`` + 1 attempts were made in all runs so far. An
    interruption: run. ``skipped`` (found impossible on the data itself): keep.
    """
    if record is None or rerun == "all":
        return True
    if rerun == "stale" and stale:
        return True
    status = record.get("status")
    if status in ("done", "skipped"):
        return False
    if status in FAILURES:
        return rerun == "failed" or (status in RETRIABLE and attempts_of(record) <= retries)
    return True
