"""The pools of a record, such as the samples whose labels a defense trusted, and the poison in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class PoolCount(NamedTuple):
    """A pool's number of samples and of poisoned ones. ``epoch`` is None for a pool of no epoch."""

    name: str
    epoch: int | None
    size: int
    poisoned: int

    @property
    def purity(self) -> float | None:
        """Share of the samples that are not poisoned; None for an empty pool."""
        return 1 - self.poisoned / self.size if self.size else None


def pools_of(record: Mapping[str, Any]) -> dict[str, list[PoolCount]]:
    """A record's pools by name, in the order of the reports. Empty if its note of that name is something else."""
    found: dict[str, list[PoolCount]] = {}
    given = (record.get("notes") or {}).get("pools")
    for pool in given if isinstance(given, list) else ():
        count = _pool(pool) if isinstance(pool, dict) else None
        if count is None:
            return {}
        found.setdefault(count.name, []).append(count)
    return found


def _pool(given: Mapping[str, Any]) -> PoolCount | None:
    name, epoch, size, poisoned = (given.get(key) for key in PoolCount._fields)
    if not isinstance(name, str) or not isinstance(size, int) or not isinstance(poisoned, int):
        return None
    if not 0 <= poisoned <= size or not (epoch is None or isinstance(epoch, int)):
        return None
    return PoolCount(name, epoch, size, poisoned)
