"""A cell: one fully resolved data set x model x attack x defense x seed, and its identity."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any, NamedTuple

from benchbd.core.hashing import canonical, digest
from benchbd.core.kinds import KINDS
from benchbd.core.recipe import Recipe
from benchbd.errors import UsageError, shown
from benchbd.plan.probe import Probe
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack, Component, Dataset, Defense, Model
from benchbd.plugins.identity import part_of
from benchbd.plugins.part import Part

SCHEMA = 1
"""Version of the identity itself. A change orphans every record: a golden test pins it."""


def identity(spec: dict[str, Any]) -> str:
    """A cell's id: 16 hex digits of its resolved spec. Machine settings are not in the spec, so not in the id."""
    return digest(spec)[:16]


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
    probe: dict[str, Any] | None = None

    def spec(self) -> dict[str, Any]:
        """The fully resolved spec that the id hashes; ``probe`` is in it only where one is asked for."""
        return {
            "schema": SCHEMA,
            "dataset": self.dataset.spec(),
            "model": self.model.spec(),
            "attack": self.attack.spec(),
            "defense": self.defense.spec(),
            "recipe": self.recipe,
            "seed": self.seed,
            **self._probe_spec(),
        }

    def _probe_spec(self) -> dict[str, Any]:
        return {} if self.probe is None else {"probe": self.probe}

    @functools.cached_property
    def _recipe_json(self) -> str:
        return canonical(self.recipe)

    def _hash(self, *kinds: str, **more: Any) -> str:
        """``identity`` of the spec with these components in it, put together from the parts' canonical forms."""
        pieces = {kind: getattr(self, kind).json for kind in kinds}
        pieces |= {"recipe": self._recipe_json, "schema": str(SCHEMA), "seed": str(self.seed)}
        pieces |= {key: canonical(value) for key, value in more.items()}
        text = "{" + ",".join(f'"{key}":{pieces[key]}' for key in sorted(pieces)) + "}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.cached_property
    def id(self) -> str:
        """16 hex digits."""
        return self._hash(*KINDS, **self._probe_spec())

    @property
    def label(self) -> str:
        """``cifar10(train=10000)/resnet18(width=16)/bn-g/lfd/s0``."""
        return f"{self.dataset.text}/{self.model.text}/{self.attack.text}/{self.defense.text}/s{self.seed}"

    @functools.cached_property
    def row_key(self) -> str:
        """Equal for cells whose poisoned set, model and recipe are the same: they share stages."""
        return self._hash("dataset", "model", "attack")

    def to_json(self) -> dict[str, Any]:
        """The cell as data, for crossing to a worker."""
        return {"spec": self.spec(), "matrix": self.matrix}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cell:
        """Rebuild a cell from its spec; plugins must be known here in the versions named.

        Raises:
            UsageError: a plugin is missing, has another version or other parameters, or this is no cell.
        """
        try:
            spec = data["spec"]
            if spec.get("schema") != SCHEMA:
                theirs = shown(spec.get("schema"))
                raise UsageError(f"the cell was written by another benchbd (schema {theirs}, this one reads {SCHEMA})")
            parts = {kind: _rebuilt(kind, spec[kind]) for kind in KINDS}
            recipe = Recipe.parse(spec["recipe"])
            cell = cls(
                **parts,
                recipe=recipe.spec(),
                seed=spec["seed"],
                matrix=str(data.get("matrix") or ""),
                probe=Probe.parse(spec["probe"], recipe.epochs).spec() if "probe" in spec else None,
            )
            same = type(cell.seed) is int and cell.id == identity(spec)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"that is no cell ({shown(str(error))})") from error
        if not same:
            raise UsageError("the cell's spec does not name every parameter as the plugins here do; plan again")
        return cell

    def components(self) -> Components:
        """The plugin instances of this cell; cells with equal parts share them."""
        return Components(
            _instance("datasets", self.dataset),
            _instance("models", self.model),
            _instance("attacks", self.attack),
            _instance("defenses", self.defense),
            _recipe(self._recipe_json),
        )


class Components(NamedTuple):
    """The live components of a cell."""

    dataset: Dataset
    model: Model
    attack: Attack
    defense: Defense
    recipe: Recipe


def _rebuilt(kind: str, given: dict[str, Any]) -> Part:
    made = registry.make(f"{kind}s", given["name"], **given["params"])
    if made.version != given["version"]:
        theirs = shown(given["version"])
        raise UsageError(f"{kind} {made.name!r} is version {made.version} here, the cell wants {theirs}; plan again")
    return part_of(made)


_instances: dict[tuple[type, str], Any] = {}


def share(component: Component) -> Part:
    """Like :func:`part_of`; the cells made of this part share the instance."""
    part = part_of(component)
    _instances.setdefault((type(component), part.json), component)
    return part


def _instance(kind: str, part: Part) -> Any:
    key = (registry.load(kind, part.name), part.json)
    if key not in _instances:
        _instances[key] = registry.make(kind, part.name, **part.params)
    return _instances[key]


@functools.lru_cache(maxsize=1024)
def _recipe(text: str) -> Recipe:
    return Recipe.parse(json.loads(text))
