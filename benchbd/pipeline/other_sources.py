"""The code of plugins that a cell's components use: a teacher's network, an imitated defense, an attack's target."""

from __future__ import annotations

from collections.abc import Iterable

from benchbd.core.kinds import KINDS
from benchbd.plan.cell import Cell
from benchbd.plugins import registry


def other_sources(cell: Cell, used: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Digests of the code of plugins beside the cell's own, by kind and name, such as ``model resnet-s``.

    Args:
        cell: the cell.
        used: kinds and names of the plugins that its defense has made (:func:`benchbd.plugins.registry.noting_uses`).
            Those that its attack consults come on top.
    """
    own = {(f"{kind}s", getattr(cell, kind).name) for kind in KINDS}
    consulted = {(other.kind, other.name) for other in cell.components().attack.consults()}
    return {
        f"{kind.removesuffix('s')} {name}": registry.source_digest(kind, name)
        for kind, name in sorted({*used, *consulted} - own)
    }
