"""``--smoke``: every cell of a matrix, each in a few steps."""

from __future__ import annotations

import math

import pytest

from benchbd.plan import matrix
from benchbd.plan.shipped import shipped

STEPS = 20
"""Steps of one training."""
IMAGES = 500
"""Test images, each looked at twice."""


@pytest.mark.parametrize("name", sorted(shipped()))
def test_smoke_keeps_every_cell_and_shrinks_it_to_a_few_steps(name: str) -> None:
    whole, shrunk = matrix.load(name, seeds=[0]), matrix.load(name, seeds=[0], smoke=True)
    assert {(c.dataset.name, c.model.text, c.attack.name, c.defense.name) for c in shrunk.cells} == {
        (c.dataset.name, c.model.text, c.attack.name, c.defense.name) for c in whole.cells
    }
    # A thousandth of the few images that are left is none, as in rates; the plan says so.
    skipped = [s for s in shrunk.skipped if not s.reason.startswith("rate 0.001 poisons no image")]
    assert [s.cell.attack.name for s in skipped] == [s.cell.attack.name for s in whole.skipped]
    for cell in shrunk.cells:
        info, recipe = cell.components().dataset.info(), cell.components().recipe
        assert recipe.epochs * math.ceil(info.train / recipe.batch_size) <= STEPS, cell.label
        assert info.test <= IMAGES, cell.label
        short = {k: v for k, v in cell.defense.params.items() if k.endswith("_epochs") and v is not None}
        assert all(value <= 1 for value in short.values()), cell.label


def test_a_control_imitates_the_shrunk_defense() -> None:
    cells = matrix.load("cifar10-small", seeds=[0], smoke=True).cells
    imitated = {cell.defense.params["of"] for cell in cells if cell.defense.name == "random-filter"}
    assert imitated == {"lfd(teachers=1, teacher_epochs=1, teacher_tries=1)"}


def test_what_is_set_wins_over_smoke() -> None:
    plan = matrix.load("cifar10-small", seeds=[0], smoke=True, sets=["dataset.train=5000", "epochs=2"])
    assert {(cell.components().dataset.info().train, cell.recipe["epochs"]) for cell in plan.cells} == {(5000, 2)}
