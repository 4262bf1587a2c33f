"""Which defense is better: paired tests over attacks, groups without significant differences, sensitivity."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import NamedTuple

from benchbd.errors import counted
from benchbd.report.averages import average, values_of
from benchbd.report.groups import Group
from benchbd.report.labels import Variant
from benchbd.report.mixed_data import mixed_data
from benchbd.report.signed_rank import holm, signed_rank
from benchbd.report.stats import LEVEL, RESOLUTION
from benchbd.report.titles import chance_cells, competitors
from benchbd.storage.data_version import DataVersion

MEASURES = ("der", "asr")
"""What defenses are ranked by. DER weighs the ASR that a defense takes against the CA that it costs, both relative to
the undefended model of the same attack and seed. A model that has learnt nothing can win either, so a defense with a
model at chance is not ranked."""
FEWEST_ATTACKS = 6
"""Smallest number of common attacks with a test: under six, no outcome of the test has a p-value below 0.05."""

Place = tuple[Variant, int]
"""An attack and a seed."""
Pairs = set[frozenset[Variant]]
"""Pairs of defenses."""


class Duel(NamedTuple):
    """Two defenses compared over the attacks that both have, with one difference an attack.

    Attributes:
        wins: attacks where the first is better.
        ties: attacks where both are equal to two decimals of a percent.
        losses: attacks where the second is better.
        p: two-sided p-value; None for an untested duel.
        adjusted: p-value after Holm's correction over all tested duels of the table and measure.
        better: 1 if the first is significantly better, -1 if the second is, 0 if neither; None for an untested duel.
    """

    wins: int
    ties: int
    losses: int
    p: float | None = None
    adjusted: float | None = None
    better: int | None = None

    @property
    def pairs(self) -> int:
        """Number of common attacks, each of which is a pair of the paired test."""
        return self.wins + self.ties + self.losses

    def reversed(self) -> Duel:
        """The same duel seen by the second defense."""
        better = None if self.better is None else -self.better
        return Duel(self.losses, self.ties, self.wins, self.p, self.adjusted, better)


class Missing(NamedTuple):
    """Why there is no ranking.

    Attributes:
        reason: without a full stop.
        of_measure: whether another measure may have a ranking.
    """

    reason: str
    of_measure: bool = False


class Ranking(NamedTuple):
    """The defenses of a table by one measure.

    Attributes:
        measure: ``der`` or ``asr``.
        order: the ranked defenses, each tested against each: most significant wins less losses first, then the better
            mean.
        means: mean of each ranked defense over the attacks that all of them have; over its own if there is none.
        groups: letters of each ranked defense. Defenses that share a letter do not differ significantly.
        duels: every duel with a common attack, in both directions.
        unranked: why each other defense is not ranked, in a few words.
        pairs: smallest and largest number of common attacks of the tested duels; None without a test.
        missing: why there is no ranking; None if there is one.
    """

    measure: str
    order: tuple[Variant, ...]
    groups: dict[Variant, str]
    duels: dict[tuple[Variant, Variant], Duel]
    unranked: dict[Variant, str]
    pairs: tuple[int, int] | None
    missing: Missing | None = None
    means: Mapping[Variant, float] = MappingProxyType({})

    @property
    def refusal(self) -> str:
        """Why there is no ranking, in a sentence; empty if there is one."""
        return refusals([self])


class Sensitivity(NamedTuple):
    """How far CA and ASR of a defense spread over its variants in a table.

    Attributes:
        name: the defense.
        variants: its variants.
        pairs: number of pairs (attack, seed) that all variants have on the same data; the means are over these.
        ca: smallest and largest mean CA of a variant.
        asr: smallest and largest mean ASR of a variant.
    """

    name: str
    variants: tuple[Variant, ...]
    pairs: int
    ca: tuple[float, float]
    asr: tuple[float, float]


def places(group: Group, column: Variant, rows: Iterable[Variant], measure: str) -> dict[Place, float]:
    """The values of a defense by attack and seed."""
    return {(row, seed): v for row in rows for seed, v in values_of(group, row, column, measure).items()}


def _versions(group: Group, column: Variant, rows: Iterable[Variant]) -> dict[Place, DataVersion]:
    """The data versions of a defense's records, where they are known."""
    known = mixed_data(group)
    return {(row, seed): version for row in rows for seed, version in known.by_seed(row, column).items()}


def _common(values: Sequence[Mapping[Place, float]], versions: Sequence[Mapping[Place, DataVersion]]) -> list[Place]:
    """The places that all defenses have, without those that are known to be of different data."""
    everywhere = set(values[0]).intersection(*values[1:])
    shared = [place for place in values[0] if place in everywhere]
    known = [v for v in versions if v]
    if len(known) < 2:
        return shared
    return [place for place in shared if len({v[place] for v in known if place in v}) < 2]


def gains(a: Mapping[Place, float], b: Mapping[Place, float], common: Iterable[Place], sign: int) -> list[float]:
    """How much better ``a`` is than ``b`` on each attack: one value for each name of an attack.

    Seeds of one attack are averaged, and so are the variants of one attack: their values are more alike than those of
    different attacks, and a test that takes each as independent rejects too often.
    """
    by_name: dict[str, list[float]] = {}
    for row, difference in _by_row(common, lambda place: sign * (a[place] - b[place])).items():
        by_name.setdefault(row.name, []).append(difference)
    means = [math.fsum(v) / len(v) for v in by_name.values()]
    # Equal differences may differ in their last bits, which would break ties.
    return [round(mean, 12) if abs(mean) > RESOLUTION else 0.0 for mean in means]


def _by_row(common: Iterable[Place], value: Callable[[Place], float]) -> dict[Variant, float]:
    """The mean value over the seeds of each row."""
    found: dict[Variant, list[float]] = {}
    for place in common:
        found.setdefault(place[0], []).append(value(place))
    return {row: math.fsum(values) / len(values) for row, values in found.items()}


def rank(group: Group, rows: Sequence[Variant], measure: str) -> Ranking:
    """Rank the competing defenses of a group, each tested against each.

    Two defenses are compared by Wilcoxon's signed-rank test on one difference an attack (:func:`gains`), with Holm's
    correction over all tested duels. Values that were measured on different data are left out, and so are defenses
    with a model at chance. Which duels are tested does not depend on who wins them.

    Args:
        group: the records of one table.
        rows: the attacks that count.
        measure: ``der`` or ``asr``.
    """
    columns, sign = competitors(group), -1 if measure == "asr" else 1
    values = {c: places(group, c, rows, measure) for c in columns}
    versions = {c: _versions(group, c, rows) for c in columns}
    found: dict[tuple[Variant, Variant], list[float]] = {}
    for a, b in combinations(columns, 2):
        if common := _common((values[a], values[b]), (versions[a], versions[b])):
            found[a, b] = gains(values[a], values[b], common, sign)
    duels = {key: _duel(differences) for key, differences in found.items()}
    ranked, unranked, missing = _tested(group, rows, duels)
    tested = [key for key in combinations(ranked, 2) if key in duels]
    results = [signed_rank(found[key]) for key in tested]
    for key, result, adjusted in zip(tested, results, holm([result.p for result in results]), strict=True):
        better = (result.positive > result.negative) - (result.positive < result.negative)
        duels[key] = duels[key]._replace(p=result.p, adjusted=adjusted, better=better * (adjusted <= 1 - LEVEL))
    both = duels | {(b, a): duel.reversed() for (a, b), duel in duels.items()}

    means = _means(group, rows, measure, {c: values[c] for c in ranked}, [versions[c] for c in ranked])

    def score(column: Variant) -> tuple[float, ...]:
        net = sum(duel.better or 0 for (first, _), duel in both.items() if first == column)
        return (-net, -sign * means[column], columns.index(column))

    order = tuple(sorted(ranked, key=score))
    groups = letters(order, {frozenset(key) for key in tested if duels[key].better})
    pairs = [duels[key].pairs for key in tested]
    between = (min(pairs), max(pairs)) if pairs else None
    return Ranking(measure, order, groups, both, unranked, between, missing, means)


def _means(
    group: Group,
    rows: Sequence[Variant],
    measure: str,
    values: Mapping[Variant, Mapping[Place, float]],
    versions: Sequence[Mapping[Place, DataVersion]],
) -> dict[Variant, float]:
    """Means of defenses over the attacks that all have: those of different attacks say nothing about the defenses."""
    common = _common(list(values.values()), versions) if values else []
    if not common:
        own = {column: average(group, column, rows, measure) for column in values}
        return {column: mean.mean if mean else 0.0 for column, mean in own.items()}
    by_row = {column: _by_row(common, own.__getitem__) for column, own in values.items()}
    return {column: math.fsum(means.values()) / len(means) for column, means in by_row.items()}


def _duel(differences: Sequence[float]) -> Duel:
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    return Duel(wins, len(differences) - wins - losses, losses)


def _tested(
    group: Group, rows: Sequence[Variant], duels: Mapping[tuple[Variant, Variant], Duel]
) -> tuple[list[Variant], dict[Variant, str], Missing | None]:
    """The defenses to rank, why the others are not, and why there are none."""
    columns = competitors(group)
    reasons = {c: "a model at chance on clean images" for c in columns if chance_cells(group, rows, c)}
    able = [c for c in columns if c not in reasons]
    enough = _all_paired(
        able, lambda kept: {frozenset(p) for p in _family(kept, duels) if duels[p].pairs >= FEWEST_ATTACKS}
    )
    reasons |= {c: f"under {FEWEST_ATTACKS} attacks in common with another defense" for c in able if c not in enough}
    if not enough:
        return [], reasons, _missing(group, rows, able, duels)
    family = _family(enough, duels)
    most = max(duels[p].wins + duels[p].losses for p in family)
    if most and len(family) * 2.0 ** (1 - most) > 1 - LEVEL:
        missing = Missing(
            f"with {counted(len(family), 'duel')} over at most {counted(most, 'attack')} with a difference, no outcome "
            "could be significant after Holm's correction, so nothing is tested",
            of_measure=True,
        )
        return [], reasons | dict.fromkeys(enough, "no outcome could be significant"), missing
    ranked = _all_paired(enough, lambda kept: _decidable(_family(kept, duels), duels))
    left = [c for c in enough if c not in ranked]
    reasons |= dict.fromkeys(left, "no outcome could be significant for lack of attacks that differ")
    return ranked, reasons, None


def _family(kept: Sequence[Variant], duels: Mapping[tuple[Variant, Variant], Duel]) -> list[tuple[Variant, Variant]]:
    return [pair for pair in combinations(kept, 2) if pair in duels]


def _decidable(family: Sequence[tuple[Variant, Variant]], duels: Mapping[tuple[Variant, Variant], Duel]) -> Pairs:
    """The duels that some outcome makes significant after Holm's correction, and those that are ties throughout.

    With n differences other than 0, the smallest p-value is 2 ** (1 - n).
    """
    differing = [duels[pair].wins + duels[pair].losses for pair in family]
    least = holm([min(1.0, 2.0 ** (1 - n)) for n in differing])
    return {frozenset(p) for p, n, q in zip(family, differing, least, strict=True) if q <= 1 - LEVEL or not n}


def _all_paired(columns: Sequence[Variant], paired: Callable[[Sequence[Variant]], Pairs]) -> list[Variant]:
    """Drop the defense in the fewest pairs until every two of the rest are a pair. Empty if no pair is left."""
    kept = list(columns)
    while len(kept) > 1:
        pairs = paired(kept)
        if len(pairs) == len(kept) * (len(kept) - 1) // 2:
            return kept
        counts = {c: sum(c in pair for pair in pairs) for c in kept}
        kept.remove(min(reversed(kept), key=counts.__getitem__))
    return []


def _missing(
    group: Group, rows: Sequence[Variant], able: Sequence[Variant], duels: Mapping[tuple[Variant, Variant], Duel]
) -> Missing:
    """Why no two defenses can be tested."""
    if not group.attacks():
        return Missing("no record has an attack")
    if not rows:
        return Missing("no attack counts as implanted")
    if len(able) < 2:
        some = "a defense needs a rival" if able else "there is no defense to compare"
        chance = len(competitors(group)) > len(able)
        return Missing(f"{some}{'; defenses with a model at chance are not compared' * chance}")
    most = max((duels[pair].pairs for pair in _family(able, duels)), default=0)
    return Missing(
        f"a test needs {FEWEST_ATTACKS} attacks that two defenses share, since all seeds and variants of an attack "
        f"count once; here they share {f'at most {most}' if most else 'none'}",
        of_measure=True,
    )


def refusals(rankings: Iterable[Ranking]) -> str:
    """Why rankings are missing, in a sentence for each reason, with its measures; empty if none is.

    Args:
        rankings: those of one table, by measure.
    """
    measures: dict[Missing, list[str]] = {}
    for ranking in rankings:
        if ranking.missing:
            measures.setdefault(ranking.missing, []).append(ranking.measure.upper())
    return " ".join(
        f"No ranking by {' or '.join(names)}: {why.reason}." if why.of_measure else f"No ranking: {why.reason}."
        for why, names in measures.items()
    )


def letters(order: Sequence[Variant], apart: Iterable[frozenset[Variant]]) -> dict[Variant, str]:
    """Letters such that two items share one unless they differ significantly: the insert-and-absorb algorithm.

    H.-P. Piepho, An algorithm for a letter-based representation of all-pairwise comparisons, Journal of Computational
    and Graphical Statistics 13 (2004).

    Args:
        order: the items, best first.
        apart: the pairs that differ significantly.
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
    """The spread of every competing defense with two variants or more that share pairs (attack, seed) of one data."""
    named: dict[str, list[Variant]] = {}
    for column in competitors(group):
        named.setdefault(column.name, []).append(column)
    result = []
    for name, variants in named.items():
        both = [[places(group, v, rows, metric) for v in variants] for metric in ("ca", "asr")]
        versions = [_versions(group, v, rows) for v in variants]
        common = _common([values for metric in both for values in metric], versions)
        if len(variants) < 2 or not common:
            continue
        means = [[math.fsum(v[p] for p in common) / len(common) for v in metric] for metric in both]
        ca, asr = ((min(m), max(m)) for m in means)
        result.append(Sensitivity(name, tuple(variants), len(common), ca, asr))
    return tuple(result)
