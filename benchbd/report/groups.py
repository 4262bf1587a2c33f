"""Records grouped into tables: scale -> (attack row, defense column) -> one record per seed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from benchbd.core.kinds import KINDS
from benchbd.errors import counted
from benchbd.report import stats
from benchbd.report.definitions import USUAL, Definitions
from benchbd.report.labels import Variant, asked_numerics, variant
from benchbd.report.wording import transform_text
from benchbd.storage.record_schema import Record

T = TypeVar("T")
UNDEFENDED = "none"
NO_ATTACK = "none"
TRANSFORMED = "\N{PILCROW SIGN}"
"""Mark of a defense whose models change test images or outputs."""


class Scale(NamedTuple):
    """The data set, model, recipe (as JSON) and numerics (``precision=bf16``) that all cells of a table share."""

    dataset: Variant
    model: Variant
    recipe: str
    numerics: str = ""


@dataclass(slots=True)
class SeedRecords:
    """The records of one attack and defense, one per seed. Results are cached: query it only after filling it."""

    by_seed: dict[int, Record] = field(default_factory=dict)
    fields: Mapping[str, str] = field(default_factory=dict)
    """The record's field of each metric, where the table's definition of the metric is not the default."""
    _cache: dict[str, Any] = field(default_factory=dict)

    def done(self) -> list[Record]:
        """The finished records, in seed order."""
        if "" not in self._cache:
            self._cache[""] = [r for _, r in sorted(self.by_seed.items()) if r["status"] == "done"]
        return self._cache[""]  # type: ignore[no-any-return]

    def values(self, metric: str) -> dict[int, float]:
        """A metric by seed, for the seeds where it is defined."""
        if metric not in self._cache:
            name = self.fields.get(metric, metric)
            self._cache[metric] = {r["seed"]: r[name] for r in self.done() if r.get(name) is not None}
        return self._cache[metric]  # type: ignore[no-any-return]

    def rates(self, seed: int) -> tuple[float, float] | None:
        """CA and ASR of a seed; None if either is undefined."""
        ca, asr = self.values("ca").get(seed), self.values("asr").get(seed)
        return None if ca is None or asr is None else (ca, asr)

    def mean(self, metric: str) -> stats.Mean | None:
        """A metric's mean over the seeds where it is defined; None without one."""
        return self.remembered(f"mean {metric}", lambda: stats.mean_of(self.values(metric).values()))

    def failures(self) -> Mapping[str, int]:
        """Number of seeds by status, for every status but ``done``."""
        return self.remembered("failures", self._failures)

    def _failures(self) -> Mapping[str, int]:
        ends = [r["status"] for r in self.by_seed.values() if r["status"] != "done"]
        return Counter(ends) if ends else {}

    def remembered(self, key: str, make: Callable[[], T]) -> T:
        """What ``make`` returned when the key was asked for first. The key is not a metric."""
        if f"({key})" not in self._cache:
            self._cache[f"({key})"] = make()
        return self._cache[f"({key})"]  # type: ignore[no-any-return]

    def ids(self) -> tuple[str, ...]:
        """The records' ids, in seed order."""
        return tuple(r["id"] for _, r in sorted(self.by_seed.items()))


@dataclass(slots=True)
class Group:
    """The records of one table. ``rows`` and ``columns`` are in display order."""

    scale: Scale
    definitions: Definitions = USUAL
    rows: list[Variant] = field(default_factory=list)
    columns: list[Variant] = field(default_factory=list)
    entries: dict[tuple[Variant, Variant], SeedRecords] = field(default_factory=dict)
    controls: set[Variant] = field(default_factory=set)
    clean: set[Variant] = field(default_factory=set)
    """Rows without poisoned samples."""
    needs: dict[Variant, tuple[str, ...]] = field(default_factory=dict)
    returns: dict[Variant, str] = field(default_factory=dict)
    """Architecture of the models that a defense returned, where it is not that of the table."""
    versions: dict[Variant, int] = field(default_factory=dict)
    """Newest plugin version of each row and column among the records that are shown."""
    transforms: dict[Variant, str] = field(default_factory=dict)
    """What a defense's models do to test images and outputs, in words, where they do anything."""
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def remembered(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returned when the key was asked for first. Query it only after filling the group."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]  # type: ignore[no-any-return]

    def entry(self, row: Variant, column: Variant) -> SeedRecords:
        """The entry of a row and column; it is empty if nothing was run."""
        return self.entries.get((row, column)) or SeedRecords(fields=self.definitions.fields())

    def done(self) -> list[Record]:
        """All finished records."""
        return [record for entry in self.entries.values() for record in entry.done()]

    def attacks(self) -> list[Variant]:
        """The rows with poisoned samples."""
        return [row for row in self.rows if row not in self.clean]

    def undefended(self) -> Variant | None:
        """The column without a defense; None if there is none."""
        return next((c for c in self.columns if c.name == UNDEFENDED), None)


class Grouping(NamedTuple):
    """All groups, and sentences on the records left out of them."""

    groups: list[Group]
    left_out: list[str]

    def ranks(self) -> dict[tuple[Scale, Variant, Variant], int]:
        """The place of each cell of the tables, as :func:`place_of` names it, in reading order."""
        places = ((g.scale, row, column) for g in self.groups for row in g.rows for column in g.columns)
        return {place: rank for rank, place in enumerate(places)}

    def variants(self) -> set[Variant]:
        """Every component in the groups."""
        scales = {v for g in self.groups for v in (g.scale.dataset, g.scale.model)}
        return scales.union(*(g.rows for g in self.groups), *(g.columns for g in self.groups))


def _rank(name: str, order: Mapping[str, int]) -> tuple[int, str]:
    return (order.get(name, len(order)), name)


def _versions(record: Mapping[str, Any]) -> tuple[int, ...]:
    spec = record.get("spec") or {}
    found = [spec.get(kind) for kind in KINDS]
    return tuple(
        [part["version"] if isinstance(part, dict) and isinstance(part.get("version"), int) else 0 for part in found]
    )


def precedence(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Sort key: of two records for the same entry and seed, the one with the larger key is shown."""
    probed = "probe" in (record.get("spec") or {})  # the same cell with more measurements
    return (_versions(record), record["status"] == "done", probed, record["id"])


_recipes: dict[str, str] = {}


def place_of(record: Mapping[str, Any]) -> tuple[Scale, Variant, Variant]:
    """Where a record stands: its table, its row and its column."""
    # Many records share few recipes, and repr is faster than JSON.
    recipe = repr(record.get("recipe") or {})
    if recipe not in _recipes:
        _recipes[recipe] = json.dumps(record.get("recipe") or {}, sort_keys=True)
    scale = Scale(variant(record, "dataset"), variant(record, "model"), _recipes[recipe], asked_numerics(record))
    return scale, variant(record, "attack"), variant(record, "defense")


def group_records(
    records: Iterable[Record],
    attack_order: Mapping[str, int],
    defense_order: Mapping[str, int],
    dataset_order: Mapping[str, int],
    definitions: Definitions = USUAL,
) -> Grouping:
    """Group records into tables.

    Two records for the same entry and seed come from different plugin versions or from a repeated measurement. The
    newest versions take precedence, then a finished record over a failed one. ``left_out`` reports the other records.

    Args:
        records: checked records.
        attack_order: rank of known attacks; others follow by name, and the row without an attack comes last.
        defense_order: rank of known defenses; others follow by name, and controls come last.
        dataset_order: rank of known data sets; others follow by name. Of one data set, the group with the best
            mean CA of its undefended models comes first.
        definitions: what CA and ASR are over.
    """
    groups: dict[Scale, Group] = {}
    older = duplicates = 0
    for record in records:
        scale, attack, defense = place_of(record)
        group = groups.get(scale)
        if group is None:
            group = groups[scale] = Group(scale, definitions)
        entry = group.entries.get((attack, defense))
        if entry is None:
            entry = group.entries[attack, defense] = SeedRecords(fields=definitions.fields())
        rival = entry.by_seed.get(record["seed"])
        if rival is not None:
            older += _versions(rival) != _versions(record)
            duplicates += _versions(rival) == _versions(record)
            if precedence(rival) >= precedence(record):
                continue
        entry.by_seed[record["seed"]] = record
        if record.get("control"):
            group.controls.add(defense)
        if record["attack"] == NO_ATTACK:
            group.clean.add(attack)
        group.needs.setdefault(defense, tuple(record.get("needs") or ()))
        if other := (record.get("notes") or {}).get("architecture"):
            group.returns[defense] = str(other)
        if words := transform_text(record.get("test_transform") or {}):
            group.transforms[defense] = words
    for group in groups.values():
        for place in group.entries:
            for record in group.entries[place].by_seed.values():
                for item, version in zip(place, _versions(record)[2:], strict=True):
                    group.versions[item] = max(version, group.versions.get(item, 0))
        attacks = {attack for attack, _ in group.entries}
        defenses = {defense for _, defense in group.entries}
        group.rows = sorted(attacks, key=lambda a: (a in group.clean, _rank(a.name, attack_order), a.params))
        group.columns = sorted(
            defenses, key=lambda d: (d in group.controls, d.name != UNDEFENDED, _rank(d.name, defense_order), d.params)
        )
    left_out = []
    if older:
        left_out.append(f"Not shown: {counted(older, 'record')} of older plugin versions.")
    if duplicates:
        left_out.append(f"Not shown: {counted(duplicates, 'duplicate record')}.")
    ordered = sorted(
        groups.values(), key=lambda g: (_rank(g.scale.dataset.name, dataset_order), -_undefended_accuracy(g), g.scale)
    )
    return Grouping(ordered, left_out)


def _undefended_accuracy(group: Group) -> float:
    """Mean CA of the models without a defense; 0 if there is none. Tables of well-trained models are read first."""
    found = [
        accuracy
        for (_, defense), seeds in group.entries.items()
        if defense.name == UNDEFENDED
        for accuracy in seeds.values("ca").values()
    ]
    return sum(found) / len(found) if found else 0.0
