"""The reference paper's results (LfD 2024, Table 2), and which measured cells are comparable with them."""

from __future__ import annotations

import csv
import functools
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any, NamedTuple

from benchbd.core.recipe import YOUNGER, Recipe
from benchbd.report.definitions import USUAL, Definitions
from benchbd.report.groups import UNDEFENDED, Group, Grouping, Scale, group_records
from benchbd.report.labels import Labels, Variant, recipe_text, value_text
from benchbd.storage.record_schema import Record

STUDENTS = {"cifar10": "resnet18", "gtsrb": "resnet18", "imagenet-subset": "resnet34"}
"""The paper's network for each data set (LfD section 5)."""

STATED: dict[tuple[str, str], dict[str, Any]] = {
    ("lfd", "cifar10"): {"alpha": 0.15, "beta": 1e-3, "mode": "weighted", "teacher": "resnet-s", "teachers": 1},
    ("lfd", "gtsrb"): {"alpha": 0.2, "beta": 3e-3, "mode": "weighted", "teacher": "resnet-s", "teachers": 1},
    ("lfd", "imagenet-subset"): {"alpha": 0.15, "beta": 1e-3, "mode": "weighted", "teacher": "resnet-s", "teachers": 1},
}
"""Parameters the paper gives for a defense on a data set (LfD section 5). Others make it a different method."""

SEED = "trigger_seed"
"""A parameter that does not make another method."""


class Published(NamedTuple):
    """One cell of the paper's Table 2; both metrics are fractions."""

    ca: float
    asr: float


@functools.cache
def table2() -> dict[tuple[str, str, str], Published]:
    """The paper's 220 numbers by (data set, attack, defense), in the paper's order."""
    text = (resources.files("benchbd.report") / "paper_table2.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return {(r["dataset"], r["attack"], r["defense"]): Published(float(r["ca"]), float(r["asr"])) for r in rows}


@functools.cache
def order(place: int) -> dict[str, int]:
    """The paper's order of data sets (0), attacks (1) or defenses (2)."""
    return {name: i for i, name in enumerate(dict.fromkeys(key[place] for key in table2()))}


def grouped(records: Iterable[Record], definitions: Definitions = USUAL) -> Grouping:
    """Checked records as tables in the paper's order; ``definitions`` says what CA and ASR are over."""
    return group_records(records, order(1), order(2), order(0), definitions)


def as_stated(column: Variant, dataset: str) -> bool:
    """Whether a defense has the parameters the paper gives for it on this data set."""
    values = column.values()
    for key, stated in STATED.get((column.name, dataset), {}).items():
        given = values.get(key, stated)
        if key == "teacher" and isinstance(given, str):
            given = given.partition("(")[0]
        if given != stated:
            return False
    return True


def _nearest(variants: list[Variant], labels: Labels, group: Group) -> set[Variant]:
    """The variants of each name with the fewest parameters that are not the paper's, and of these the newest version.

    The paper's parameters are those in ``STATED`` and the plugin's defaults.
    """
    dataset = group.scale.dataset.name
    ranks = {item: (_differences(item, dataset, labels), -group.versions.get(item, 0)) for item in variants}
    first = {name: min(ranks[item] for item in variants if item.name == name) for name in {v.name for v in variants}}
    return {item for item in variants if ranks[item] == first[item.name]}


def _differences(item: Variant, dataset: str, labels: Labels) -> int:
    """Number of parameters in a variant's label that the paper does not give."""
    stated = STATED.get((item.name, dataset), {})
    return sum(k != SEED and (k not in stated or value != stated[k]) for k, value in labels.changed(item).items())


def nearest_columns(group: Group, labels: Labels) -> list[Variant]:
    """The columns of each defense that are nearest to the paper's, in a stable order, whatever the group's network.

    Those with the parameters that the paper gives come before others, even if they have more differences. A column with
    under half of the paper's attacks that another column of its defense has is left out: a cell or two do not stand
    for an average over all attacks.
    """
    dataset = group.scale.dataset.name
    columns = _wide(group, dataset)
    stated = [c for c in columns if as_stated(c, dataset)]
    others = [c for c in columns if c.name not in {s.name for s in stated}]
    return sorted(_nearest([*stated, *others], labels, group))


def _wide(group: Group, dataset: str) -> list[Variant]:
    """The columns with at least half of the paper's rows that the widest column of their defense has."""
    rows = [row for row in group.rows if (dataset, row.name, UNDEFENDED) in table2()]
    held = {column: sum(bool(group.entry(row, column).done()) for row in rows) for column in group.columns}
    widest = {name: max(n for c, n in held.items() if c.name == name) for name in {c.name for c in held}}
    return [column for column in group.columns if 2 * held[column] >= widest[column.name]]


def parameter_differences(column: Variant, dataset: str, labels: Labels) -> list[str]:
    """List how a defense's parameters differ from the paper's, one short phrase each: ``lfd teachers 8 (paper: 1)``."""
    values, stated = column.values(), STATED.get((column.name, dataset), {})
    usual = labels.defaults(column)
    found = []
    for key in dict.fromkeys([*labels.changed(column), *stated]):
        theirs = stated.get(key, usual.get(key))
        ours = values.get(key, theirs)
        same = ours.partition("(")[0] == theirs if key == "teacher" and isinstance(ours, str) else ours == theirs
        if key != SEED and not same:
            paper = "not stated" if theirs is None else value_text(theirs)
            found.append(f"{column.name} {key.replace('_', ' ')} {value_text(ours)} (paper: {paper})")
    return found


class PublishedComparison:
    """Pairs the cells of a group with the paper's.

    A table is compared if its data set is in the paper and its network is one of the paper's students. A defense is
    compared if it has the parameters that the paper gives for it. Among several such columns, and among several rows
    of one attack, those nearest to the paper's parameters are compared, and among these the newest version. The tables
    list all other differences.
    """

    def __init__(self, group: Group, labels: Labels) -> None:
        self.dataset = group.scale.dataset.name
        known = self.dataset in STUDENTS and group.scale.model.name in STUDENTS.values()
        stated = [c for c in group.columns if as_stated(c, self.dataset)] if known else []
        self._columns = _nearest(stated, labels, group)
        self._rows = _nearest(group.rows, labels, group) if known else set()

    def published(self, row: Variant, column: Variant) -> Published | None:
        """The paper's numbers for a cell; None if the paper has none or the cell is not comparable."""
        if row not in self._rows or column not in self._columns:
            return None
        return table2().get((self.dataset, row.name, column.name))


def scale_differences(scale: Scale, labels: Labels, network: str | None = None) -> list[str]:
    """List how a table's scale differs from the paper's, one short phrase each.

    Args:
        scale: scale of the measurement.
        labels: labels of its components.
        network: the paper's network, if it is not the data set's student.
    """
    found = []
    if labels.changed(scale.dataset):
        found.append(f"{labels(scale.dataset)} (paper: all images)")
    if scale.dataset.name == "imagenet-subset":
        found.append("class list (the paper's is not published)")
    student = network or STUDENTS.get(scale.dataset.name)
    if student and labels(scale.model) != student:
        found.append(f"{labels(scale.model)} (paper: {student})")
    found += _recipe_differences(scale.recipe)
    return found


@functools.cache
def _recipe_differences(recipe: str) -> list[str]:
    import json

    given: Mapping[str, Any] = json.loads(recipe)
    default = Recipe().spec()
    if len(YOUNGER.keys() & given.keys()) > 1:  # another preset or the like, better known by its name
        return [f"{recipe_text(recipe)} (paper: {recipe_text(json.dumps(default))})"]
    return [
        f"{key.replace('_', ' ')} {value_text(given[key])} (paper: {value_text(default[key])})"
        for key in default
        if key in given and given[key] != default[key]
    ]


def scale_text(scale: Scale, labels: Labels) -> str:
    """``cifar10(train=10000) · resnet18(width=16) · 20 epochs · precision=bf16``."""
    parts = (labels(scale.dataset), labels(scale.model), recipe_text(scale.recipe), scale.numerics)
    return " · ".join(filter(None, parts))
