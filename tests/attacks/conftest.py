"""A real workshop over a tiny set, so that attacks that train something are tested with what they will meet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchbd.core.images import DatasetInfo, Normalisation
from benchbd.core.recipe import Recipe
from benchbd.lab.costs import CostLedger
from benchbd.pipeline.workshop import Workshop
from benchbd.plugins import registry
from benchbd.plugins.attack import trigger_seed_of
from benchbd.plugins.contract import Attack, StampContext
from benchbd.plugins.identity import part_of
from benchbd.plugins.train_set import TrainSet
from benchbd.plugins.trained import ModelSpec
from benchbd.storage.artifacts import Store

Shops = Callable[..., Workshop]
CLASSES = 4


def tiny_set(count: int = 120, size: int = 32) -> TrainSet:
    """Images whose class is the place of a bright quarter, under noise: learnable, and every image another."""
    generator = torch.Generator().manual_seed(5)
    labels = torch.arange(count) % CLASSES
    images = torch.randint(0, 120, (count, 3, size, size), generator=generator)
    half = size // 2
    for number, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        images[number, :, row * half : (row + 1) * half, column * half : (column + 1) * half] += 120
    return TrainSet(images.to(torch.uint8), labels, f"tiny-{count}-{size}")


@pytest.fixture
def open_workshop(tmp_path: Path) -> Shops:
    """Make a workshop: ``open_workshop(attack, size=32, count=120, seed=0, indices=None)``."""

    def make(attack: Attack, *, size: int = 32, count: int = 120, indices: Any = None, where: str = "a") -> Workshop:
        clean = tiny_set(count, size)
        model = registry.make("models", "resnet18(width=4)")
        network = ModelSpec(model, part_of(model), CLASSES, size, Normalisation((0.5,) * 3, (0.5,) * 3))
        events: list[dict[str, Any]] = []
        workshop = Workshop(
            clean,
            DatasetInfo(CLASSES, size, count, count, (count // CLASSES,) * CLASSES, 1),
            1,
            trigger_seed_of(attack, 0),
            indices,
            ["tiny", attack.name],
            store=Store(tmp_path / where),
            network=network,
            recipe=Recipe(epochs=2, batch_size=20),
            device=torch.device("cpu"),
            ledger=CostLedger(),
            on_event=events.append,
        )
        workshop.events = events  # type: ignore[attr-defined]
        return workshop

    return make


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None: ...


def stamped(
    attack: Attack, images: torch.Tensor, trigger: dict[str, np.ndarray], split: str = "train", seed: int = 0
) -> torch.Tensor:
    """Stamp images as if they were the first of their split."""
    return attack.stamp(images, StampContext(split, np.arange(len(images)), trigger, seed))  # type: ignore[arg-type]


@pytest.fixture
def stamp() -> Callable[..., torch.Tensor]:
    """The function above, for test files (which cannot import this one)."""
    return stamped
