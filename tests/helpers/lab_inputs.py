"""The set that the lab's tests train on, and a loss slow enough to be timed."""

from __future__ import annotations

import dataclasses
import time

from benchbd.pipeline.poison import clean_set
from benchbd.plugins import registry
from benchbd.plugins.identity import part_of
from benchbd.plugins.train_set import TrainSet


def tiny(count: int = 64) -> TrainSet:
    made = registry.make("datasets", "tiny", train=count, size=16)
    return clean_set(part_of(made), made.load("train", None))


@dataclasses.dataclass(frozen=True)
class Slow:
    """A loss whose steps take a while."""

    def __call__(self, losses, weights):
        time.sleep(0.01)
        return (losses * weights).mean()
