"""Wall-clock times, compared on one named device only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from benchbd.report.groups import Group
from benchbd.report.labels import Variant

UNKNOWN = "an unnamed device"


def device_of(record: Mapping[str, Any]) -> str:
    """The device a record was measured on, as its environment names it, with the precision class."""
    env = record.get("env") or {}
    device = env.get("device_name") or env.get("device")
    if isinstance(device, Mapping):
        device = device.get("name")
    if not isinstance(device, str) or not device:
        return UNKNOWN
    told = [device, *(str(env[key]) for key in ("precision",) if env.get(key))]
    if env.get("gpu_share"):
        told.append(f"shared by {env['gpu_share']}")
    return ", ".join(told)


def total_of(record: Mapping[str, Any]) -> float | None:
    """Seconds that the cell would have cost alone."""
    total = (record.get("time") or {}).get("total")
    return float(total) if total is not None else None


class Clock:
    """The times of a group's finished cells.

    Attributes:
        device: the device on which most of them were timed, which all comparisons are made on; None where none was.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._times: dict[str, tuple[str, float]] = {}
        for entry in group.entries.values():
            for record in entry.done():
                seconds = total_of(record)
                if seconds is not None:
                    self._times[record["id"]] = (device_of(record), seconds)
        counts = Counter(device for device, _ in self._times.values())
        self.device = max(counts, key=lambda name: (name != UNKNOWN, counts[name], name)) if counts else None

    def seconds(self, record: Mapping[str, Any]) -> float | None:
        """A cell's time where it was measured on the device, else None."""
        device, seconds = self._times.get(record["id"], (None, 0.0))
        return seconds if device is not None and device == self.device else None

    def mean(self, column: Variant) -> tuple[float, int] | None:
        """Mean seconds of a column's cells, and how many those are."""
        done = (record for row in self._group.rows for record in self._group.entry(row, column).done())
        times = [seconds for record in done if (seconds := self.seconds(record)) is not None]
        return (math.fsum(times) / len(times), len(times)) if times else None

    def relative(self, column: Variant) -> tuple[float, int] | None:
        """Time relative to no defense over the cells both finished: ratio of the sums, number of pairs."""
        plain = self._group.undefended()
        if plain is None:
            return None
        pairs = []
        for row in self._group.rows:
            other = {r["seed"]: self.seconds(r) for r in self._group.entry(row, plain).done()}
            for record in self._group.entry(row, column).done():
                mine, theirs = self.seconds(record), other.get(record["seed"])
                if mine is not None and theirs:
                    pairs.append((mine, theirs))
        return (math.fsum(a for a, _ in pairs) / math.fsum(b for _, b in pairs), len(pairs)) if pairs else None


def trainings(group: Group, column: Variant) -> dict[str, float]:
    """Mean number of trainings of each kind that a column's finished cells asked for (some may have been shared)."""
    total: Counter[str] = Counter()
    cells = 0
    for row in group.rows:
        for record in group.entry(row, column).done():
            if counts := record.get("trainings"):
                total.update({k: v for k, v in counts.items() if v})
                cells += 1
    return {kind: n / cells for kind, n in total.items()} if cells else {}
