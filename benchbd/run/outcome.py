"""How a run ended."""

from __future__ import annotations

import dataclasses
from collections import Counter

from benchbd.storage.record_schema import STATUSES as RECORDED

STATUSES = (*RECORDED, "pending")
"""Every end a planned cell can come to; ``pending`` cells were not reached."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of every cell of a run.

    Attributes:
        statuses: status by cell id, the cells that were already done included.
        reasons: one line for each cell without a result.
        ran: ids of the cells that this run worked on, in the order they ended.
        seconds: wall-clock of the run.
        interrupted: why the run stopped early, or None.
    """

    statuses: dict[str, str]
    reasons: dict[str, str]
    ran: list[str]
    seconds: float
    interrupted: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Number of cells by status, in the order of STATUSES; zeros left out."""
        count = Counter(self.statuses.values())
        return {status: count[status] for status in STATUSES if count[status]}

    @property
    def exit_code(self) -> int:
        """0: all done (or impossible); 130: stopped early (Ctrl-C, SIGTERM, ``--budget``); 1: some have no result."""
        if self.interrupted:
            return 130
        return 0 if all(status in ("done", "skipped") for status in self.statuses.values()) else 1
