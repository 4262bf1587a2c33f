"""Records put in their places: scale -> attack row x defense column -> one record per seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from benchbd.core.kinds import KINDS
from benchbd.report.labels import Variant, variant
from benchbd.storage.record_schema import Record

UNDEFENDED = "none"
NO_ATTACK = "none"


class Scale(NamedTuple):
    """What a table's cells have in common: data set, model and recipe (as JSON)."""

    dataset: Variant
    model: Variant
    recipe: str


@dataclass(slots=True)
class SeedRecords:
    """What is known of one attack x defense: a record per seed. Ask only once it is filled: answers are kept."""

    by_seed: dict[int, Record] = field(default_factory=dict)
    _kept: dict[str, Any] = field(default_factory=dict)

    def done(self) -> list[Record]:
        """The records that carry numbers, by seed."""
        if "" not in self._kept:
            self._kept[""] = [r for _, r in sorted(self.by_seed.items()) if r["status"] == "done"]
        return self._kept[""]  # type: ignore[no-any-return]

    def values(self, metric: str) -> dict[int, float]:
        """A metric by seed, where it is defined."""
        if metric not in self._kept:
            self._kept[metric] = {r["seed"]: r[metric] for r in self.done() if r.get(metric) is not None}
        return self._kept[metric]  # type: ignore[no-any-return]

    def failures(self) -> Counter[str]:
        """How many seeds ended in which other way."""
        return Counter(r["status"] for r in self.by_seed.values() if r["status"] != "done")

    def ids(self) -> tuple[str, ...]:
        """The records' ids, by seed."""
        return tuple(r["id"] for _, r in sorted(self.by_seed.items()))


@dataclass(slots=True)
class Group:
    """One table's worth of records. ``rows`` and ``columns`` are in the order they are shown in."""

    scale: Scale
    rows: list[Variant] = field(default_factory=list)
    columns: list[Variant] = field(default_factory=list)
    entries: dict[tuple[Variant, Variant], SeedRecords] = field(default_factory=dict)
    controls: set[Variant] = field(default_factory=set)
    clean: set[Variant] = field(default_factory=set)
    """Rows in which nothing is poisoned."""
    needs: dict[Variant, tuple[str, ...]] = field(default_factory=dict)

    def entry(self, row: Variant, column: Variant) -> SeedRecords:
        """The entry at a place; an empty one where nothing was run."""
        return self.entries.get((row, column)) or SeedRecords()

    def attacks(self) -> list[Variant]:
        """The rows in which something is poisoned."""
        return [row for row in self.rows if row not in self.clean]

    def undefended(self) -> Variant | None:
        """The column of plain training."""
        return next((c for c in self.columns if c.name == UNDEFENDED), None)


class Grouping(NamedTuple):
    """All groups, and what had to be left out of them, in words."""

    groups: list[Group]
    left_out: list[str]

    def variants(self) -> set[Variant]:
        """Every component that occurs."""
        scales = {v for g in self.groups for v in (g.scale.dataset, g.scale.model)}
        return scales.union(*(g.rows for g in self.groups), *(g.columns for g in self.groups))


def _rank(name: str, order: Mapping[str, int]) -> tuple[int, str]:
    return (order.get(name, len(order)), name)


def _versions(record: Mapping[str, Any]) -> tuple[int, ...]:
    spec = record.get("spec") or {}
    found = (spec.get(kind) for kind in KINDS)
    return tuple(
        part["version"] if isinstance(part, dict) and isinstance(part.get("version"), int) else 0 for part in found
    )


def _standing(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of two records for one place and seed, the one with the larger standing is shown."""
    probed = "probe" in (record.get("spec") or {})  # the same cell, and more is known of it
    return (_versions(record), record["status"] == "done", probed, record["id"])


def group(
    records: Iterable[Record],
    attack_order: Mapping[str, int],
    defense_order: Mapping[str, int],
    dataset_order: Mapping[str, int],
) -> Grouping:
    """Put records in their places.

    Records of one place and seed differ in their plugins' versions, or were measured twice; the newest versions
    count, then a finished record before a failed one. What is left out is counted and said.

    Args:
        records: checked records.
        attack_order: place of known attacks; others follow by name, the row without attack comes last.
        defense_order: place of known defenses; others follow by name, controls come last.
        dataset_order: place of known data sets; others follow by name.
    """
    groups: dict[Scale, Group] = {}
    recipes: dict[str, str] = {}
    older = twice = 0
    for record in records:
        dataset, model = variant(record, "dataset"), variant(record, "model")
        attack, defense = variant(record, "attack"), variant(record, "defense")
        recipe = repr(record.get("recipe") or {})
        if recipe not in recipes:
            recipes[recipe] = json.dumps(record.get("recipe") or {}, sort_keys=True)
        scale = Scale(dataset, model, recipes[recipe])
        here = groups.get(scale)
        if here is None:
            here = groups[scale] = Group(scale)
        entry = here.entries.get((attack, defense))
        if entry is None:
            entry = here.entries[attack, defense] = SeedRecords()
        rival = entry.by_seed.get(record["seed"])
        if rival is not None:
            older += _versions(rival) != _versions(record)
            twice += _versions(rival) == _versions(record)
            if _standing(rival) >= _standing(record):
                continue
        entry.by_seed[record["seed"]] = record
        if record.get("control"):
            here.controls.add(defense)
        if record["attack"] == NO_ATTACK:
            here.clean.add(attack)
        here.needs.setdefault(defense, tuple(record.get("needs") or ()))
    for here in groups.values():
        attacks = {attack for attack, _ in here.entries}
        defenses = {defense for _, defense in here.entries}
        here.rows = sorted(attacks, key=lambda a: (a in here.clean, _rank(a.name, attack_order), a.params))
        here.columns = sorted(
            defenses, key=lambda d: (d in here.controls, d.name != UNDEFENDED, _rank(d.name, defense_order), d.params)
        )
    left_out = []
    if older:
        left_out.append(f"{older} record(s) of older plugin versions are left out.")
    if twice:
        left_out.append(f"{twice} record(s) of cells that are there twice are left out.")
    ordered = sorted(groups.values(), key=lambda g: (_rank(g.scale.dataset.name, dataset_order), g.scale))
    return Grouping(ordered, left_out)
