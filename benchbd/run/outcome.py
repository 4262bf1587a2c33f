"""The outcome of a run."""

from __future__ import annotations

import dataclasses
from collections import Counter

from benchbd.storage.record_schema import STATUSES as RECORDED

UNREADABLE = "unreadable"
"""Status of a cell whose record the system refuses to read. It may be a finished one, so the cell is left alone."""
STATUSES = (*RECORDED, UNREADABLE, "pending")
"""Every status of a planned cell; ``pending`` cells were not reached."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of every cell of a run.

    Attributes:
        statuses: status by cell ID, including cells that were already done.
        reasons: one line for each cell without a result.
        ran: IDs of the cells that this run worked on, in the order they ended.
        seconds: wall-clock seconds of the run.
        interrupted: why the run stopped early, or None.
    """

    statuses: dict[str, str]
    reasons: dict[str, str]
    ran: list[str]
    seconds: float
    interrupted: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells by status, in the order of STATUSES, without zeros."""
        count = Counter(self.statuses.values())
        return {status: count[status] for status in STATUSES if count[status]}

    @property
    def exit_code(self) -> int:
        """0: all done (or impossible); 130: stopped early (Ctrl-C, SIGTERM, ``--budget``); 1: some have no result."""
        if self.interrupted:
            return 130
        return 0 if all(status in ("done", "skipped") for status in self.statuses.values()) else 1
