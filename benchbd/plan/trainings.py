"""The trainings that cells ask for, as their plugins declare them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from benchbd.core.hashing import canonical
from benchbd.core.seeding import surrogate_seed
from benchbd.errors import shown
from benchbd.plan.cell import Cell
from benchbd.plugins import registry
from benchbd.plugins.attack import trigger_seed_of
from benchbd.plugins.contract import NO_ATTACK, Training
from benchbd.plugins.identity import part_of
from benchbd.plugins.training import COUNTED

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
                of_pair[pair] = _checked(made.defense.trainings(made.attack), COUNTED)
        if cell.row_key not in of_row:
            of_row[cell.row_key] = _trained_first(cell)
        yield cell, PlannedTrainings(of_row[cell.row_key], tuple(_key(cell, training) for training in of_pair[pair]))


def possible_retries(cells: Iterable[Cell]) -> dict[TrainingKey, int]:
    """How often each training of the cells' plugins may be repeated; those that never are, are left out."""
    of_plugin: dict[tuple[str, str], Mapping[str, int]] = {}
    found: dict[TrainingKey, int] = {}
    for cell, planned in planned_trainings(cells):
        for kind, part, keys in (
            ("attacks", cell.attack, planned.attack),
            ("defenses", cell.defense, planned.defense),
        ):
            if (kind, part.json) not in of_plugin:
                plugin = getattr(cell.components(), kind[:-1])
                with registry.blame(kind, part.name):
                    of_plugin[kind, part.json] = {what: int(n) for what, n in plugin.retries().items()}
            for key in keys:
                if number := of_plugin[kind, part.json].get(key[1].kind, 0):
                    found[key] = max(number, found.get(key, 0))
    return found


def shared_trainings(cells: Iterable[Cell]) -> dict[TrainingKey, list[Cell]]:
    """The distinct trainings a set of cells asks for, each with the cells that share it (first one pays)."""
    found: dict[TrainingKey, list[Cell]] = {}
    for cell, wanted in planned_trainings(cells):
        for key in (*wanted.defense, *wanted.attack):
            found.setdefault(key, []).append(cell)
    return found


def attack_trainings(cell: Cell) -> tuple[Training, ...]:
    """What the cell's attack trains before it can poison, as it declares it."""
    attack = cell.components().attack
    with registry.blame("attacks", cell.attack.name):
        return _checked(attack.trainings(), (*COUNTED, "loop"))


def _trained_first(cell: Cell) -> tuple[TrainingKey, ...]:
    """The trainings of a cell's attack that records count: on the clean set, with a seed of their own."""
    counted = [training for training in attack_trainings(cell) if training.kind != "loop"]
    if not counted:
        return ()
    none = part_of(registry.make("attacks", NO_ATTACK))
    seed = surrogate_seed(trigger_seed_of(cell.components().attack, cell.seed))
    clean = dataclasses.replace(cell, attack=none, seed=seed)
    return tuple(_key(clean, training) for training in counted)


def _key(cell: Cell, training: Training) -> TrainingKey:
    if not training.recipe:
        return cell.row_key, training
    changed = dataclasses.replace(cell, recipe={**cell.recipe, **dict(training.recipe)})
    return changed.row_key, training._replace(recipe=())


def _checked(trainings: Iterable[Training], kinds: tuple[str, ...]) -> tuple[Training, ...]:
    """A plugin's trainings as keys of a table.

    Raises:
        TypeError: one of them is not a training, of another kind, or cannot be hashed.
        ValueError: the changes of a recipe are not pairs.
    """
    found = tuple(trainings)
    for training in found:
        if not isinstance(training, Training):
            raise TypeError(f"trainings() must return Training objects, not {shown(training)}")
        if training.kind not in kinds:
            raise TypeError(f"trainings(): kind must be one of {', '.join(kinds)}, not {shown(training.kind)}")
        canonical(dict(training.recipe))
    hash(found)
    return found
