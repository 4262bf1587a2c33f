"""Which defense is better: paired tests over all attacks and seeds, groups that cannot be told apart, sensitivity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from benchbd.report.averages import average, values_of
from benchbd.report.groups import UNDEFENDED, Group
from benchbd.report.labels import Variant
from benchbd.report.mixed_data import mixed_data
from benchbd.report.signed_rank import holm, signed_rank
from benchbd.report.stats import LEVEL, RESOLUTION
from benchbd.storage.data_version import DataVersion

MEASURES = ("der", "asr")
"""What defenses are ranked by. DER weighs the ASR that a defense takes against the CA that it costs, both relative to
the undefended model of the same attack and seed, so it cannot be won by a model that learns nothing."""
FEWEST_PAIRS = 6
"""Smallest number of common pairs with a test: under six, no outcome of the test has a p-value below 0.05."""

Place = tuple[Variant, int]
"""An attack and a seed."""


class Duel(NamedTuple):
    """Two defenses compared over the pairs (attack, seed) that both have.

    Attributes:
        wins: pairs where the first is better.
        ties: pairs that are equal to two decimals of a percent.
        losses: pairs where the second is better.
        p: two-sided p-value; None under six pairs.
        adjusted: p-value after Holm's correction over all tested duels of the table and measure; None under six pairs.
        better: 1 if the first is significantly better, -1 if the second is, 0 if neither; None under six pairs.
    """

    wins: int
    ties: int
    losses: int
    p: float | None = None
    adjusted: float | None = None
    better: int | None = None

    @property
    def pairs(self) -> int:
        """Number of common pairs."""
        return self.wins + self.ties + self.losses

    def reversed(self) -> Duel:
        """The same duel seen by the second defense."""
        better = None if self.better is None else -self.better
        return Duel(self.losses, self.ties, self.wins, self.p, self.adjusted, better)


class Ranking(NamedTuple):
    """The defenses of a table by one measure.

    Attributes:
        measure: ``der`` or ``asr``.
        order: the ranked defenses: most significant wins less losses first, then the better mean
            over attacks.
        groups: letters of each ranked defense. Defenses that share a letter cannot be told apart.
        duels: every duel with a common pair, in both directions.
        unranked: defenses without any test, since they share under six pairs with every other defense.
        pairs: smallest and largest number of common pairs of the tested duels; None without a test.
    """

    measure: str
    order: tuple[Variant, ...]
    groups: dict[Variant, str]
    duels: dict[tuple[Variant, Variant], Duel]
    unranked: tuple[Variant, ...]
    pairs: tuple[int, int] | None

    @property
    def refusal(self) -> str:
        """Why there is no ranking, in words; empty if there is one."""
        if self.order:
            return ""
        most = max((duel.pairs for duel in self.duels.values()), default=0)
        return (
            f"No ranking by {self.measure.upper()}: a test needs {FEWEST_PAIRS} pairs of attack and seed that two "
            f"defenses share; here they share at most {most}."
        )


class Sensitivity(NamedTuple):
    """How far CA and ASR of a defense spread over its variants in a table.

    Attributes:
        name: the defense.
        variants: its variants.
        pairs: number of pairs (attack, seed) that all variants have; the means are over these.
        ca: smallest and largest mean CA of a variant.
        asr: smallest and largest mean ASR of a variant.
    """

    name: str
    variants: tuple[Variant, ...]
    pairs: int
    ca: tuple[float, float]
    asr: tuple[float, float]


def competitors(group: Group) -> list[Variant]:
    """The defenses that are compared: neither controls nor no defense."""
    return [c for c in group.columns if c not in group.controls and c.name != UNDEFENDED]


def places(group: Group, column: Variant, rows: Iterable[Variant], measure: str) -> dict[Place, float]:
    """The values of a defense by attack and seed."""
    return {(row, seed): v for row in rows for seed, v in values_of(group, row, column, measure).items()}


def _versions(group: Group, column: Variant, rows: Iterable[Variant]) -> dict[Place, DataVersion]:
    """The data versions of a defense's records, where they are known."""
    known = mixed_data(group)
    return {(row, seed): version for row in rows for seed, version in known.by_seed(row, column).items()}


def _duel(a: Mapping[Place, float], b: Mapping[Place, float], common: Iterable[Place], sign: int) -> Duel:
    gains = [d if abs(d := sign * (a[place] - b[place])) > RESOLUTION else 0.0 for place in common]
    # Equal differences may differ in their last bits, which would break ties.
    gains = [round(gain, 12) for gain in gains]
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    duel = Duel(wins, len(gains) - wins - losses, losses)
    if len(gains) < FEWEST_PAIRS:
        return duel
    found = signed_rank(gains)
    return duel._replace(p=found.p, better=(found.positive > found.negative) - (found.positive < found.negative))


def rank(group: Group, rows: Sequence[Variant], measure: str) -> Ranking:
    """Rank the competing defenses of a group by all pairs (attack, seed) that two of them share.

    Two defenses are compared by Wilcoxon's signed-rank test with Holm's correction over all tested duels. Pairs that
    were measured on different data are left out.

    Args:
        group: the records of one table.
        rows: the attacks that count.
        measure: ``der`` or ``asr``.
    """
    columns, sign = competitors(group), -1 if measure == "asr" else 1
    values = {c: places(group, c, rows, measure) for c in columns}
    versions = {c: _versions(group, c, rows) for c in columns}
    found: dict[tuple[Variant, Variant], Duel] = {}
    for a, b in combinations(columns, 2):
        one, other = versions[a], versions[b]
        common = [p for p in values[a] if p in values[b] and (p not in one or p not in other or one[p] == other[p])]
        if common:
            found[a, b] = _duel(values[a], values[b], common, sign)
    tested = [key for key, duel in found.items() if duel.p is not None]
    for key, adjusted in zip(tested, holm([found[key].p or 0.0 for key in tested]), strict=True):
        duel = found[key]
        found[key] = duel._replace(adjusted=adjusted, better=duel.better if adjusted <= 1 - LEVEL else 0)
    duels = found | {(b, a): duel.reversed() for (a, b), duel in found.items()}
    ranked = [c for c in columns if any(c in key for key in tested)]

    def score(column: Variant) -> tuple[float, ...]:
        net = sum(duel.better or 0 for (first, _), duel in duels.items() if first == column)
        mean = average(group, column, rows, measure)
        return (-net, -sign * mean.mean if mean else 0.0, columns.index(column))

    order = tuple(sorted(ranked, key=score))
    apart = {frozenset(key) for key in tested if found[key].better}
    pairs = [found[key].pairs for key in tested]
    unranked = tuple(c for c in columns if c not in ranked)
    return Ranking(measure, order, letters(order, apart), duels, unranked, (min(pairs), max(pairs)) if pairs else None)


def letters(order: Sequence[Variant], apart: Iterable[frozenset[Variant]]) -> dict[Variant, str]:
    """Letters such that two items share one unless they are told apart: the insert-and-absorb algorithm.

    H.-P. Piepho, An algorithm for a letter-based representation of all-pairwise comparisons, Journal of Computational
    and Graphical Statistics 13 (2004).

    Args:
        order: the items, best first.
        apart: the pairs that are told apart.
    """
    groups = [frozenset(order)] if order else []
    for pair in sorted(apart, key=lambda pair: sorted(map(order.index, pair))):
        split = [group - {item} for group in groups if pair <= group for item in pair]
        kept = list(dict.fromkeys([group for group in groups if not pair <= group] + split))
        groups = [group for group in kept if not any(group < other for other in kept)]
    groups.sort(key=lambda group: sorted(map(order.index, group)))
    return {item: "".join(_letter(i) for i, group in enumerate(groups) if item in group) for item in order}


def _letter(number: int) -> str:
    """``a`` to ``z``, then ``a2`` and so on."""
    turn, place = divmod(number, 26)
    return chr(ord("a") + place) + (str(turn + 1) if turn else "")


def sensitivities(group: Group, rows: Sequence[Variant]) -> tuple[Sensitivity, ...]:
    """The spread of every competing defense that has two variants or more with common pairs (attack, seed)."""
    named: dict[str, list[Variant]] = {}
    for column in competitors(group):
        named.setdefault(column.name, []).append(column)
    result = []
    for name, variants in named.items():
        both = [[places(group, v, rows, metric) for v in variants] for metric in ("ca", "asr")]
        common = set.intersection(*(set(values) for metric in both for values in metric))
        if len(variants) < 2 or not common:
            continue
        means = [[math.fsum(v[p] for p in common) / len(common) for v in metric] for metric in both]
        ca, asr = ((min(m), max(m)) for m in means)
        result.append(Sensitivity(name, tuple(variants), len(common), ca, asr))
    return tuple(result)
