"""A component as data: its name, its version and its parameters."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from benchbd.core.hashing import canonical


@dataclasses.dataclass(frozen=True)
class Part:
    """One component of a cell: the plugin's name and version, every parameter, and a short text for display."""

    name: str
    version: int
    params: dict[str, Any]
    text: str

    def spec(self) -> dict[str, Any]:
        """The fields that are part of a cell's identity."""
        return {"name": self.name, "version": self.version, "params": self.params}

    @functools.cached_property
    def json(self) -> str:
        """The spec's canonical JSON. It is computed once, since thousands of cells share a part."""
        return canonical(self.spec())
