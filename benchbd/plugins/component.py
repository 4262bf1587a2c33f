"""The base class of all plugins: parameters, a name and a version."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

KINDS = ("datasets", "attacks", "defenses", "models")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """Base class of all plugins. The class of each kind lists its hooks, the methods and attributes the harness uses.

    The decorator sets ``name`` and ``version``.

    ``version`` is part of a cell's identity. Raise it when a change alters results.
    """

    name: ClassVar[str] = ""
    version: ClassVar[int] = 0
    kind: ClassVar[str] = ""
    smoke: ClassVar[dict[str, Any]] = {}
    """Parameters with which the plugin runs in seconds, for ``--smoke`` and the contract tests."""

    spellings: ClassVar[dict[str, str]] = {}
    """Other names of parameters, such as ``{"name": "network"}``: what users write, and the parameter that it means.

    Records and tables have the parameter's own name.
    """

    younger: ClassVar[tuple[str, ...]] = ()
    """Parameters that were added without a new version, because the results with their defaults stay as they were.

    A cell's identity has them only with other values, so that the IDs of earlier cells stay. A change of such a default
    takes a new version, and the parameter leaves this tuple.
    """

    def params(self) -> dict[str, Any]:
        """Every parameter by name, ready for JSON (tuples become lists)."""
        given = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in given.items()}
