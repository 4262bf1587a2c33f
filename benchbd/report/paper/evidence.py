"""The evidence for a claim of the paper: averages over the attacks that both sides share, as numbers and text."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from benchbd.errors import counted
from benchbd.report import stats, wording
from benchbd.report.averages import average
from benchbd.report.gate import implanted
from benchbd.report.groups import Group, Scale
from benchbd.report.labels import Labels, Variant
from benchbd.report.mixed_data import Measured, measured, other_data_text
from benchbd.report.published import (
    nearest_columns,
    parameter_differences,
    scale_differences,
    scale_text,
    table2,
)


class Finding(NamedTuple):
    """One judgement: whether the claim holds, the figures behind it, and their scale.

    ``network`` is the network that the claim is about, if it is not the data set's student.
    """

    holds: bool
    figures: str
    scale: Scale
    network: str | None = None


class Claim(NamedTuple):
    """One claim of the paper. ``judge`` returns a finding for each scale that measured it."""

    where: str
    text: str
    published: str
    judge: Callable[[Evidence], list[Finding]]


class Pair(NamedTuple):
    """Averages of two columns over the same rows, and their difference (first minus second) over common seeds."""

    a: float
    b: float
    gap: stats.Mean | None
    rows: int
    other_data: str = ""
    """A text if the averages mix different data."""

    @property
    def gap_text(self) -> str:
        """The difference in words; it says if it may be chance, or if the averages mix different data."""
        return wording.joined(self._interval_text(), self.other_data)

    def _interval_text(self) -> str:
        if self.gap is None:
            return "no common seed"
        if self.gap.half is None:
            seeds = counted(self.gap.n, "common seed")
            return f"difference {wording.signed(self.gap.mean)} over {seeds}, too few for a test"
        apart = abs(self.gap.mean) > max(self.gap.half, stats.RESOLUTION)
        text = f"difference {wording.signed(self.gap.mean)} ± {wording.percent(self.gap.half)}"
        return text if apart else f"{text}, not separable"

    def text(self, name_a: str, name_b: str) -> str:
        """``lfd 0.77, abl 8.29 (9 attacks; difference -7.52 ± 0.40)``."""
        attacks = counted(self.rows, "attack")
        return f"{name_a} {wording.percent(self.a)}, {name_b} {wording.percent(self.b)} ({attacks}; {self.gap_text})"


def pair(group: Group, a: Variant, b: Variant, rows: Iterable[Variant], metric: str) -> Pair | None:
    """Compare two columns over the rows for which both have the metric. Return None if there is no such row."""
    both = [r for r in rows if group.entry(r, a).values(metric) and group.entry(r, b).values(metric)]
    left, right = average(group, a, both, metric), average(group, b, both, metric)
    if left is None or right is None:
        return None
    values = [(group.entry(r, a).values(metric), group.entry(r, b).values(metric)) for r in both]
    seeds = set.intersection(*(set(x) & set(y) for x, y in values))
    gaps = [math.fsum(x[s] - y[s] for x, y in values) / len(both) for s in sorted(seeds)]
    return Pair(left.mean, right.mean, stats.mean_of(gaps), len(both), other_data_text(measured(group, both, (a, b))))


class Evidence:
    """The measured groups, with the queries that claims need."""

    def __init__(self, groups: Sequence[Group], labels: Labels, gate: float) -> None:
        self.groups, self.labels, self.gate = list(groups), labels, gate

    def groups_of(self, dataset: str) -> list[Group]:
        """The groups of a data set of the paper, whatever their network; :meth:`differences` names another one."""
        return [group for group in self.groups if group.scale.dataset.name == dataset]

    def columns(self, group: Group) -> dict[str, Variant]:
        """The column that represents each defense of the paper, by name.

        It has the paper's parameters where such a column was measured, and else as few others as possible, which
        :meth:`differences` names.
        """
        found: dict[str, Variant] = {}
        for column in nearest_columns(group, self.labels):
            found.setdefault(column.name, column)
        return found

    def attacks(self, group: Group) -> list[Variant]:
        """The rows of attacks that the paper has on this data set."""
        dataset = group.scale.dataset.name
        return [row for row in group.attacks() if (dataset, row.name, "none") in table2()]

    def working_attacks(self, group: Group) -> list[Variant]:
        """Those except the attacks that are not implanted."""
        return [row for row in self.attacks(group) if implanted(group, row, self.gate) is not False]

    def compare(
        self, dataset: str, a: str, b: str, metric: str, rule: Callable[[Pair], bool], *, clean: bool = False
    ) -> list[Finding]:
        """Judge two defenses by a rule on averages over working attacks (ASR), all attacks (CA) or the clean row."""
        found = []
        for group in self.groups_of(dataset):
            columns = self.columns(group)
            rows = (
                sorted(group.clean)
                if clean
                else self.working_attacks(group)
                if metric == "asr"
                else self.attacks(group)
            )
            if a in columns and b in columns and (both := pair(group, columns[a], columns[b], rows, metric)):
                text = both.text(a, b).replace("1 attack;", "no attack;") if clean else both.text(a, b)
                found.append(Finding(rule(both), text, group.scale))
        return found

    def scale(self, scale: Scale) -> str:
        """The scale as text."""
        return scale_text(scale, self.labels)

    def differences(self, found: Finding) -> str:
        """How a finding's scale and its defenses differ from the paper's: those that its figures name, or else all."""
        parts = scale_differences(found.scale, self.labels, found.network)
        for group in self.groups:
            if group.scale == found.scale:
                columns = self.columns(group)
                named = [n for n in columns if re.search(rf"(?<![\w-]){re.escape(n)} \d", found.figures)]
                for name in named or columns:
                    parts += parameter_differences(columns[name], group.scale.dataset.name, self.labels)
        return "; ".join(parts) or "as in the paper"


def noted(figures: str, *found: Measured) -> str:
    """The figures of a finding, which say so if they mix different data."""
    return wording.joined(figures, other_data_text(frozenset[Any]().union(*found)))


def number(value: float) -> str:
    """A loss or ratio with three significant digits."""
    return wording.UNDEFINED if math.isnan(value) else f"{value:.3g}"
