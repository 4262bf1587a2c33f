"""A cell: one fully resolved data set x model x attack x defense x seed, and its identity."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Any, NamedTuple

from benchbd.core.hashing import canonical, digest
from benchbd.core.kinds import KINDS
from benchbd.core.numerics import USUAL, Numerics
from benchbd.core.recipe import Recipe
from benchbd.errors import UsageError, shown
from benchbd.plan.probe import Probe
from benchbd.plugins import registry
from benchbd.plugins.contract import Attack, Component, Dataset, Defense, Model
from benchbd.plugins.identity import part_of
from benchbd.plugins.part import Part

SCHEMA = 1
"""Version of the identity scheme. A change orphans every stored record; a golden test pins it."""


def identity(spec: dict[str, Any]) -> str:
    """A cell's id: the first 16 hex digits of the hash of its resolved spec, which leaves out machine settings."""
    return digest(spec)[:16]


@dataclasses.dataclass(frozen=True, eq=False)
class Cell:
    """One experiment. ``id`` is its identity; ``row_key`` is shared by all defenses of its row."""

    dataset: Part
    model: Part
    attack: Part
    defense: Part
    recipe: dict[str, Any]
    seed: int
    matrix: str = ""
    probe: dict[str, Any] | None = None
    numerics: Numerics = USUAL

    def spec(self) -> dict[str, Any]:
        """The fully resolved spec, which the id hashes.

        It has a ``probe`` entry only if the cell has a probe, and ``precision`` and ``threads`` only if they are not
        the defaults.
        """
        return {
            "schema": SCHEMA,
            "dataset": self.dataset.spec(),
            "model": self.model.spec(),
            "attack": self.attack.spec(),
            "defense": self.defense.spec(),
            "recipe": self.recipe,
            "seed": self.seed,
            **self._probe_spec(),
            **self.numerics.spec(),
        }

    def _probe_spec(self) -> dict[str, Any]:
        return {} if self.probe is None else {"probe": self.probe}

    @functools.cached_property
    def _recipe_json(self) -> str:
        return canonical(self.recipe)

    def _hash(self, *kinds: str, **more: Any) -> str:
        """:func:`identity` of a spec with these components, assembled from the canonical forms of the parts."""
        pieces = {kind: getattr(self, kind).json for kind in kinds}
        pieces |= {"recipe": self._recipe_json, "schema": str(SCHEMA), "seed": str(self.seed)}
        pieces |= {key: canonical(value) for key, value in more.items()}
        text = "{" + ",".join(f'"{key}":{pieces[key]}' for key in sorted(pieces)) + "}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.cached_property
    def id(self) -> str:
        """16 hex digits."""
        return self._hash(*KINDS, **self._probe_spec(), **self.numerics.spec())

    @property
    def label(self) -> str:
        """``cifar10(train=10000)/resnet18(width=16)/bn-g/lfd/s0``, or ``.../lfd/precision=bf16/s0``."""
        numerics = f"/{self.numerics.text}" if self.numerics.text else ""
        return f"{self.dataset.text}/{self.model.text}/{self.attack.text}/{self.defense.text}{numerics}/s{self.seed}"

    @property
    def precision(self) -> str:
        """The precision that the cell asks for; ``auto`` by default."""
        return self.numerics.precision

    @property
    def threads(self) -> int:
        """The CPU threads that the cell asks for; 1 by default, which on a GPU means those of its slot."""
        return self.numerics.threads

    @functools.cached_property
    def row_key(self) -> str:
        """A key of the poisoned set, model, recipe and numerics. Cells with an equal key share stages."""
        return self._hash("dataset", "model", "attack", **self.numerics.spec())

    def to_json(self) -> dict[str, Any]:
        """The cell as JSON data, to send to a worker."""
        return {"spec": self.spec(), "matrix": self.matrix}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Cell:
        """Rebuild a cell from the result of :meth:`to_json`. Its plugins must be known here in the same versions.

        Raises:
            UsageError: a plugin is missing or has another version or other parameters, or this is not a cell.
        """
        try:
            spec = data["spec"]
            if spec.get("schema") != SCHEMA:
                schema = shown(spec.get("schema"))
                raise UsageError(f"the cell comes from another benchbd (schema {schema}; this one reads {SCHEMA})")
            parts = {kind: _part_from_spec(kind, spec[kind]) for kind in KINDS}
            recipe = Recipe.parse(spec["recipe"])
            cell = cls(
                **parts,
                recipe=recipe.spec(),
                seed=spec["seed"],
                matrix=str(data.get("matrix") or ""),
                probe=Probe.parse(spec["probe"], recipe.epochs).spec() if "probe" in spec else None,
                numerics=Numerics.parse(spec),
            )
            unchanged = type(cell.seed) is int and cell.id == identity(spec)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"this is not a cell ({shown(str(error))})") from error
        if not unchanged:
            raise UsageError("the cell's spec does not match the parameters of the plugins here; plan again")
        return cell

    def components(self) -> Components:
        """The plugin instances of this cell. Cells with equal parts share instances."""
        return Components(
            _instance("datasets", self.dataset),
            _instance("models", self.model),
            _instance("attacks", self.attack),
            _instance("defenses", self.defense),
            _recipe(self._recipe_json),
        )


class Components(NamedTuple):
    """The plugin instances and the recipe of a cell."""

    dataset: Dataset
    model: Model
    attack: Attack
    defense: Defense
    recipe: Recipe


def _part_from_spec(kind: str, spec: dict[str, Any]) -> Part:
    component = registry.make(f"{kind}s", spec["name"], **spec["params"])
    if component.version != spec["version"]:
        here, needed = f"version {component.version} here", f"version {shown(spec['version'])}"
        raise UsageError(f"{kind} {component.name!r} is {here}, but the cell needs {needed}; plan again")
    return part_of(component)


_instances: dict[tuple[type, str], Any] = {}


def shared_part(component: Component) -> Part:
    """Like :func:`part_of`, and let all cells with this part share the instance."""
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
