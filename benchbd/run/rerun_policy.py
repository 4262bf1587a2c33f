"""Decides from a cell's earlier record whether a run works on the cell."""

from __future__ import annotations

from typing import Any, Literal

FAILURES = frozenset({"failed", "diverged", "oom", "timeout"})
"""Statuses that the cell itself caused. Another run would most likely end the same way."""

INTERRUPTIONS = frozenset({"killed", "lost", "cancelled"})
"""Statuses with an outside cause. Such a cell simply runs again."""

RETRIABLE = frozenset({"failed", "oom", "timeout", "killed", "lost"})
"""Statuses after which ``--retries`` tries again. ``diverged`` is a result of the method, not bad luck."""


def attempts_of(record: dict[str, Any] | None) -> int:
    """Number of attempts at the cell so far without a result."""
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
    """Whether the cell has to run.

    No record: run. ``done``: keep, unless ``rerun`` is ``all``, or ``rerun`` is ``stale`` and the record is stale. A
    failure: keep, unless ``rerun`` is ``failed`` (or ``all``), or all runs so far made fewer than ``retries`` + 1
    attempts. An interruption: run. ``skipped`` (impossible on the actual data): keep.
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
