"""A matrix: YAML in, a plan of fully resolved cells out.

Nothing here reads images or imports torch. Lists inside parameters expand, duplicates collapse, cells that cannot exist
are kept as ``skipped`` with the reason. :mod:`benchbd.plan.matrix_file` reads the file, :mod:`benchbd.plan.overrides`
applies ``--set`` and ``--seeds``, :mod:`benchbd.plan.filters` applies ``--filter`` and ``--exclude``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchbd.core.images import DatasetInfo
from benchbd.core.paths import look, user_path
from benchbd.core.recipe import Recipe
from benchbd.errors import Impossible, UsageError, shown
from benchbd.plan.cell import Cell, share
from benchbd.plan.expand import ExpandedSpec, expand
from benchbd.plan.filters import AXES, Filters, Rule, rules_of, select
from benchbd.plan.matrix_file import BLOCK, TOP, as_list, known_keys, parse, read
from benchbd.plan.overrides import Overrides, parse_seeds, parse_set, seeds_of
from benchbd.plan.probe import Probe
from benchbd.plan.shipped import shipped
from benchbd.plugins import registry
from benchbd.plugins.contract import Defense
from benchbd.plugins.part import Part

__all__ = [
    "AXES",
    "BLOCK",
    "MAX_CELLS",
    "TOP",
    "Plan",
    "Skipped",
    "load",
    "narrow",
    "parse",
    "parse_seeds",
    "parse_set",
    "read",
    "resolve",
    "select",
    "shipped",
]

MAX_CELLS = 100_000
COMPONENTS = {"dataset": "dataset", "model": "model", "attack": "attacks", "defense": "defenses"}
"""Component kinds and the keys they have in a block."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""What a matrix may be called."""


class Skipped(NamedTuple):
    """A cell that cannot exist, and why."""

    cell: Cell
    reason: str


@dataclasses.dataclass(frozen=True)
class Plan:
    """A resolved matrix."""

    name: str
    description: str
    gate: float
    cells: tuple[Cell, ...]
    skipped: tuple[Skipped, ...]
    source: str


@dataclasses.dataclass(frozen=True)
class _Block:
    """One block of a matrix, checked, its product not yet made."""

    where: str
    axes: dict[str, list[ExpandedSpec]]
    recipe: dict[str, Any]
    probe: dict[str, Any] | None
    seeds: list[int]
    rules: list[Rule]

    @property
    def count(self) -> int:
        return len(self.seeds) * math.prod(sum(s.count for s in axis) for axis in self.axes.values())

    def cells(self, matrix: str) -> Iterator[tuple[Cell, str | None]]:
        """Every cell, with the reason why it cannot exist or None."""
        with _located(self.where):
            yield from self._cells(matrix)

    def _cells(self, matrix: str) -> Iterator[tuple[Cell, str | None]]:
        made = {kind: [component for s in axis for component in s.instances()] for kind, axis in self.axes.items()}
        made["defense"] = _settled(made["defense"])
        parts = {kind: _distinct(components) for kind, components in made.items()}
        for (ds_part, ds), (mo_part, mo) in itertools.product(parts["dataset"], parts["model"]):
            info, no_data = _info(ds)
            no_model = no_data or _reason(mo, "check", info)
            for at_part, at in parts["attack"]:
                no_attack = no_model or _reason(at, "check", info)
                for de_part, de in parts["defense"]:
                    reason = no_attack or _reason(de, "check", info, at)
                    for seed in self.seeds:
                        cell = Cell(ds_part, mo_part, at_part, de_part, self.recipe, seed, matrix, self.probe)
                        # Every rule is asked of every cell, so that each knows whether it fits any.
                        excluded = [rule.reason for rule in self.rules if rule.fits(cell)]
                        yield cell, reason or (f"excluded: {excluded[0]}" if excluded else None)


@contextlib.contextmanager
def _located(where: str) -> Iterator[None]:
    """Puts in front of a mistake where it was made."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _settled(defenses: Sequence[Defense]) -> list[Defense]:
    """A block's defenses with the parameters spelt out that depend on its other defenses (``Defense.among``)."""
    settled = []
    for one in defenses:
        with registry.blame("defenses", one.name):
            settled.append(one.among(defenses))
    return settled


def _distinct(components: Iterable[Any]) -> list[tuple[Part, Any]]:
    found: dict[str, tuple[Part, Any]] = {}
    for component in components:
        part = share(component)
        found.setdefault(part.json, (part, component))
    return list(found.values())


def _info(dataset: Any) -> tuple[DatasetInfo | None, str | None]:
    try:
        with registry.blame("datasets", dataset.name):
            return dataset.info(), None
    except Impossible as error:
        return None, str(error)


def _reason(component: Any, method: str, *arguments: Any) -> str | None:
    try:
        with registry.blame(component.kind, component.name):
            getattr(component, method)(*arguments)
    except Impossible as error:
        return str(error)
    return None


def resolve(
    data: dict[str, Any],
    where: str,
    *,
    sets: list[str] | None = None,
    seeds: list[int] | None = None,
    smoke: bool = False,
) -> Plan:
    """A checked mapping to a plan.

    Args:
        data: what :func:`parse` returned.
        where: the matrix, for messages.
        sets: ``--set`` texts, which win over the file.
        seeds: ``--seeds``, which win over the file.
        smoke: shrink every cell to seconds, to find mistakes before a long run.

    Raises:
        UsageError: anything in it is wrong.
    """
    here = f"matrix {where}"
    settings = Overrides(sets or [])
    name, description, gate = _head(data, where)
    with _located(here):
        _add_plugins(data, where)
    top_rules = rules_of(data.get("exclude"), here)
    blocks = [
        _block(block, data, f"{here}{f', block {n}' if 'blocks' in data else ''}", settings, seeds, smoke, top_rules)
        for n, block in enumerate(_blocks(data, here), 1)
    ]
    settings.check()
    size = sum(block.count for block in blocks)
    if size > MAX_CELLS:
        many = f"{size:,}" if size < 10**15 else "astronomically many"
        raise UsageError(f"{here}: {many} cells, more than {MAX_CELLS:,}; is a list in the wrong place?")
    cells: dict[str, Cell] = {}
    skipped: dict[str, Skipped] = {}
    for block in blocks:
        for cell, reason in block.cells(name):
            if reason is None:
                cells.setdefault(cell.id, cell)
            else:
                skipped.setdefault(cell.id, Skipped(cell, reason))
    if not (sets or seeds or smoke):
        for rule in itertools.chain(top_rules, *(block.rules for block in blocks)):
            if not rule.used:
                raise UsageError(f"{here}: exclude {rule.text} fits no cell; is there a typo in it?")
    impossible = tuple(s for i, s in skipped.items() if i not in cells)
    return Plan(name, description, gate, tuple(cells.values()), impossible, where)


def _head(data: dict[str, Any], where: str) -> tuple[str, str, float]:
    """Name, description and gate."""
    path = Path(where)
    usual = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).lstrip("-._")[:64] if path.suffix else ""
    name = data.get("name") or usual or "matrix"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"matrix {where}: name must be a word (letters, digits, - _ .), not {shown(name)}")
    description = data.get("description") or ""
    if not isinstance(description, str):
        raise UsageError(f"matrix {where}: description must be text, not {shown(description)}")
    gate = data.get("gate", 0.5)
    if isinstance(gate, bool) or not isinstance(gate, (int, float)) or not 0 <= gate <= 1:
        raise UsageError(f"matrix {where}: gate is an ASR in [0, 1], not {shown(gate)}")
    return name, " ".join(description.split()), float(gate)


def _add_plugins(data: dict[str, Any], where: str) -> None:
    """The matrix's own plugin files; relative ones lie beside it."""
    for plugin in as_list(data.get("plugins")):
        if not isinstance(plugin, str):
            raise UsageError(f"plugins are files, not {shown(plugin)}")
        path = user_path(plugin, "plugin")
        beside = Path(where).parent / path
        registry.add_plugin_file(str(beside if look(beside, "plugin") == "file" else path))


def _blocks(data: dict[str, Any], here: str) -> list[dict[str, Any]]:
    blocks = data.get("blocks")
    if "blocks" not in data:
        return [{key: data[key] for key in COMPONENTS.values() if key in data}]
    if not isinstance(blocks, list) or not blocks:
        raise UsageError(f"{here}: blocks must be a list with at least one block")
    for number, block in enumerate(blocks, 1):
        if not isinstance(block, dict):
            raise UsageError(f"{here}, block {number}: must be a mapping with dataset, model, attacks and defenses")
        known_keys(block, BLOCK, f"{here}, block {number}")
    return blocks


def _block(
    block: dict[str, Any],
    data: dict[str, Any],
    here: str,
    settings: Overrides,
    seeds: list[int] | None,
    smoke: bool,
    top_rules: list[Rule],
) -> _Block:
    """Check a block and open its specs, without multiplying anything out."""
    chosen = seeds if seeds is not None else seeds_of(block.get("seeds", data.get("seeds", 0)), here)
    rules = [*top_rules, *rules_of(block.get("exclude"), here)]
    axes = {}
    with _located(here):
        given = {**_mapping(data, "recipe"), **_mapping(block, "recipe")}
        recipe = Recipe.parse({**given, **({"epochs": 1} if smoke else {}), **settings.recipe()})
        watched = {**_mapping(data, "probe"), **_mapping(block, "probe"), **settings.probe()}
        if smoke and watched.get("features") is not None:
            watched["features"] = recipe.epochs
        probe = Probe.parse(watched, recipe.epochs).spec() if watched else None
        for kind, key in COMPONENTS.items():
            specs = as_list(settings.spec(kind) or block.get(key))
            if not specs:
                raise UsageError(f"{key} is missing")
            axes[kind] = [expand(spec, kind, settings, smoke) for spec in specs]
    return _Block(here, axes, recipe.spec(), probe, chosen, rules)


def _mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        example = {"recipe": "{epochs: 20}", "probe": "{losses: true}"}[key]
        raise UsageError(f"{key} must be a mapping such as {example}")
    return value


def load(matrix: str, *, sets: list[str] | None = None, seeds: list[int] | None = None, smoke: bool = False) -> Plan:
    """Read, check and resolve a matrix: a path, a shipped name, or ``-``."""
    text, where = read(matrix)
    return resolve(parse(text, where), where, sets=sets, seeds=seeds, smoke=smoke)


def narrow(plan: Plan, filters: list[str], excludes: list[str] | None = None) -> Plan:
    """The plan's cells, and those it skips, that pass ``--filter`` and ``--exclude``.

    Raises:
        UsageError: an expression cannot be read or fits no cell, or no cell that can exist is left.
    """
    if not filters and not excludes:
        return plan
    chosen = Filters(filters, excludes)
    everything = (*plan.cells, *(s.cell for s in plan.skipped))
    chosen.check(everything)
    cells = tuple(cell for cell in plan.cells if chosen.keep(cell))
    skipped = tuple(s for s in plan.skipped if chosen.keep(s.cell))
    if everything and not cells:
        if skipped:
            raise UsageError(f"{chosen.none_left(len(everything))}: what fits is skipped, {skipped[0].reason}")
        raise chosen.none_left(len(everything))
    return dataclasses.replace(plan, cells=cells, skipped=skipped)
