"""Plugins whose parameters never change, for tests of what the core makes of them. They train nothing."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from benchbd.core.images import DatasetInfo
from benchbd.errors import Impossible
from benchbd.plugins.contract import (
    UNDEFENDED,
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
    """Ten classes of ten images."""

    train: int = 100
    """Training images."""

    def info(self) -> DatasetInfo:
        if self.train > 1000:
            raise Impossible(f"there are 1000 images, not {self.train}")
        return DatasetInfo(10, 8, self.train, 20, (self.train // 10,) * 10, 1)

    def missing(self, root: str | None) -> str | None:
        return None if root else "put the toys into --data DIR"


@attack("toy-attack", version=2)
class ToyAttack(Attack):
    """Poisons anything."""

    strength: float = 1
    """How strongly (its default is written as a whole number on purpose)."""
    places: tuple[int, ...] = (1, 2)
    """Where."""

    def trainings(self) -> tuple[Training, ...]:
        return (UNDEFENDED,) if self.strength > 5 else ()


@attack("toy-clean", version=1)
class ToyClean(Attack):
    """Clean-label: cannot poison more than a class."""

    clean_label = True


@defense("toy-defense", version=3)
class ToyDefense(Defense):
    """Trains a teacher for its epochs and a student of its own."""

    smoke: ClassVar[dict[str, Any]] = {"epochs": 1}

    epochs: int = 5
    """Epochs of the teacher."""
    beta: float = 0.001
    """Strength."""
    mode: Literal["hard", "soft"] = "hard"
    """How."""
    note: str | None = None
    """Anything."""

    def check(self, info: DatasetInfo, attack: Attack) -> None:
        if self.beta < 0:
            raise Impossible(f"beta must be 0 or more, not {self.beta}")

    def trainings(self, attack: Attack) -> tuple[Training, ...]:
        return (Training("teacher", ("toy", self.epochs)), Training("full", ("toy", self.epochs, self.beta)))


@model("toy-net", version=1)
class ToyNet(Model):
    """A small network."""

    width: int = 4
    """Channels."""

    def check(self, info: DatasetInfo) -> None:
        if self.width > info.size:
            raise Impossible(f"width {self.width} is more than {info.size} pixels")
