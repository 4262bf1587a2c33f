"""Plugins that exist only to steer ``run_fakes.execute``."""

from __future__ import annotations

from benchbd.core.images import DatasetInfo
from benchbd.plugins.contract import (
    Attack,
    Dataset,
    Defense,
    Model,
    Training,
    attack,
    dataset,
    defense,
    model,
)


@dataset("toy-images", version=1)
class ToyImages(Dataset):
    """No images at all."""

    def info(self) -> DatasetInfo:
        return DatasetInfo(10, 32, 100, 100, (10,) * 10, 0)


@model("toy-net", version=1)
class ToyNet(Model):
    """No network at all."""


@attack("toy-attack", version=1)
class ToyAttack(Attack):
    """Makes rows differ."""

    tag: str = ""
    """Any word."""


@defense("act", version=1)
class Act(Defense):
    """Tells the stand-in what to do."""

    do: str = "done"
    """What to do."""
    n: int = 0
    """Makes cells differ."""
    seconds: float = 0.0
    """How long to take."""
    shared: str = ""
    """Name of a training that cells share."""

    def trainings(self, attack: Attack | None = None) -> tuple[Training, ...]:
        return (Training("full", (self.shared or f"{self.do}-{self.n}-{self.seconds}",)),)
