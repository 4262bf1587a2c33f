"""A cell: one fully resolved data set x model x attack x defense x seed, and its identity."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any, NamedTuple

from benchbd import registry
from benchbd.components import Attack, Component, Dataset, Defense, Model
from benchbd.errors import UsageError
from benchbd.recipe import Recipe

SCHEMA = 1
"""Version of the identity itself. A change orphans every record: a golden test pins it."""


def canonical(value: Any) -> str:
    """The one way a value is written for hashing: sorted keys, no spaces, plain ASCII, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest(value: Any) -> str:
    """sha256 (hex) of a value's canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def identity(spec: dict[str, Any]) -> str:
    """A cell's id: 16 hex digits of its resolved spec. Machine settings are not in the spec, so not in the id."""
    return digest(spec)[:16]


class Part(NamedTuple):
    """One component of a cell: name, the plugin's version, every parameter, and its short text for people."""

    name: str
    version: int
    params: dict[str, Any]
    text: str

    def spec(self) -> dict[str, Any]:
        """What of it counts for identity."""
        return {"name": self.name, "version": self.version, "params": self.params}


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return "[" + ",".join(map(_short, value)) + "]"
    return str(value)


def part_of(component: Component) -> Part:
    """Describe a plugin instance; its text names only the parameters that differ from the defaults."""
    params = component.params()
    defaults = {f.name: f.default for f in dataclasses.fields(component)}
    changed = [f"{k}={_short(v)}" for k, v in params.items() if v != (list(defaults[k]) if isinstance(defaults[k], tuple) else defaults[k])]
    text = component.name + (f"({','.join(changed)})" if changed else "")
    return Part(component.name, component.version, params, text)


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One experiment. ``id`` is its identity, ``row_key`` names what all defenses of its row share."""

    dataset: Part
    model: Part
    attack: Part
    defense: Part
    recipe: dict[str, Any]
    seed: int
    matrix: str = ""

    def spec(self) -> dict[str, Any]:
        """The fully resolved spec that the id hashes."""
        return {
            "schema": SCHEMA,
            "dataset": self.dataset.spec(),
            "model": self.model.spec(),
            "attack": self.attack.spec(),
            "defense": self.defense.spec(),
            "recipe": self.recipe,
            "seed": self.seed,
        }

    @functools.cached_property
    def id(self) -> str:
        """16 hex digits."""
        return identity(self.spec())

    @property
    def label(self) -> str:
        """``cifar10(train=10000)/resnet18(width=16)/bn-g/lfd/s0``."""
        return f"{self.dataset.text}/{self.model.text}/{self.attack.text}/{self.defense.text}/s{self.seed}"

    @functools.cached_property
    def row_key(self) -> str:
        """Equal for cells whose poisoned set, model and recipe are the same: they share stages."""
        spec = self.spec()
        del spec["defense"]
        return identity(spec)

    def to_json(self) -> dict[str, Any]:
        """The cell as data, for crossing to a worker."""
        return {"spec": self.spec(), "matrix": self.matrix}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cell:
        """Rebuild a cell from its spec; plugins must be known here in the versions named.

        Raises:
            UsageError: a plugin is missing, has another version, or refuses the parameters.
        """
        spec = data["spec"]
        if spec.get("schema") != SCHEMA:
            raise UsageError(f"the cell was written by another benchbd (schema {spec.get('schema')}, this one reads {SCHEMA})")
        parts = {}
        for kind in ("dataset", "model", "attack", "defense"):
            given = spec[kind]
            made = registry.make(f"{kind}s", given["name"], **given["params"])
            if made.version != given["version"]:
                raise UsageError(f"{kind} {given['name']!r} is version {made.version} here, the cell wants {given['version']}; plan again")
            parts[kind] = part_of(made)
        return cls(**parts, recipe=Recipe.parse(spec["recipe"]).spec(), seed=int(spec["seed"]), matrix=str(data.get("matrix", "")))

    def made(self) -> Made:
        """The plugin instances of this cell."""
        return Made(
            registry.make("datasets", self.dataset.name, **self.dataset.params),
            registry.make("models", self.model.name, **self.model.params),
            registry.make("attacks", self.attack.name, **self.attack.params),
            registry.make("defenses", self.defense.name, **self.defense.params),
            Recipe.parse(self.recipe),
        )


class Made(NamedTuple):
    """The live components of a cell."""

    dataset: Dataset
    model: Model
    attack: Attack
    defense: Defense
    recipe: Recipe
