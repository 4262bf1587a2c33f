"""The recipe of a training: the base recipe, what a plugin changes in it, and what another network gets."""

from __future__ import annotations

import pytest

from benchbd import engine
from benchbd.core.recipe import Recipe
from benchbd.lab import stages


@pytest.fixture
def recipe_of(open_lab, monkeypatch):
    """The recipe that the engine gets for a training in a cell with the recipe ``fast``."""
    seen = []

    def fit(net, images, labels, recipe, **how):
        seen.append(recipe)
        return engine.Fit([0.0] * recipe.epochs, 0.0, 0)

    monkeypatch.setattr(stages.engine, "fit", fit)

    def ask(**changes):
        lab = open_lab(recipe={"preset": "fast", "epochs": 2, "batch_size": 16})
        lab.train(lab.poisoned, **changes)
        return seen[-1]

    return ask


FAST = Recipe.parse({"preset": "fast", "epochs": 2, "batch_size": 16})


def test_the_cells_model_trains_with_the_base_recipe(recipe_of):
    assert recipe_of() == FAST
    assert recipe_of(epochs=1, augment=None) == FAST.but(epochs=1, augment=())


def test_a_stage_with_its_own_optimizer_and_schedule_gets_them_plain(recipe_of):
    own = {"optimizer": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4, "lr": 0.1, "epochs": 3}
    used = recipe_of(schedule="constant", augment=(), **own)
    assert used == Recipe(schedule="constant", augment=(), batch_size=16, **own)


def test_a_teacher_trains_with_the_defaults(recipe_of):
    used = recipe_of(model="resnet-s", epochs=5, schedule="cosine", horizon=80, augment=())
    assert used == Recipe(epochs=5, horizon=80, augment=())
