"""What a claim of the paper is judged by: averages over the attacks that both sides have, in words and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from benchbd.report import stats, wording
from benchbd.report.averages import average, implanted
from benchbd.report.groups import Group, Scale
from benchbd.report.labels import Labels, Variant
from benchbd.report.published import STUDENTS, PublishedComparison, scale_differences, scale_text


class Finding(NamedTuple):
    """One judgement: whether the claim holds, the figures it rests on, and at which scale.

    ``network`` is the one that the claim is of, where it is not the data set's student.
    """

    holds: bool
    figures: str
    scale: Scale
    network: str | None = None


class Claim(NamedTuple):
    """One thing the paper says. ``judge`` returns a finding for each scale at which it was measured."""

    where: str
    text: str
    published: str
    judge: Callable[[Evidence], list[Finding]]


class Pair(NamedTuple):
    """Two columns' averages over the same rows, and their difference (first minus second) over the seeds all share."""

    a: float
    b: float
    gap: stats.Mean | None
    rows: int

    @property
    def noise(self) -> str:
        """Says so where the difference cannot be told from none."""
        if self.gap is None or self.gap.half is None:
            return "fewer than two common seeds: no interval"
        apart = abs(self.gap.mean) > max(self.gap.half, stats.RESOLUTION)
        text = f"difference {wording.signed(self.gap.mean)} ± {wording.percent(self.gap.half)}"
        return text if apart else f"{text}, not separable"

    def text(self, name_a: str, name_b: str) -> str:
        """``lfd 0.77, abl 8.29 (9 attacks; difference -7.52 ± 0.40)``."""
        attacks = wording.counted(self.rows, "attack")
        return f"{name_a} {wording.percent(self.a)}, {name_b} {wording.percent(self.b)} ({attacks}; {self.noise})"


def pair(group: Group, a: Variant, b: Variant, rows: Iterable[Variant], metric: str) -> Pair | None:
    """Compare two columns over those rows for which both have the metric; None where there is no such row."""
    both = [r for r in rows if group.entry(r, a).values(metric) and group.entry(r, b).values(metric)]
    left, right = average(group, a, both, metric), average(group, b, both, metric)
    if left is None or right is None:
        return None
    values = [(group.entry(r, a).values(metric), group.entry(r, b).values(metric)) for r in both]
    seeds = set.intersection(*(set(x) & set(y) for x, y in values))
    gaps = [math.fsum(x[s] - y[s] for x, y in values) / len(both) for s in sorted(seeds)]
    return Pair(left.mean, right.mean, stats.mean_of(gaps), len(both))


class Evidence:
    """The measured groups, asked the way claims ask."""

    def __init__(self, groups: Sequence[Group], labels: Labels, gate: float) -> None:
        self.groups, self.labels, self.gate = list(groups), labels, gate

    def of(self, dataset: str) -> list[Group]:
        """Groups of a data set with one of the paper's students."""
        return [g for g in self.groups if g.scale.dataset.name == dataset and g.scale.model.name in STUDENTS.values()]

    def columns(self, group: Group) -> dict[str, Variant]:
        """The column that stands for each defense of the paper, by name."""
        found: dict[str, Variant] = {}
        for column in PublishedComparison(group, self.labels).compared_columns():
            found.setdefault(column.name, column)
        return found

    def working(self, group: Group) -> list[Variant]:
        """Attack rows in which the attack is not known to have failed."""
        return [row for row in group.attacks() if implanted(group, row, self.gate) is not False]

    def compare(
        self, dataset: str, a: str, b: str, metric: str, rule: Callable[[Pair], bool], *, clean: bool = False
    ) -> list[Finding]:
        """Judge two defenses by a rule on averages: over working attacks for ASR, all for CA, or the clean row."""
        found = []
        for group in self.of(dataset):
            columns = self.columns(group)
            rows = sorted(group.clean) if clean else self.working(group) if metric == "asr" else group.attacks()
            if a in columns and b in columns and (both := pair(group, columns[a], columns[b], rows, metric)):
                text = both.text(a, b).replace("1 attack;", "no attack;") if clean else both.text(a, b)
                found.append(Finding(rule(both), text, group.scale))
        return found

    def scale(self, scale: Scale) -> str:
        """A scale in words."""
        return scale_text(scale, self.labels)

    def differs(self, found: Finding) -> str:
        """What the scale of a finding has otherwise than the paper's."""
        return "; ".join(scale_differences(found.scale, self.labels, found.network)) or "as in the paper"


def number(value: float) -> str:
    """A loss or ratio in three digits."""
    return wording.UNDEFINED if math.isnan(value) else f"{value:.3g}"
