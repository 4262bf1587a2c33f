"""What the reference paper published (LfD 2024, Table 2), and where a measured cell may stand beside it."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any, NamedTuple

from benchbd.core.recipe import Recipe
from benchbd.report.groups import Group, Scale
from benchbd.report.labels import Labels, Variant, recipe_text, value_text

STUDENTS = {"cifar10": "resnet18", "gtsrb": "resnet18", "imagenet-subset": "resnet34"}
"""The network each data set's rows were trained with (LfD section 5)."""

STATED: dict[tuple[str, str], dict[str, Any]] = {
    ("lfd", "cifar10"): {"alpha": 0.15, "beta": 1e-3, "mode": "weighted", "teacher": "resnet-s"},
    ("lfd", "gtsrb"): {"alpha": 0.2, "beta": 3e-3, "mode": "weighted", "teacher": "resnet-s"},
    ("lfd", "imagenet-subset"): {"alpha": 0.15, "beta": 1e-3, "mode": "weighted", "teacher": "resnet-s"},
}
"""Parameters the paper gives for a defense on a data set (LfD section 5): a column with others is another method."""


class Published(NamedTuple):
    """One cell of the paper's Table 2, as fractions."""

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


def _nearest(variants: list[Variant], labels: Labels) -> set[Variant]:
    """Of each name's variants those with the fewest parameters changed."""
    fewest: dict[str, int] = {}
    for item in variants:
        count = len(labels.changed(item))
        fewest[item.name] = min(count, fewest.get(item.name, count))
    return {v for v in variants if len(labels.changed(v)) == fewest[v.name]}


class PublishedComparison:
    """Which cells of a group stand beside which published ones.

    A table is compared where its data set is in the paper and its network is one of the paper's students. A defense
    is compared where it has the parameters the paper gives for it; of several such columns, as of several rows of
    one attack, those nearest to the defaults are. Everything else that differs is stated, not hidden.
    """

    def __init__(self, group: Group, labels: Labels) -> None:
        self.dataset = group.scale.dataset.name
        known = self.dataset in STUDENTS and group.scale.model.name in STUDENTS.values()
        stated = [c for c in group.columns if as_stated(c, self.dataset)] if known else []
        self._columns = _nearest(stated, labels)
        self._rows = _nearest(group.rows, labels) if known else set()

    def compared_columns(self) -> list[Variant]:
        """The defenses that stand beside the paper's, in a stable order."""
        return sorted(self._columns)

    def published(self, row: Variant, column: Variant) -> Published | None:
        """The paper's numbers for a cell, None where it has none."""
        if row not in self._rows or column not in self._columns:
            return None
        return table2().get((self.dataset, row.name, column.name))


def scale_differences(scale: Scale, labels: Labels, network: str | None = None) -> list[str]:
    """What a table's scale has otherwise than the paper's, one short phrase each; empty where nothing is.

    Args:
        scale: what was measured.
        labels: how its parts are named.
        network: the paper's, where it is not the data set's student.
    """
    found = []
    if labels.changed(scale.dataset):
        found.append(f"{labels(scale.dataset)}, paper all images")
    if scale.dataset.name == "imagenet-subset":
        found.append("class list, paper's is not published")
    student = network or STUDENTS.get(scale.dataset.name)
    if student and labels(scale.model) != student:
        found.append(f"{labels(scale.model)}, paper {student}")
    found += _recipe_differences(scale.recipe)
    return found


@functools.cache
def _recipe_differences(recipe: str) -> list[str]:
    import json

    given: Mapping[str, Any] = json.loads(recipe)
    usual = Recipe().spec()
    return [
        f"{key.replace('_', ' ')} {value_text(given[key])}, paper {value_text(usual[key])}"
        for key in usual
        if key in given and given[key] != usual[key]
    ]


def scale_text(scale: Scale, labels: Labels) -> str:
    """``cifar10(train=10000) · resnet18(width=16) · 20 epochs``."""
    return " · ".join(filter(None, (labels(scale.dataset), labels(scale.model), recipe_text(scale.recipe))))
