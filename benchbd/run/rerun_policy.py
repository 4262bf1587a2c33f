"""Decides from a cell's earlier record whether a run works on the cell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from benchbd.storage import records

if TYPE_CHECKING:
    from benchbd.run.settings import RunSettings

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
    failed_rerun: bool = False,
) -> bool:
    """Whether the cell has to run.

    No record: run. ``done``: keep, unless ``rerun`` is ``all``, or ``rerun`` is ``stale`` and the record is stale, or
    ``rerun`` is ``failed`` and a rerun of the cell has failed (``failed_rerun``) while the earlier result stays. A
    failure: keep, unless ``rerun`` is ``failed`` (or ``all``), or all runs so far made fewer than ``retries`` + 1
    attempts. An interruption: run. ``skipped`` (impossible on the actual data): keep.
    """
    if record is None or rerun == "all":
        return True
    if (rerun == "stale" and stale) or (rerun == "failed" and failed_rerun):
        return True
    status = record.get("status")
    if status in ("done", "skipped"):
        return False
    if status in FAILURES:
        return rerun == "failed" or (status in RETRIABLE and attempts_of(record) <= retries)
    return True


def run_works_on(cell_id: str, record: dict[str, Any] | None, settings: RunSettings) -> bool:
    """Whether a run with these settings works on a cell whose record is ``record`` (see :func:`needs_run`)."""
    failed = settings.rerun == "failed" and records.failed_rerun(settings.output, cell_id) is not None
    stale = cell_id in settings.stale
    return needs_run(record, rerun=settings.rerun, stale=stale, retries=settings.retries, failed_rerun=failed)
