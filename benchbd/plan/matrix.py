"""A matrix: YAML in, a plan of fully resolved cells out.

Nothing here reads images or imports torch. Lists inside parameters expand and duplicate cells collapse. Cells that
cannot exist are kept as ``skipped``, each with its reason.

:mod:`benchbd.plan.matrix_file` reads the file, :mod:`benchbd.plan.overrides` applies ``--set`` and ``--seeds``, and
:mod:`benchbd.plan.filters` applies ``--filter`` and ``--exclude``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.core.files_folder import look_beside
from benchbd.core.images import DatasetInfo
from benchbd.core.numerics import NUMERICS, Numerics
from benchbd.core.paths import look, user_path
from benchbd.core.recipe import Recipe, merged
from benchbd.errors import UsageError, shown
from benchbd.plan.cell import Cell, shared_part
from benchbd.plan.expand import ExpandedSpec, expand
from benchbd.plan.filters import AXES, Filters, Rule, rules_of, select
from benchbd.plan.learning_rates import doubtful_rates
from benchbd.plan.matrix_file import BLOCK, TOP, as_list, known_keys, parse, read
from benchbd.plan.overrides import Overrides, one_seed, parse_seeds, parse_set, seeds_of
from benchbd.plan.possible import dataset_info, impossible, lacks_files
from benchbd.plan.probe import Probe
from benchbd.plan.shipped import shipped
from benchbd.plugins import registry
from benchbd.plugins.attack import poisoned_twice
from benchbd.plugins.contract import Attack, Defense
from benchbd.plugins.part import Part

if TYPE_CHECKING:
    from benchbd.plan.absent_files import AbsentFiles

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
"""For each component kind, its key in a block."""
LATER_FILES = ("model", "defense", "attack")
"""Kinds of components whose files need not be there to make a plan, as those of most data sets."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
"""Pattern of a valid matrix name."""


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
    notes: tuple[str, ...] = ()
    """What a user may have meant otherwise, a line each."""


@dataclasses.dataclass(frozen=True)
class _Block:
    """One checked block of a matrix, before its Cartesian product is taken."""

    where: str
    axes: dict[str, list[ExpandedSpec]]
    recipe: dict[str, Any]
    probe: dict[str, Any] | None
    numerics: Numerics
    seeds: list[int]
    rules: list[Rule]
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return len(self.seeds) * math.prod(sum(spec.count for spec in axis) for axis in self.axes.values())

    def cells(self, matrix: str, absent: AbsentFiles | None = None) -> Iterator[tuple[Cell, str | None]]:
        """Yield every cell, with the reason why it is skipped or None; for ``absent`` see :func:`resolve`."""
        with _error_prefix(self.where):
            yield from self._cells(matrix, absent)

    def _cells(self, matrix: str, absent: AbsentFiles | None) -> Iterator[tuple[Cell, str | None]]:
        plugins = {kind: [plugin for spec in axis for plugin in spec.instances()] for kind, axis in self.axes.items()}
        plugins["defense"] = _settled(plugins["defense"])
        unique = {kind: _distinct(instances) for kind, instances in plugins.items()}
        lacking = {
            kind: {part.json for part, plugin in unique[kind] if lacks_files(kind, part, plugin, absent)}
            for kind in LATER_FILES
        }
        for (dataset_part, dataset), (model_part, model) in itertools.product(unique["dataset"], unique["model"]):
            info, dataset_reason = dataset_info(dataset_part, dataset, absent)
            lacks_model = model_part.json in lacking["model"]
            model_reason = dataset_reason or impossible(model, info, files_missing=lacks_model)
            for attack_part, attack in unique["attack"]:
                lacks_attack = attack_part.json in lacking["attack"]
                attack_reason = model_reason or self._attack_reason(attack, info, lacks_attack)
                for defense_part, defense in unique["defense"]:
                    lacks = lacks_attack or defense_part.json in lacking["defense"]
                    reason = attack_reason or impossible(defense, info, attack, files_missing=lacks)
                    for seed in self.seeds:
                        parts = (dataset_part, model_part, attack_part, defense_part)
                        cell = Cell(*parts, self.recipe, seed, matrix, self.probe, self.numerics)
                        # Every cell is tried against every rule, so that each rule knows whether it matches any cell.
                        excluded = [rule.reason for rule in self.rules if rule.matches(cell)]
                        yield cell, reason or (f"excluded: {excluded[0]}" if excluded else None)

    @staticmethod
    def _attack_reason(attack: Attack, info: DatasetInfo | None, files_missing: bool) -> str | None:
        """Why the attack does not apply to this data set, or None."""
        twice = None if info is None else poisoned_twice(attack, info)
        return twice or impossible(attack, info, files_missing=files_missing)


@contextlib.contextmanager
def _error_prefix(where: str) -> Iterator[None]:
    """Prefix the UsageErrors raised inside with where the mistake is."""
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
    """The components without duplicates, each with its part."""
    found: dict[str, tuple[Part, Any]] = {}
    for component in components:
        part = shared_part(component)
        found.setdefault(part.json, (part, component))
    return list(found.values())


def resolve(
    data: dict[str, Any],
    where: str,
    *,
    sets: list[str] | None = None,
    seeds: list[int] | None = None,
    smoke: bool = False,
    precision: str | None = None,
    threads: int | None = None,
    absent: AbsentFiles | None = None,
) -> Plan:
    """Turn a checked mapping into a plan.

    Args:
        data: the result of :func:`parse`.
        where: the matrix, for error messages.
        sets: ``--set`` texts; they override the file.
        seeds: ``--seeds``; they override the file.
        smoke: shrink every cell to a few seconds, to find mistakes before a long run.
        precision: ``--precision``; it overrides the file and ``sets``.
        threads: ``--threads``; likewise.
        absent: notes the lines in which plugins say that their files are missing. All their cells then count as
            possible: their identities do not depend on the files. Without it, the first line is raised.

    Raises:
        UsageError: the matrix or an override has a mistake.
    """
    here = f"matrix {where}"
    overrides = Overrides(sets or [], precision, threads)
    name, description, gate = _head(data, where)
    with _error_prefix(here):
        _add_plugins(data, where)
    top_rules = rules_of(data.get("exclude"), here)
    blocks = [
        _block(block, data, f"{here}{f', block {n}' if 'blocks' in data else ''}", overrides, seeds, smoke, top_rules)
        for n, block in enumerate(_blocks(data, here), 1)
    ]
    overrides.check()
    size = sum(block.count for block in blocks)
    if size > MAX_CELLS:
        count = f"{size:,}" if size < 10**15 else "astronomically many"
        raise UsageError(f"{here}: {count} cells, more than {MAX_CELLS:,}; is a list in the wrong place?")
    cells: dict[str, Cell] = {}
    skipped: dict[str, Skipped] = {}
    for block in blocks:
        for cell, reason in block.cells(name, absent):
            if reason is None:
                cells.setdefault(cell.id, cell)
            else:
                skipped.setdefault(cell.id, Skipped(cell, reason))
    if not (sets or seeds or smoke):
        for rule in itertools.chain(top_rules, *(block.rules for block in blocks)):
            if not rule.used:
                raise UsageError(f"{here}: exclude {rule.text} matches no cell; is there a typo in it?")
    only_skipped = tuple(skip for cell_id, skip in skipped.items() if cell_id not in cells)
    notes = dict.fromkeys(note for block in blocks for note in block.notes)
    notes |= dict.fromkeys(f"{here}: {line}" for line in doubtful_rates(cells.values()))
    return Plan(name, description, gate, tuple(cells.values()), only_skipped, where, tuple(notes))


def _head(data: dict[str, Any], where: str) -> tuple[str, str, float]:
    """Name, description and gate."""
    path = Path(where)
    from_path = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).lstrip("-._")[:64] if path.suffix else ""
    name = data.get("name") or from_path or "matrix"
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"matrix {where}: name must be a word (letters, digits, - _ .), not {shown(name)}")
    description = data.get("description") or ""
    if not isinstance(description, str):
        raise UsageError(f"matrix {where}: description must be text, not {shown(description)}")
    gate = data.get("gate", 0.5)
    if isinstance(gate, bool) or not isinstance(gate, (int, float)) or not 0 <= gate <= 1:
        raise UsageError(f"matrix {where}: gate must be an ASR in [0, 1], not {shown(gate)}")
    return name, " ".join(description.split()), float(gate)


def _add_plugins(data: dict[str, Any], where: str) -> None:
    """Register the matrix's own plugin files; a relative path is looked up beside the matrix first."""
    for plugin in as_list(data.get("plugins")):
        if not isinstance(plugin, str):
            raise UsageError(f"plugins must be file paths, not {shown(plugin)}")
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
    overrides: Overrides,
    seeds: list[int] | None,
    smoke: bool,
    top_rules: list[Rule],
) -> _Block:
    """Check a block and expand its specs, without taking the product."""
    given_seeds = block.get("seeds", data.get("seeds", 0))
    chosen = seeds if seeds is not None else seeds_of(given_seeds, here)
    notes = [f"{here}: {note}"] if seeds is None and (note := one_seed(given_seeds)) else []
    rules = [*top_rules, *rules_of(block.get("exclude"), here)]
    axes = {}
    with _error_prefix(here):
        set_here = overrides.recipe()
        given = merged(_mapping(data, "recipe"), _mapping(block, "recipe"), set_here)
        recipe = Recipe.parse(given)
        notes += [f"{here}: {line}" for line in (*recipe.without_effect(given), *recipe.doubtful_rates())]
        if smoke and "epochs" not in set_here:
            recipe = recipe.but(epochs=1)
        given_probe = {**_mapping(data, "probe"), **_mapping(block, "probe"), **overrides.probe()}
        if smoke and given_probe.get("features") is not None:
            given_probe["features"] = recipe.epochs
        probe = Probe.parse(given_probe, recipe.epochs).spec() if given_probe else None
        given_numerics = [(key, v[key]) for v in (data, block, overrides.numerics()) for key in NUMERICS if key in v]
        numerics = Numerics.parse(dict(given_numerics))
        for kind, key in COMPONENTS.items():
            specs = as_list(overrides.spec(kind) or block.get(key))
            if not specs:
                raise UsageError(f"{key} is missing")
            axes[kind] = [expand(spec, kind, overrides, smoke) for spec in specs]
    return _Block(here, axes, recipe.spec(), probe, numerics, chosen, rules, tuple(notes))


def _mapping(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if key == "recipe" and isinstance(value, str):
        return {"preset": value}
    if not isinstance(value, dict):
        form = {
            "recipe": "a mapping such as {epochs: 20}, or the name of a preset such as fast",
            "probe": "a mapping such as {losses: true}",
        }[key]
        raise UsageError(f"{key} must be {form}, not {shown(value)}")
    return value


def load(
    matrix: str,
    *,
    sets: list[str] | None = None,
    seeds: list[int] | None = None,
    smoke: bool = False,
    precision: str | None = None,
    threads: int | None = None,
    absent: AbsentFiles | None = None,
) -> Plan:
    """Read, check and resolve a matrix: a path, a shipped name, or ``-``; the rest as for :func:`resolve`."""
    text, where = read(matrix)
    if Path(where).is_file():
        look_beside(Path(where))
    numerics: dict[str, Any] = {"precision": precision, "threads": threads}
    return resolve(parse(text, where), where, sets=sets, seeds=seeds, smoke=smoke, absent=absent, **numerics)


def narrow(plan: Plan, filters: list[str], excludes: list[str] | None = None) -> Plan:
    """Keep the cells and skipped cells of a plan that pass ``--filter`` and ``--exclude``.

    Raises:
        UsageError: an expression cannot be read, matches no cell, or no runnable cell is left.
    """
    if not filters and not excludes:
        return plan
    selection = Filters(filters, excludes)
    every_cell = (*plan.cells, *(skip.cell for skip in plan.skipped))
    selection.check(every_cell)
    cells = tuple(cell for cell in plan.cells if selection.keep(cell))
    skipped = tuple(skip for skip in plan.skipped if selection.keep(skip.cell))
    if every_cell and not cells:
        if skipped:
            none_left = selection.none_left(len(every_cell))
            raise UsageError(f"{none_left}: every matching cell is skipped, {skipped[0].reason}")
        raise selection.none_left(len(every_cell))
    return dataclasses.replace(plan, cells=cells, skipped=skipped)
