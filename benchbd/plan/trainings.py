"""The trainings that cells ask for, as their plugins declare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from benchbd.core.hashing import canonical
from benchbd.plan.cell import Cell
from benchbd.plugins import registry
from benchbd.plugins.contract import UNDEFENDED, Training
from benchbd.plugins.identity import part_of

TrainingKey = tuple[str, Training]
"""A row (data set, attack, model, recipe and seed, hashed) and a training in it; equal ones are computed once."""


class PlannedTrainings(NamedTuple):
    """The trainings that one cell asks for.

    Attributes:
        attack: what its attack trains first, on the clean set.
        defense: its defense's, in the order in which they are asked for.
    """

    attack: tuple[TrainingKey, ...]
    defense: tuple[TrainingKey, ...]


def planned_trainings(cells: Iterable[Cell]) -> Iterator[tuple[Cell, PlannedTrainings]]:
    """Every cell with the trainings it asks for, as its plugins declare them."""
    # Plugins are asked once per distinct pair and row, not per cell: a plan may have ten thousand of them.
    of_pair: dict[tuple[str, str], tuple[Training, ...]] = {}
    of_row: dict[str, tuple[TrainingKey, ...]] = {}
    for cell in cells:
        pair = (cell.attack.json, cell.defense.json)
        if pair not in of_pair:
            made = cell.components()
            with registry.blame("defenses", cell.defense.name):
                of_pair[pair] = tuple(made.defense.trainings(made.attack))
                hash(of_pair[pair])
        if cell.row_key not in of_row:
            of_row[cell.row_key] = _trained_first(cell)
        yield (
            cell,
            PlannedTrainings(of_row[cell.row_key], tuple((cell.row_key, training) for training in of_pair[pair])),
        )


def shared_trainings(cells: Iterable[Cell]) -> dict[TrainingKey, list[Cell]]:
    """The distinct trainings a set of cells asks for, each with the cells that share it (first one pays)."""
    found: dict[TrainingKey, list[Cell]] = {}
    for cell, wanted in planned_trainings(cells):
        for key in (*wanted.defense, *wanted.attack):
            found.setdefault(key, []).append(cell)
    return found


def _trained_first(cell: Cell) -> tuple[TrainingKey, ...]:
    """The trainings of a cell's attack that records count: of the row's network, on the clean set, with its own seed.

    ``Attack.trains`` names them. ``surrogate`` is the clean row's undefended model; ``NAME-surrogate`` is another full
    training there, which the attack's parameters ``NAME_*`` determine (``NAME_epochs``: epochs in the recipe's place).
    ``NAME-teacher`` is a teacher on a set of the attack's own making, which all its parameters determine.
    Whatever has another name is a loop of the attack's own, which no record counts as a training.
    """
    attack = cell.components().attack
    with registry.blame("attacks", cell.attack.name):
        names = [str(name) for name in attack.trains()]
    found = []
    for name in names:
        training, recipe = UNDEFENDED, cell.recipe
        if name.endswith("-surrogate"):
            prefix = name.removesuffix("surrogate").replace("-", "_")
            given = {key: value for key, value in cell.attack.params.items() if key.startswith(prefix)}
            epochs = given.pop(f"{prefix}epochs", None)
            recipe = recipe if epochs is None else {**recipe, "epochs": epochs}
            training = Training("full", (cell.attack.name, name, canonical(given)))
        elif name.endswith("-teacher"):
            training = Training("teacher", (cell.attack.name, name, cell.attack.json))
        elif name != "surrogate":
            continue
        none = part_of(registry.make("attacks", "none"))
        clean = dataclasses.replace(cell, attack=none, recipe=recipe, seed=attack.trigger_seed)
        found.append((clean.row_key, training))
    return tuple(found)
