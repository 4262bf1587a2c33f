"""A stand-in for CUDA's graph recorder on a CPU."""

from __future__ import annotations

from benchbd.engine.graph import WARM_UP


class EagerRecorder:
    """Records without running, replays by running; as CUDA does, seen from outside."""

    def __init__(self) -> None:
        self.replays = 0

    def warm_up(self, work) -> None:
        for _ in range(WARM_UP):
            work()

    def record(self, work):
        def replay() -> None:
            self.replays += 1
            work()

        return replay
