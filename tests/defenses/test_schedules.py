"""Schedules of defenses that bring their own: no entry of the base recipe changes them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchbd.core.recipe import Recipe
from benchbd.plugins import registry

OTHER = Recipe(schedule="cosine", horizon=7, milestones=(1, 2), decay=0.5, warmup=3.0, schedule_per="step", bias_lr=4.0)
OWN = [
    "abl", "asd(seeds=1)", "cbd", "cbd(information=True)", "d-br", "dbd", "dp-sgd", "lfd",
    "lfd(teacher_schedule='cosine')", "nab(ratio=0.25)", "pdb(side=2)",
]  # fmt: skip


def rates(lab, recipe: Recipe, spec: str) -> list[list[float]]:
    """The learning rates of each training that names a schedule, by epoch and half epoch."""
    lab.recipe = recipe
    plain = lab.train

    def train(data, **settings):
        trained = plain(data, **settings)
        state = {"weight": torch.zeros(1)}
        module = SimpleNamespace(mean=torch.zeros(1, 3, 1, 1), net=None, state_dict=lambda: state)
        trained.module = lambda: module
        return trained

    lab.train, lab.with_test_transform = train, lambda trained, transform: trained
    rng = np.random.default_rng(0)
    lab.features = lambda trained, data: rng.normal(size=(len(data), 3))
    registry.make("defenses", spec).train(lab)
    found = []
    for call in lab.calls:
        given = {k: v for k, v in call.settings.items() if k in Recipe.__dataclass_fields__}
        if "schedule" in given:
            changed = recipe.but(**given)
            found.append([changed.lr_at(half / 2) for half in range(2 * changed.epochs)])
    return found


@pytest.mark.parametrize("spec", OWN)
def test_the_base_recipe_does_not_change_a_schedule_of_their_own(fake_lab, spec):
    rng, count = np.random.default_rng(0), 400
    given = {
        "losses": rng.permutation(count) / count,
        "features": rng.normal(size=(count, 3)),
        "logits": np.eye(4)[np.arange(count) % 4],
        "clean": np.arange(8),
    }
    labs = [fake_lab(np.arange(count) % 4, **given) for _ in range(2)]
    one, two = (rates(lab, recipe, spec) for lab, recipe in zip(labs, (Recipe(), OTHER), strict=True))
    assert one
    assert len(one) == len(two)
    for ours, theirs in zip(one, two, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-12)
