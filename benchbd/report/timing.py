"""Wall-clock times, compared on one named device only."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
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


def main_device(group: Group) -> str | None:
    """The device on which most of a group's finished cells were timed; None where no cell was."""
    counts = Counter(
        device_of(record) for entry in group.entries.values() for record in entry.done() if total_of(record) is not None
    )
    return max(counts, key=lambda name: (name != UNKNOWN, counts[name], name)) if counts else None


def mean_time(group: Group, column: Variant, device: str | None) -> tuple[float, int] | None:
    """Mean seconds of a column's finished cells on one device, and how many those are."""
    times = [
        seconds
        for row in group.rows
        for record in group.entry(row, column).done()
        if device_of(record) == device and (seconds := total_of(record)) is not None
    ]
    return (math.fsum(times) / len(times), len(times)) if times else None


def _pairs(group: Group, column: Variant) -> Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Finished (defended, undefended) records of the same attack and seed."""
    plain = group.undefended()
    if plain is None:
        return
    for row in group.rows:
        other = {r["seed"]: r for r in group.entry(row, plain).done()}
        for record in group.entry(row, column).done():
            if record["seed"] in other:
                yield record, other[record["seed"]]


def relative_time(group: Group, column: Variant, device: str | None) -> tuple[float, int] | None:
    """Time relative to no defense, over the cells both finished on the device: ratio of the sums, number of pairs."""
    mine, plain, pairs = [], [], 0
    for record, undefended in _pairs(group, column):
        a, b = total_of(record), total_of(undefended)
        if a is not None and b and device_of(record) == device_of(undefended) == device:
            mine.append(a)
            plain.append(b)
            pairs += 1
    return (math.fsum(mine) / math.fsum(plain), pairs) if pairs else None


def trainings(group: Group, column: Variant) -> dict[str, float]:
    """Mean number of trainings of each kind that a column's finished cells asked for (some may have been shared)."""
    total: Counter[str] = Counter()
    cells = 0
    for row in group.rows:
        for record in group.entry(row, column).done():
            counts = record.get("trainings") or {}
            counts = counts.get("asked", counts)
            if counts:
                total.update({k: v for k, v in counts.items() if v})
                cells += 1
    return {kind: n / cells for kind, n in total.items()} if cells else {}
