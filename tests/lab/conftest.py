"""Labs over one store and a tiny set, with a watch on how often they really train."""

from __future__ import annotations

from pathlib import Path

import pytest
from lab_inputs import tiny

from benchbd import engine, testing
from benchbd.core.recipe import Recipe
from benchbd.lab.lab import Lab
from benchbd.plugins.train_set import TrainSet
from benchbd.storage.artifacts import Store


@pytest.fixture(autouse=True)
def _quick(quick_disk, fresh_registry, one_thread):
    testing.register()


@pytest.fixture
def open_lab(lab_over, tmp_path: Path):
    """A new lab over one store, as another cell of the row would get it: ``open_lab(data=..., truth=..., ...)``."""

    def build(data: TrainSet | None = None, *, where: str = "store", recipe: dict | None = None, **given) -> Lab:
        used = Recipe.parse({"epochs": 2, "batch_size": 16, **(recipe or {})})
        return lab_over(data or tiny(), used, **{"store": Store(tmp_path / where), **given})

    return build


@pytest.fixture
def fits(monkeypatch):
    """How often the engine really trains."""
    calls = []
    real = engine.fit

    def counting(*args, **kwargs):
        calls.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(engine, "fit", counting)
    return calls


@pytest.fixture
def no_training(monkeypatch):
    """Trainings that end at once, for tests that only look at keys."""
    monkeypatch.setattr(engine, "fit", lambda *args, **kwargs: engine.Fit([], 0.0, 0))
