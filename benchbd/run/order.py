"""Which cell next: longest expected first, and never two cells that would wait for one another's stage."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from benchbd.plan.shared_work import Key, SharedWork
from benchbd.run.settings import Shard

T = TypeVar("T")


def in_shard(cell_id: str, shard: Shard | None) -> bool:
    """True where a cell belongs to a part. Depends on its id alone, so every machine answers the same."""
    if shard is None:
        return True
    number = int.from_bytes(hashlib.sha256(cell_id.encode()).digest()[:8], "big")
    return number % shard.of == shard.number - 1


def arrange(cells: Sequence[T], expected: Callable[[T], float | None]) -> list[T]:
    """Unknown cells in plan order (one of them may be the longest), then longest expected first; ties in plan order."""
    known = {id(cell): expected(cell) for cell in cells}

    def rank(cell: T) -> float:
        seconds = known[id(cell)]
        return float("-inf") if seconds is None else -seconds

    return sorted(cells, key=rank)


class Sharing:
    """Keeps track of which stages are being computed, and picks cells so that nobody waits for one.

    A stage counts as being computed from the start of the first cell that needs it until that cell ends, and as stored
    once a cell that needs it is done.
    """

    def __init__(self, stages: Callable[[Any], SharedWork]) -> None:
        self._stages = stages
        self._running: Counter[Key] = Counter()
        self._stored: set[Key] = set()

    def _blocked(self, keys: frozenset[Key]) -> bool:
        return any(self._running[key] and key not in self._stored for key in keys)

    def pick(self, waiting: Sequence[T]) -> T | None:
        """The first waiting cell that shares no uncomputed training with a running one (nor, better, a poisoned set).

        Where every cell does, the first one: it has work of its own until it comes to the shared stage.
        """
        light_only: T | None = None
        for cell in waiting:
            stages = self._stages(cell)
            if self._blocked(stages.heavy):
                continue
            if not self._blocked(stages.light):
                return cell
            light_only = light_only or cell
        return light_only or (waiting[0] if waiting else None)

    def started(self, cell: Any) -> None:
        """A cell begins."""
        stages = self._stages(cell)
        self._running.update(stages.heavy | stages.light)

    def ended(self, cell: Any, done: bool) -> None:
        """A cell ends; where it is done its stages are in the store."""
        stages = self._stages(cell)
        self._running.subtract(stages.heavy | stages.light)
        if done:
            self.stored(cell)

    def stored(self, cell: Any) -> None:
        """A cell's stages are in the store."""
        stages = self._stages(cell)
        self._stored |= stages.heavy | stages.light


def waves(cells: Sequence[T], stages: Callable[[T], SharedWork]) -> list[list[T]]:
    """Split cells so that no two of one wave share a training, and each finds what earlier waves computed.

    For queues that take everything at once (Slurm): wave k + 1 starts after wave k. A training that two cells of one
    wave would both compute is given to the first; the other one comes a wave later.
    """
    level_of: dict[Key, int] = {}
    made: dict[int, list[T]] = defaultdict(list)
    for cell in cells:
        keys = stages(cell).heavy
        level = max((level_of[key] + 1 for key in keys if key in level_of), default=0)
        for key in keys:
            level_of.setdefault(key, level)
        made[level].append(cell)
    return [made[level] for level in sorted(made)]
