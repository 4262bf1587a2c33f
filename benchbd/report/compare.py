"""Two sets of results side by side: what became better, what worse, and what broke."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from benchbd.core.kinds import KINDS
from benchbd.errors import UsageError, did_you_mean, shown
from benchbd.report.stats import Mean, difference
from benchbd.storage.record_schema import METRICS, Record

COMPARED = (*METRICS, "time")


class Limit(NamedTuple):
    """``asr:+2``: fails where a group's ASR rose by more than 2 points; ``ca:-1`` where CA fell by more than 1.

    ``time:+20`` is in percent of A's time.
    """

    metric: str
    change: float

    def broken(self, found: float) -> bool:
        """Whether a change goes beyond the limit."""
        return found > self.change if self.change >= 0 else found < self.change


class Line(NamedTuple):
    """One configuration in both sets, over the seeds both finished.

    Attributes:
        label: data set, model, attack, defense.
        changes: B - A by metric: points for fractions, percent for time; None where a side has no value.
        lost: seeds finished in A and tried without a result in B.
    """

    label: str
    changes: dict[str, Mean | None]
    lost: list[int]


class Comparison(NamedTuple):
    """Everything :func:`compare` found.

    Attributes:
        lines: configurations both have.
        only_a: labels of those that only A has.
        only_b: labels of those that only B has.
    """

    lines: list[Line]
    only_a: list[str]
    only_b: list[str]


def parse_limit(text: str) -> Limit:
    """Read ``asr:+2`` or ``ca:-0.5``. Raises UsageError."""
    found = re.fullmatch(r"\s*(\w+)\s*:\s*([+-]\d+(?:\.\d+)?)\s*%?\s*", text, re.ASCII)
    if not found:
        raise UsageError(f"--fail {shown(text)}: write METRIC:+N or METRIC:-N, such as asr:+2 or ca:-1 (in points)")
    if found[1] not in COMPARED:
        raise UsageError(f"--fail {shown(text)}: unknown metric {shown(found[1])}{did_you_mean(found[1], COMPARED)}")
    return Limit(found[1], float(found[2]))


def _group(record: Record) -> str:
    """What two records must have in common: everything but the seed, and not the plugins' versions."""
    names = [record[kind] for kind in KINDS]
    return json.dumps([*names, record.get("params"), record.get("recipe")], sort_keys=True)


def _value(record: Record, metric: str) -> float | None:
    found = (record.get("time") or {}).get("total") if metric == "time" else record.get(metric)
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def _label(record: Record) -> str:
    label = str(record.get("label") or "")
    return label.rpartition("/s")[0] or "/".join(str(record[kind]) for kind in KINDS)


def _grouped(records: Iterable[Record]) -> dict[str, dict[int, Record]]:
    groups: dict[str, dict[int, Record]] = defaultdict(dict)
    for record in records:
        groups[_group(record)][record["seed"]] = record
    return groups


def _change(a: dict[int, Record], b: dict[int, Record], metric: str) -> Mean | None:
    def values(side: dict[int, Record]) -> dict[int, float]:
        done = {seed: r for seed, r in side.items() if r["status"] == "done"}
        return {seed: v for seed, r in done.items() if (v := _value(r, metric)) is not None}

    before, after = values(a), values(b)
    if metric == "time":
        after = {s: 100 * (after[s] / before[s] - 1) for s in after if before.get(s)}
        return difference(after, dict.fromkeys(after, 0.0))
    found = difference(after, before)
    return found and Mean(100 * found.mean, None if found.half is None else 100 * found.half, found.n)


def compare(a: Iterable[Record], b: Iterable[Record]) -> Comparison:
    """Set two sets of checked records side by side, seed by seed."""
    left, right = _grouped(a), _grouped(b)
    lines = []
    for key in (k for k in left if k in right):
        lost = [s for s, r in left[key].items() if r["status"] == "done" and right[key].get(s, r)["status"] != "done"]
        changes = {metric: _change(left[key], right[key], metric) for metric in COMPARED}
        lines.append(Line(_label(next(iter(left[key].values()))), changes, sorted(lost)))

    def only(here: dict[str, dict[int, Record]], there: dict[str, dict[int, Record]]) -> list[str]:
        return [_label(next(iter(seeds.values()))) for key, seeds in here.items() if key not in there]

    return Comparison(lines, only(left, right), only(right, left))


def failures(comparison: Comparison, limits: Iterable[Limit]) -> list[str]:
    """One line for each limit that is broken, and for each result that was lost."""
    found = []
    for line in comparison.lines:
        for limit in limits:
            change = line.changes[limit.metric]
            if change is not None and limit.broken(change.mean):
                found.append(f"{line.label}: {limit.metric} {change.mean:+.2f} (limit {limit.change:+g})")
        if line.lost:
            found.append(f"{line.label}: no result any more for seeds {', '.join(map(str, line.lost))}")
    return found
