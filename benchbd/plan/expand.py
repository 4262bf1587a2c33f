"""Expand one component of a matrix: a list in its parameters becomes an axis of the product."""

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
    """A component's kind and name, and for each parameter in the matrix the values it takes."""

    kind: str
    name: str
    axes: list[list[tuple[str, Any]]]

    @property
    def count(self) -> int:
        """Number of combinations."""
        return math.prod(len(axis) for axis in self.axes)

    def instances(self) -> Iterator[Any]:
        """Yield one instance for each combination."""
        for combination in itertools.product(*self.axes):
            try:
                yield registry.make(f"{self.kind}s", self.name, **dict(combination))
            except Impossible as error:
                raise UsageError(f"{self.kind} {self.name!r}: {error}") from error


def expand(spec: Any, kind: str, overrides: Overrides, smoke: bool) -> ExpandedSpec:
    """Read one spec and turn each list in its parameters into an axis.

    A list-typed parameter becomes an axis only from a list of lists.

    Raises:
        UsageError: an unknown component, an unknown or ill-typed parameter, or an empty list.
    """
    name, inner = parse_spec(spec, kind)
    name = registry.canonical_name(f"{kind}s", name)
    cls: Any = registry.load(f"{kind}s", name)
    if smoke:
        inner = {**{key: _shrunk(value, kind) for key, value in inner.items()}, **cls.smoke}
    inner |= overrides.params(kind, name)
    axes = []
    for key, value in inner.items():
        wants_list = key in params.list_typed(cls)
        expands = isinstance(value, list) and (not wants_list or any(isinstance(v, list) for v in value))
        if expands and not value:
            raise UsageError(f"{kind} {name!r}: {key} is an empty list")
        axes.append([(key, v) for v in value] if expands else [(key, value)])
        # Check each value on its own, so that a mistake shows up before the product is taken.
        for _, v in axes[-1]:
            params.resolve(cls, {key: v}, f"{kind} {name!r}")
    return ExpandedSpec(kind, name, axes)


def _shrunk(value: Any, kind: str) -> Any:
    """A parameter's value; a spec of another component of this kind gets that component's ``smoke`` parameters."""
    if isinstance(value, list):
        return [_shrunk(v, kind) for v in value]
    if not isinstance(value, str) or not value.endswith(")"):
        return value
    try:
        name, inner = parse_spec(value, kind)
        cls: Any = registry.load(f"{kind}s", name)
    except UsageError:  # not a spec
        return value
    return f"{name}({', '.join(f'{k}={v!r}' for k, v in {**inner, **cls.smoke}.items())})"
