"""Which stages the cells of a plan share, as their plugins declare it."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchbd.run.order import Key, Stages

if TYPE_CHECKING:
    from benchbd.cell import Cell


def stages_of(cells: Sequence[Cell]) -> dict[str, Stages]:
    """The shared stages of each cell, by cell id; a stage that only one of the cells needs is left out.

    Trainings come from what defenses and attacks declare. What an attack trains first is one more stage, shared by all
    seeds of its row; the poisoned set is one, light, shared by all defenses of a row.
    """
    from benchbd import matrix

    heavy: dict[Key, list[str]] = defaultdict(list)
    light: dict[Key, list[str]] = defaultdict(list)
    for (row, training), sharers in matrix.trainings(tuple(cells)).items():
        heavy["training", row, training] += [cell.id for cell in sharers]
    for cell in cells:
        light["poison", cell.row_key].append(cell.id)
        if cell.made().attack.trains():
            trigger = json.dumps(
                [cell.dataset.spec(), cell.model.spec(), cell.attack.spec(), cell.recipe], sort_keys=True
            )
            heavy["trigger", trigger].append(cell.id)
    heavy_of: dict[str, set[Key]] = defaultdict(set)
    light_of: dict[str, set[Key]] = defaultdict(set)
    for table, of in ((heavy, heavy_of), (light, light_of)):
        for key, ids in table.items():
            if len(set(ids)) > 1:
                for cell_id in ids:
                    of[cell_id].add(key)
    return {cell.id: Stages(frozenset(heavy_of[cell.id]), frozenset(light_of[cell.id])) for cell in cells}
