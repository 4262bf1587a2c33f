"""What the stages of a cell cost, and how it is written down while one stage asks for another."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass
class CostLedger:
    """What a cell's stages cost.

    Attributes:
        stages: seconds by stage name, as if each had been computed for this cell alone.
        inside: wall-clock of this process in stages, loading and waiting included.
        waited: seconds of it in which another process computed what was wanted.
        epochs: epochs of the trainings asked for.
        trainings: trainings asked for, by what they are; ``computed`` those of them that were not in the store.
        artifacts: keys by stage name.
    """

    stages: dict[str, float] = dataclasses.field(default_factory=dict)
    inside: float = 0.0
    waited: float = 0.0
    epochs: int = 0
    trainings: dict[str, int] = dataclasses.field(default_factory=dict)
    computed: dict[str, int] = dataclasses.field(default_factory=dict)
    artifacts: dict[str, str] = dataclasses.field(default_factory=dict)

    def charge(self, name: str, seconds: float) -> None:
        """Add to a stage's cost."""
        self.stages[name] = self.stages.get(name, 0.0) + seconds


@dataclasses.dataclass
class Frame:
    """A stage being computed: wall-clock and charges of the stages asked for within it."""

    spent: float = 0.0
    charges: list[list[Any]] = dataclasses.field(default_factory=list)
