"""Refuse models that a defense packs (``packed_models``) and that cannot be packed, before anything trains.

Only building such a network shows it, and planning imports no torch. So a process of its own builds it, once for the
same code and versions. Without a defense that declares models, nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from benchbd.errors import UsageError
from benchbd.plan.work import Network, network_of
from benchbd.plugins.identity import part_of
from benchbd.plugins.packed_models import packed_models
from benchbd.run.measurements import Machine, Measurements

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell


def refuse_unpackable(
    cells: Iterable[Cell], say: Callable[[str], object] = lambda line: None, unbuilt: set[Network] | None = None
) -> None:
    """Check the models that the defenses of cells pack. What cannot be built here is left to the cell.

    Args:
        cells: the cells that will run.
        say: gets a line before networks are built.
        unbuilt: networks that cannot be built, which are not tried; grows. See
            :class:`benchbd.run.measurements.Measurements`.

    Raises:
        UsageError: a model cannot be packed; it names the defense, the model, the layer and what to do.
    """
    packed: dict[Network, tuple[str, str]] = {}
    """The defense and the model that are at fault if the network is."""
    seen: set[tuple[str, str]] = set()
    for cell in cells:
        pair = (cell.dataset.json, cell.defense.json)
        if pair in seen:
            continue
        seen.add(pair)
        made = cell.components()
        for model in packed_models(made.defense):
            part = part_of(model)
            packed.setdefault(network_of(part, made.dataset.info()), (cell.defense.name, part.text))
    if packed:
        faults = Measurements(Machine("cpu", ""), say=say, unbuilt=unbuilt).packing_faults(packed)
        for network, (defense, spec) in packed.items():
            if fault := faults.get(network):
                raise UsageError(f"defense {defense!r}: model {spec!r}: {fault}")
