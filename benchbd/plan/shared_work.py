"""Which stages the cells of a plan share, as their plugins declare it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.core.hashing import canonical
from benchbd.plan.trainings import attack_trainings, shared_trainings
from benchbd.plugins.attack import trigger_seed_of
from benchbd.plugins.contract import BUDGET

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell


Key = tuple[Any, ...]


class SharedWork(NamedTuple):
    """The stages of a cell that other cells may need too.

    Attributes:
        heavy: trainings (and what an attack trains first); minutes to hours.
        light: poisoned sets and the like; seconds.
    """

    heavy: frozenset[Key] = frozenset()
    light: frozenset[Key] = frozenset()


def shared_work_of(cells: Sequence[Cell]) -> dict[str, SharedWork]:
    """The shared stages of each cell, by cell id; a stage that only one of the cells needs is left out.

    Trainings come from what defenses and attacks declare, the surrogates of attacks among them. What else an attack
    trains is heavy too (:func:`made_first`); the poisoned set is one, light, shared by all defenses of a row.
    """
    heavy: dict[Key, list[str]] = defaultdict(list)
    light: dict[Key, list[str]] = defaultdict(list)
    for (row, training), sharers in shared_trainings(cells).items():
        heavy["training", row, training] += [cell.id for cell in sharers]
    first: dict[str, list[Key]] = {}
    for cell in cells:
        light["poison", cell.row_key].append(cell.id)
        if cell.row_key not in first:
            first[cell.row_key] = list(made_first(cell))
        for key in first[cell.row_key]:
            heavy[key].append(cell.id)
    heavy_of: dict[str, set[Key]] = defaultdict(set)
    light_of: dict[str, set[Key]] = defaultdict(set)
    for table, of in ((heavy, heavy_of), (light, light_of)):
        for key, ids in table.items():
            if len(set(ids)) > 1:
                for cell_id in ids:
                    of[cell_id].add(key)
    return {cell.id: SharedWork(frozenset(heavy_of[cell.id]), frozenset(light_of[cell.id])) for cell in cells}


def made_first(cell: Cell) -> dict[Key, tuple[int, ...]]:
    """The stages, beside trainings, that an attack which trains something needs before it can poison.

    The first is its trigger, which all budgets of the attack share, and all seeds with the same seed of the trigger,
    unless it is made from the images to be poisoned or from how many they are: then each row or each budget has its
    own. The others are the attack's own loops that it declares as shared. Where an attack declares less than what
    determines such a loop, variants count as sharing it that do not, and one waits a little longer than it must; the
    other way they would wait for hours.

    Returns:
        The key of each stage, with the positions in the attack's declared trainings of the loops that it consists of.
    """
    attack, trainings = cell.components().attack, attack_trainings(cell)
    if not trainings:
        return {}
    shared = () if attack.prepared_from_budget else BUDGET
    seed = trigger_seed_of(attack, cell.seed)
    params = {key: value for key, value in cell.attack.params.items() if key not in shared} | {"trigger_seed": seed}
    what = cell.row_key if attack.prepared_from_poison else canonical([cell.attack.name, cell.attack.version, params])
    trigger: Key = ("trigger", cell.dataset.json, cell.model.json, canonical(cell.recipe), cell.numerics, what)
    loops: dict[Key, list[int]] = {trigger: []}
    for number, training in enumerate(trainings):
        if training.kind == "loop":
            own = ("loop", *training.shared, cell.dataset.json, cell.attack.name, seed, cell.numerics)
            loops.setdefault(own if training.shared else trigger, []).append(number)
    return {key: tuple(numbers) for key, numbers in loops.items()}
