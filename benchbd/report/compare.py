"""Compare two sets of results: improvements, regressions and lost results."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from benchbd.core.kinds import KINDS
from benchbd.core.numerics import precision_class
from benchbd.errors import UsageError, did_you_mean, shown
from benchbd.report.der import ratings
from benchbd.report.gate import lift_of
from benchbd.report.groups import place_of, precedence
from benchbd.report.labels import asked_numerics
from benchbd.report.precision_classes import classes_of
from benchbd.report.published import grouped
from benchbd.report.stats import Mean, difference
from benchbd.storage.data_version import all_differences, data_version
from benchbd.storage.record_schema import METRICS, Record

COMPARED = (*METRICS, "time", "lift", "der")


class Limit(NamedTuple):
    """A limit on a metric's change from A to B, as in ``--fail``.

    ``asr:+2`` fails if a configuration's ASR rises by more than 2 points, ``ca:-1`` if its CA falls by more than 1
    point. ``time:+20`` is in percent of A's time.
    """

    metric: str
    change: float

    def broken(self, change: float) -> bool:
        """Whether a change exceeds the limit."""
        return change > self.change if self.change >= 0 else change < self.change


class Line(NamedTuple):
    """A configuration found in both sets, compared over the seeds finished in both.

    Attributes:
        label: data set, model, attack, defense.
        changes: B - A by metric, in points for fractions and in percent for time; None if either side has no value.
        lost: seeds that finished in A and ran without a result in B.
        data: what differs in data and initial weights at some seed, such as ``training set``; empty if nothing is known
            to differ.
        classes: numbers of compared records by precision class, of A and of B, if the class differs at some seed.
    """

    label: str
    changes: dict[str, Mean | None]
    lost: list[int]
    data: str = ""
    classes: tuple[Counter[str], Counter[str]] | None = None


class Comparison(NamedTuple):
    """The result of :func:`compare`.

    Attributes:
        lines: configurations in both sets.
        only_a: labels of configurations that only A has.
        only_b: labels of configurations that only B has.
        classes: numbers of finished records of the common configurations by precision class, of A and of B.
    """

    lines: list[Line]
    only_a: list[str]
    only_b: list[str]
    classes: tuple[Counter[str], Counter[str]] = (Counter(), Counter())

    @property
    def mixed(self) -> tuple[Counter[str], Counter[str]]:
        """As ``classes``, of the configurations whose changes are between precision classes."""
        found = [line.classes for line in self.lines if line.classes]
        return sum((a for a, _ in found), Counter()), sum((b for _, b in found), Counter())


def parse_limit(text: str) -> Limit:
    """Parse ``asr:+2`` or ``ca:-0.5``. Raises UsageError."""
    found = re.fullmatch(r"\s*(\w+)\s*:\s*([+-]\d+(?:\.\d+)?)\s*%?\s*", text, re.ASCII)
    if not found:
        raise UsageError(f"--fail {shown(text)}: write METRIC:+N or METRIC:-N, such as asr:+2 or ca:-1 (in points)")
    if found[1] not in COMPARED:
        raise UsageError(f"--fail {shown(text)}: unknown metric {shown(found[1])}{did_you_mean(found[1], COMPARED)}")
    return Limit(found[1], float(found[2]))


def _configuration(record: Record) -> str:
    """The key two records share if they have the same configuration: all but the seed and the plugins' versions."""
    names = [record[kind] for kind in KINDS]
    return json.dumps([*names, record.get("params"), record.get("recipe"), asked_numerics(record)], sort_keys=True)


def _value(record: Record, metric: str, der: Mapping[str, float]) -> float | None:
    if metric == "lift":
        return lift_of(record)
    if metric == "der":
        return der.get(record["id"])
    found = (record.get("time") or {}).get("total") if metric == "time" else record.get(metric)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def _label(record: Record) -> str:
    label = str(record.get("label") or "")
    return label.rpartition("/s")[0] or "/".join(str(record[kind]) for kind in KINDS)


def _grouped(records: Iterable[Record]) -> dict[str, dict[int, Record]]:
    groups: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        seeds = groups[_configuration(record)]
        # Of two versions of a plugin in one set, the one that tables show.
        seeds[record["seed"]] = max(seeds.get(record["seed"], record), record, key=precedence)
    return groups


def _change(
    a: dict[int, Record], b: dict[int, Record], metric: str, rated: tuple[Mapping[str, float], Mapping[str, float]]
) -> Mean | None:
    def values(side: dict[int, Record], der: Mapping[str, float]) -> dict[int, float]:
        done = {seed: r for seed, r in side.items() if r["status"] == "done"}
        return {seed: v for seed, r in done.items() if (v := _value(r, metric, der)) is not None}

    before, after = values(a, rated[0]), values(b, rated[1])
    if metric == "time":
        after = {s: 100 * (after[s] / before[s] - 1) for s in after if before.get(s)}
        return difference(after, dict.fromkeys(after, 0.0))
    found = difference(after, before)
    if found is None:
        return None
    half = None if found.half is None else 100 * found.half
    return Mean(100 * found.mean, half, found.n, 100 * found.low, 100 * found.high)


def _differences(a: dict[int, Record], b: dict[int, Record]) -> tuple[str, tuple[Counter[str], Counter[str]] | None]:
    """What differs between the two sides of a configuration: ``Line.data`` and ``Line.classes``."""
    both = [(a[s], b[s]) for s in sorted(a.keys() & b.keys()) if a[s]["status"] == b[s]["status"] == "done"]
    versions = [(x, y) for one, other in both if (x := data_version(one)) and (y := data_version(other))]
    data = all_differences(versions)
    names = [(precision_class(one), precision_class(other)) for one, other in both]
    if not any(x and y and x != y for x, y in names):
        return data, None
    return data, (classes_of(one for one, _ in both), classes_of(other for _, other in both))


def compare(a: Iterable[Record], b: Iterable[Record]) -> Comparison:
    """Compare two sets of checked records, seed by seed. Configurations are in the order of the tables."""
    a, b = list(a), list(b)
    left, right, rated = _grouped(a), _grouped(b), (ratings(a), ratings(b))
    ranks = grouped([*a, *b]).ranks()
    firsts = {key: next(iter(seeds.values())) for side in (left, right) for key, seeds in side.items()}
    order = sorted(firsts, key=lambda key: (ranks[place_of(firsts[key])], key))
    lines = []
    for key in (k for k in order if k in left and k in right):
        lost = [s for s, r in left[key].items() if r["status"] == "done" and right[key].get(s, r)["status"] != "done"]
        changes = {metric: _change(left[key], right[key], metric, rated) for metric in COMPARED}
        label = _label(next(iter(left[key].values())))
        lines.append(Line(label, changes, sorted(lost), *_differences(left[key], right[key])))

    def only(here: dict[str, dict[int, Record]], there: dict[str, dict[int, Record]]) -> list[str]:
        return [_label(next(iter(here[key].values()))) for key in order if key in here and key not in there]

    def classes(here: dict[str, dict[int, Record]], there: dict[str, dict[int, Record]]) -> Counter[str]:
        common = (record for key, seeds in here.items() if key in there for record in seeds.values())
        return classes_of(record for record in common if record["status"] == "done")

    return Comparison(lines, only(left, right), only(right, left), (classes(left, right), classes(right, left)))


def failures(comparison: Comparison, limits: Iterable[Limit]) -> list[str]:
    """One line for each exceeded limit and for each configuration with lost results or results of different data."""
    found = []
    for line in comparison.lines:
        for limit in limits:
            change = line.changes[limit.metric]
            if change is not None and limit.broken(change.mean):
                found.append(f"{line.label}: {limit.metric} {change.mean:+.2f} (limit {limit.change:+g})")
        if line.lost:
            found.append(f"{line.label}: results lost for seeds {', '.join(map(str, line.lost))}")
        if line.data:
            found.append(f"{line.label}: measured on different data (another {line.data})")
    return found
