"""Wall-clock times and training counts. Times are compared on one device only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchbd.report.groups import Group
from benchbd.report.labels import Variant

UNKNOWN = "an unnamed device"


def device_of(record: Mapping[str, Any]) -> str:
    """The name of the record's device, with its precision class and GPU share."""
    env = record.get("env") or {}
    device = env.get("device_name") or env.get("device")
    if isinstance(device, Mapping):
        device = device.get("name")
    if not isinstance(device, str) or not device:
        return UNKNOWN
    parts = [device, *(str(env[key]) for key in ("precision",) if env.get(key))]
    if env.get("gpu_share"):
        parts.append(f"shared by {env['gpu_share']}")
    return ", ".join(parts)


def total_of(record: Mapping[str, Any]) -> float | None:
    """Seconds the cell would have taken alone; None if unknown."""
    total = (record.get("time") or {}).get("total")
    return float(total) if total is not None else None


class Clock:
    """The times of a group's finished cells.

    Attributes:
        device: the device that timed the most cells, used for all comparisons. A named device takes precedence over
            an unnamed one. None if no cell was timed.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        times: dict[str, tuple[str, float]] = {}
        for entry in group.entries.values():
            for record in entry.done():
                seconds = total_of(record)
                if seconds is not None:
                    times[record["id"]] = (device_of(record), seconds)
        counts = Counter(device for device, _ in times.values())
        self.device = max(counts, key=lambda name: (name != UNKNOWN, counts[name], name)) if counts else None
        self._seconds = {ident: seconds for ident, (device, seconds) in times.items() if device == self.device}

    def seconds(self, record: Mapping[str, Any]) -> float | None:
        """A cell's time in seconds if it was measured on ``device``, else None."""
        return self._seconds.get(record["id"])

    def mean(self, column: Variant) -> tuple[float, int] | None:
        """Mean seconds over a column's timed cells, and the number of those cells."""
        done = (record for row in self._group.rows for record in self._group.entry(row, column).done())
        times = [seconds for record in done if (seconds := self.seconds(record)) is not None]
        return (math.fsum(times) / len(times), len(times)) if times else None

    def relative(self, column: Variant) -> tuple[float, int] | None:
        """Time relative to no defense over the cells that both finished: ratio of the sums, and number of pairs."""
        return self._group.remembered(("relative time", column), lambda: self._relative(column))

    def _relative(self, column: Variant) -> tuple[float, int] | None:
        undefended = self._group.undefended()
        if undefended is None:
            return None
        pairs = []
        for row in self._group.rows:
            by_seed = {r["seed"]: self.seconds(r) for r in self._group.entry(row, undefended).done()}
            for record in self._group.entry(row, column).done():
                seconds, undefended_seconds = self.seconds(record), by_seed.get(record["seed"])
                if seconds is not None and undefended_seconds:
                    pairs.append((seconds, undefended_seconds))
        return (math.fsum(a for a, _ in pairs) / math.fsum(b for _, b in pairs), len(pairs)) if pairs else None


def trainings(group: Group, column: Variant) -> dict[str, float]:
    """Mean number of trainings by kind that a column's finished cells requested; some may have been shared."""
    return group.remembered(("trainings", column), lambda: _trainings(group, column))


def _trainings(group: Group, column: Variant) -> dict[str, float]:
    total: dict[str, float] = {}
    cells = 0
    for row in group.rows:
        for record in group.entry(row, column).done():
            if counts := record.get("trainings"):
                cells += 1
                for kind, count in counts.items():
                    if count:
                        total[kind] = total.get(kind, 0) + count
    return {kind: n / cells for kind, n in total.items()} if cells else {}
