"""One component as a matrix writes it: its lists opened, not yet multiplied out."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any

from benchbd.core import params
from benchbd.errors import Impossible, UsageError
from benchbd.plan.overrides import Overrides
from benchbd.plugins import registry
from benchbd.plugins.spec import parse_spec


@dataclasses.dataclass(frozen=True)
class ExpandedSpec:
    """A component's kind and name, and for each parameter given the values it takes."""

    kind: str
    name: str
    axes: list[list[tuple[str, Any]]]

    @property
    def count(self) -> int:
        """Number of combinations."""
        return math.prod(len(axis) for axis in self.axes)

    def instances(self) -> Iterator[Any]:
        """An instance for each combination."""
        for combination in itertools.product(*self.axes):
            try:
                yield registry.make(f"{self.kind}s", self.name, **dict(combination))
            except Impossible as error:
                raise UsageError(f"{self.kind} {self.name!r}: {error}") from error


def expand(spec: Any, kind: str, settings: Overrides, smoke: bool) -> ExpandedSpec:
    """Read one spec; lists in its parameters are to be expanded (a list-typed parameter takes a list of lists)."""
    name, inner = parse_spec(spec, kind)
    cls: Any = registry.load(f"{kind}s", name)
    if smoke:
        inner = {**{key: _shrunk(value, kind) for key, value in inner.items()}, **cls.smoke}
    inner |= settings.params(kind, name)
    axes = []
    for key, value in inner.items():
        wants_list = key in params.list_typed(cls)
        opened = isinstance(value, list) and (not wants_list or any(isinstance(v, list) for v in value))
        if opened and not value:
            raise UsageError(f"{kind} {name!r}: {key} is an empty list")
        axes.append([(key, v) for v in value] if opened else [(key, value)])
        # Each value is checked by itself here, so that a mistake is found before anything is multiplied out.
        for _, v in axes[-1]:
            params.resolve(cls, {key: v}, f"{kind} {name!r}")
    return ExpandedSpec(kind, name, axes)


def _shrunk(value: Any, kind: str) -> Any:
    """A parameter's value; where it is the spec of a component of the same kind, that with its ``smoke`` parameters."""
    if isinstance(value, list):
        return [_shrunk(v, kind) for v in value]
    if not isinstance(value, str) or not value.endswith(")"):
        return value
    try:
        name, inner = parse_spec(value, kind)
        cls: Any = registry.load(f"{kind}s", name)
    except UsageError:  # some other text
        return value
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in {**inner, **cls.smoke}.items())})"
