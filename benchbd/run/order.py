"""The order of cells: the longest expected first, and no cell that would wait for a stage of a running one."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from benchbd.plan.shared_work import Key, SharedWork
from benchbd.run.settings import Shard

T = TypeVar("T")


def in_shard(cell_id: str, shard: Shard | None) -> bool:
    """Whether a cell belongs to a shard. The answer depends on its ID alone, so all machines agree."""
    if shard is None:
        return True
    number = int.from_bytes(hashlib.sha256(cell_id.encode()).digest()[:8], "big")
    return number % shard.of == shard.number - 1


def arrange(cells: Sequence[T], expected: Callable[[T], float | None]) -> list[T]:
    """Sort cells: first those without an estimate (one may be the longest), then the longest; ties in plan order."""
    known = {id(cell): expected(cell) for cell in cells}

    def rank(cell: T) -> float:
        seconds = known[id(cell)]
        return float("-inf") if seconds is None else -seconds

    return sorted(cells, key=rank)


class Sharing:
    """Tracks which stages are being computed, and picks cells that need not wait for one.

    A stage counts as being computed from the start of the first cell that needs it until that cell ends. It counts as
    stored once a cell that needs it is done.
    """

    def __init__(self, shared_work: Callable[[Any], SharedWork]) -> None:
        self._shared_work = shared_work
        self._running: Counter[Key] = Counter()
        self._stored: set[Key] = set()

    def _blocked(self, keys: frozenset[Key]) -> bool:
        return any(self._running[key] and key not in self._stored for key in keys)

    def pick(self, waiting: Sequence[T]) -> T | None:
        """The first waiting cell that shares no unfinished training and no unfinished poisoned set with a running cell.

        Without such a cell, the first that shares no unfinished training; else the first cell, which has work of its
        own before the shared stage.
        """
        light_only: T | None = None
        for cell in waiting:
            needed = self._shared_work(cell)
            if self._blocked(needed.heavy):
                continue
            if not self._blocked(needed.light):
                return cell
            light_only = light_only or cell
        return light_only or (waiting[0] if waiting else None)

    def has(self, key: Key) -> bool:
        """Whether a stage is in the store."""
        return key in self._stored

    def started(self, cell: Any) -> None:
        """Record that a cell starts."""
        needed = self._shared_work(cell)
        self._running.update(needed.heavy | needed.light)

    def ended(self, cell: Any, done: bool) -> None:
        """Record that a cell ends. If it is done, its stages are in the store."""
        needed = self._shared_work(cell)
        self._running.subtract(needed.heavy | needed.light)
        if done:
            self.stored(cell)

    def stored(self, cell: Any) -> None:
        """Record that a cell's stages are in the store."""
        needed = self._shared_work(cell)
        self._stored |= needed.heavy | needed.light


def waves(cells: Sequence[T], shared_work: Callable[[T], SharedWork]) -> list[list[T]]:
    """Split cells into waves such that no two cells of a wave share a training that is not stored by then.

    For queues that take all jobs at once (Slurm): wave k + 1 starts after wave k. If two cells need the same training,
    the first one computes it and the other comes in a later wave.
    """
    level_of: dict[Key, int] = {}
    cells_of: dict[int, list[T]] = defaultdict(list)
    for cell in cells:
        keys = shared_work(cell).heavy
        level = max((level_of[key] + 1 for key in keys if key in level_of), default=0)
        for key in keys:
            level_of.setdefault(key, level)
        cells_of[level].append(cell)
    return [cells_of[level] for level in sorted(cells_of)]
