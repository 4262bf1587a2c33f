"""A stand-in for the lab whose losses, features and logits are given, and a real one on a small planted set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from benchbd.core.recipe import Recipe
from benchbd.core.seeding import seed_for
from benchbd.lab.lab import Lab
from benchbd.plugins.train_set import TrainSet


def images_of(ids: np.ndarray) -> torch.Tensor:
    """Images that carry their sample's number in their first pixels, so that a test can tell which sample is which."""
    images = np.zeros((len(ids), 3, 4, 4), np.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = ids // 256, ids % 256
    return torch.from_numpy(images)


def ids_of(data: TrainSet) -> np.ndarray:
    """The numbers of the samples in a set."""
    pixels = data.images.numpy().astype(np.int64)
    return pixels[:, 0, 0, 0] * 256 + pixels[:, 0, 0, 1]


@dataclasses.dataclass
class Call:
    """One ``lab.train``: which samples, with what."""

    ids: np.ndarray
    settings: dict[str, Any]


@dataclasses.dataclass
class FakeTrained:
    key: str
    epoch_losses: list[float]
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None
    pools: tuple[Any, ...] = ()

    def head(self) -> tuple[np.ndarray, np.ndarray]:
        return self.weight, self.bias


class FakeLab:
    """What a defense uses of a lab. Losses, features and logits are looked up by each sample's number.

    Args:
        labels: int (M,) label of every sample there is.
        order: numbers of the samples in the poisoned set, in its order; all of them where not given.
        losses, features, logits: by sample number.
        poison: numbers of the poisoned samples.
        clean: numbers of the clean images handed over.
        head: weights and biases of the head.
        epoch_losses: what every training reports.
        misalign: permutes losses, features and logits before they are handed out (the bug tests must notice).
    """

    def __init__(
        self,
        labels: np.ndarray,
        order: np.ndarray | None = None,
        *,
        losses: np.ndarray | None = None,
        features: np.ndarray | None = None,
        logits: np.ndarray | None = None,
        poison: np.ndarray | tuple[int, ...] = (),
        clean: np.ndarray | tuple[int, ...] = (),
        head: tuple[np.ndarray, np.ndarray] | None = None,
        epoch_losses: tuple[float, ...] = (1.0,),
        misalign: bool = False,
        flagged: int = 0,
        seed: int = 0,
    ) -> None:
        everything = np.arange(len(labels))
        self.labels = np.asarray(labels)
        self.order = everything if order is None else np.asarray(order)
        self.poisoned = self._set(self.order)
        self.clean = self._set(np.asarray(clean, np.int64))
        self.classes = int(self.labels.max()) + 1
        self.truth = np.isin(self.order, poison)
        self.recipe = Recipe()
        self._given = {"losses": losses, "features": features, "logits": logits}
        self._head, self._epoch_losses, self._misalign, self._flagged = head, list(epoch_losses), misalign, flagged
        self._seed = seed
        self.calls: list[Call] = []
        self.pruned: np.ndarray | None = None
        self.notes: dict[str, Any] = {}
        self.traced: list[tuple[str, list[int]]] = []
        self.pools: list[tuple[str, int | None, set[int]]] = []
        self.scores: np.ndarray | None = None
        self.flagged: np.ndarray | None = None
        self.reported: np.ndarray | None = None
        self.warnings: list[str] = []

    def _set(self, ids: np.ndarray) -> TrainSet:
        return TrainSet(images_of(ids), torch.from_numpy(self.labels[ids].astype(np.int64)), "planted")

    def train(self, data: TrainSet, **settings: Any) -> FakeTrained:
        self.calls.append(Call(ids_of(data), settings))
        return FakeTrained(f"trained {len(self.calls)}", self._epoch_losses, *(self._head or (None, None)))

    def train_packed(self, data: TrainSet, **settings: Any) -> list[FakeTrained]:
        self.calls.append(Call(ids_of(data), {"kind": "teacher", **settings}))
        first = f"trained {len(self.calls)}"
        return [FakeTrained(f"{first}.{n}" if n else first, self._epoch_losses) for n in settings["repeats"]]

    def _look_up(self, what: str, data: TrainSet) -> np.ndarray:
        table = self._given[what]
        assert table is not None
        out = np.asarray(table, np.float32)[ids_of(data)]
        return np.random.default_rng(1).permutation(out) if self._misalign else out

    def losses(self, trained: FakeTrained, data: TrainSet) -> np.ndarray:
        return self._look_up("losses", data)

    def features(self, trained: FakeTrained, data: TrainSet) -> np.ndarray:
        return self._look_up("features", data)

    def logits(self, trained: FakeTrained, data: TrainSet) -> np.ndarray:
        return self._look_up("logits", data)

    def prune(self, trained: FakeTrained, channels: np.ndarray, at: str = "output") -> FakeTrained:
        self.pruned = np.asarray(channels)
        return dataclasses.replace(trained, key="pruned")

    def stage(self, name: str, params: dict[str, Any], compute: Callable[[], dict[str, np.ndarray]]) -> dict[str, Any]:
        return compute()

    def seed_for(self, purpose: str) -> int:
        return seed_for("plugin", self._seed, purpose)

    def suspect(self, scores: np.ndarray, flagged: Any = None, losses: Any = None) -> None:
        self.reported = losses
        self.scores = np.asarray(scores, np.float64)
        assert self.scores.shape == (len(self.poisoned),)
        given = np.asarray(flagged)
        self.flagged = given if given.dtype == bool else np.isin(np.arange(len(self.poisoned)), given)

    def report_pool(self, name: str, members: Any, epoch: int | None = None) -> None:
        self.pools.append((name, epoch, set(self.order[np.asarray(members)].tolist())))

    def note(self, name: str, value: Any) -> None:
        self.notes[name] = value

    def warn(self, line: str) -> None:
        self.warnings.append(line)

    def trace(self, name: str, trained: Any, channels: Any = ()) -> None:
        self.traced.append((name, np.asarray(channels, np.int64).tolist()))

    def flagged_by(self, spec: str) -> int:
        return self._flagged

    def suspects(self) -> set[int]:
        """Numbers of the samples that were flagged."""
        assert self.flagged is not None
        return set(self.order[self.flagged].tolist())


@pytest.fixture
def fake_lab() -> type[FakeLab]:
    return FakeLab


@pytest.fixture
def banded() -> tuple[TrainSet, np.ndarray, np.ndarray]:
    """240 images of 16 pixels with a bright band at one of four heights, which mirrors keep and which is their class.

    Some are white at a corner and wrongly called 1. With the set, bool (N,) which these are and int (N,) true classes.
    """
    rng = np.random.default_rng(4)
    true = np.arange(240) % 4
    images = rng.integers(0, 90, (240, 3, 16, 16), dtype=np.uint8)
    for image, label in zip(images, true, strict=True):
        image[:, 4 * label : 4 * label + 4] += 150
    poison = (true != 1) & (rng.permutation(240) < 32)
    images[poison, :, :3, :3] = 255
    labels = np.where(poison, 1, true).astype(np.int64)
    return TrainSet(torch.from_numpy(images), torch.from_numpy(labels), "ab" * 32), poison, true


@pytest.fixture
def small_lab(lab_over: Callable[..., Lab]) -> Callable[..., Lab]:
    """A real lab over images as :func:`banded` gives, all of one store: ``small_lab(data, clean=..., ...)``."""

    def build(data: TrainSet, **given: Any) -> Lab:
        return lab_over(data, Recipe(epochs=3, batch_size=32, augment=()), "resnet-s2(width=8)", **given)

    return build
