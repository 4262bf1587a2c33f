"""Stale records: the code of a plugin has changed since. They are reported and never recomputed without a request.

A record of an earlier release holds digests of another kind. It cannot be compared, so it does not count as stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchbd.core.kinds import KINDS
from benchbd.errors import UsageError
from benchbd.plugins import registry
from benchbd.plugins.source_digest import CODE

if TYPE_CHECKING:
    from benchbd.plan.cell import Cell


def changed_sources(cell: Cell, record: Mapping[str, Any]) -> list[str]:
    """The components of a cell, such as ``defense lfd``, whose code has changed since its record was written."""
    sources = record.get("sources")
    if not isinstance(sources, Mapping):
        return []
    found = []
    for kind in KINDS:
        name, then = getattr(cell, kind).name, sources.get(kind)
        if not str(then).startswith(CODE):
            continue
        try:
            now = registry.source_digest(f"{kind}s", name)
        except UsageError:
            continue
        if now and then != now:
            found.append(f"{kind} {name}")
    return found
