"""The paper's claims about Table 2 (LfD abstract and section 5.1), each with the rule it is judged by."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from benchbd.report import wording
from benchbd.report.averages import average
from benchbd.report.groups import Group
from benchbd.report.labels import Variant
from benchbd.report.paper.evidence import Claim, Evidence, Finding, Pair, pair
from benchbd.report.published import table2

RIVALS = ("fine-pruning", "ac", "abl")
NAMES = {"cifar10": "CIFAR-10", "gtsrb": "GTSRB", "imagenet-subset": "ImageNet subset"}
NEAR = 0.05
"""How far above the published ASR an average may lie and still be called that of the paper."""
STAYS = 0.2
"""A defense that takes less than this off the ASR is called without effect."""


def _published(dataset: str, defense: str, metric: str, *, clean: bool = False) -> float:
    rows = [p for (d, a, f), p in table2().items() if (d, f) == (dataset, defense) and (a == "none") == clean]
    return math.fsum(getattr(p, metric) for p in rows) / len(rows)


def _beside(dataset: str, metric: str, *defenses: str, clean: bool = False) -> str:
    return ", ".join(f"{d} {wording.percent(_published(dataset, d, metric, clean=clean))}" for d in defenses)


def _level(dataset: str, evidence: Evidence) -> list[Finding]:
    limit = _published(dataset, "lfd", "asr") + NEAR
    found = []
    for group in evidence.of(dataset):
        column = evidence.columns(group).get("lfd")
        here = average(group, column, evidence.working(group), "asr") if column else None
        if here:
            text = f"lfd {wording.percent(here.mean)} ({wording.counted(here.rows, 'attack')})"
            found.append(Finding(here.mean <= limit, text, group.scale))
    return found


def _lowest(dataset: str, evidence: Evidence, contenders: tuple[str, ...] = ("lfd", *RIVALS)) -> list[Finding]:
    """The first contender's average ASR is below each other's, over the attacks each two share."""
    first, *others = contenders
    found = []
    for group in evidence.of(dataset):
        columns = evidence.columns(group)
        rows = evidence.working(group)
        pairs = {
            other: both
            for other in others
            if first in columns
            and other in columns
            and (both := pair(group, columns[first], columns[other], rows, "asr"))
        }
        if pairs:
            text = "; ".join(both.text(first, other) for other, both in pairs.items())
            found.append(Finding(all(both.a < both.b for both in pairs.values()), text, group.scale))
    return found


def _mean(group: Group, row: Variant, column: Variant, metric: str) -> float | None:
    values = group.entry(row, column).values(metric)
    return math.fsum(values.values()) / len(values) if values else None


def _by_attack(
    dataset: str,
    evidence: Evidence,
    judge: Callable[[list[tuple[str, dict[str, dict[str, float]]]]], tuple[bool, str] | None],
) -> list[Finding]:
    """Judge by single attacks: rows in which LfD and a rival are measured, as (attack, {defense: {metric: mean}})."""
    found = []
    for group in evidence.of(dataset):
        columns = evidence.columns(group)
        rows = []
        for row in evidence.working(group):
            means = {
                name: {m: v for m in ("ca", "asr") if (v := _mean(group, row, columns[name], m)) is not None}
                for name in ("lfd", *RIVALS)
                if name in columns
            }
            full = {name: values for name, values in means.items() if len(values) == 2}
            if "lfd" in full and len(full) > 1:
                rows.append((row.name, full))
        verdict = judge(rows) if rows else None
        if verdict:
            found.append(Finding(*verdict, group.scale))
    return found


def _most(rows: list[tuple[str, dict[str, dict[str, float]]]]) -> tuple[bool, str]:
    won = [name for name, means in rows if means["lfd"]["asr"] <= min(m["asr"] for m in means.values())]
    return len(won) > len(rows) / 2, f"lowest on {len(won)} of {len(rows)} attacks ({', '.join(won) or 'none'})"


def _all(rows: list[tuple[str, dict[str, dict[str, float]]]]) -> tuple[bool, str]:
    won = []
    for name, means in rows:
        others = [m for defense, m in means.items() if defense != "lfd"]
        mine = means["lfd"]
        if all(mine["ca"] > m["ca"] and mine["asr"] < m["asr"] for m in others):
            won.append(name)
    return len(won) == len(rows), f"on {len(won)} of {len(rows)} attacks ({', '.join(won) or 'none'})"


def _abl_wins(rows: list[tuple[str, dict[str, dict[str, float]]]]) -> tuple[bool, str] | None:
    both = [(name, m["lfd"]["asr"], m["abl"]["asr"]) for name, m in rows if "abl" in m]
    won = [f"{name} abl {wording.percent(abl)} lfd {wording.percent(lfd)}" for name, lfd, abl in both if abl < lfd]
    return (bool(won), f"on {len(won)} of {len(both)} attacks ({'; '.join(won) or 'none'})") if both else None


def _ac_at_ten(evidence: Evidence) -> list[Finding]:
    found = []
    for group in evidence.of("cifar10"):
        columns = evidence.columns(group)
        plain = group.undefended()
        rows = [r for r in evidence.working(group) if _share(group, r) >= 0.095]
        both = pair(group, columns["ac"], plain, rows, "asr") if "ac" in columns and plain else None
        if both:
            found.append(Finding(both.a > both.b - STAYS, both.text("ac", "undefended"), group.scale))
    return found


def _share(group: Group, row: Variant) -> float:
    plain = group.undefended()
    records = group.entry(row, plain).done() if plain else []
    return min((float((r.get("poison") or {}).get("share_of_set") or 0.0) for r in records), default=0.0)


def _cost_under(limit: float, both: Pair) -> bool:
    return both.b - both.a < limit


def _higher(both: Pair) -> bool:
    return both.a > both.b


def claims() -> list[Claim]:
    """The claims, in the order of the paper's data sets."""
    found = []
    for dataset, cost in (("cifar10", 0.01), ("gtsrb", 0.03), ("imagenet-subset", 0.01)):
        name = NAMES[dataset]
        published = f"lfd {wording.percent(_published(dataset, 'lfd', 'asr'))}"
        text = (
            f"{name}: LfD brings the average ASR to the published level (rule: at most {100 * NEAR:.0f} points above)"
        )
        found.append(Claim("abstract", text, published, partial(_level, dataset)))
        text = f"{name}: LfD costs less than {100 * cost:.0f} point{'s' if cost > 0.01 else ''} of CA on average"
        judge = partial(
            Evidence.compare, dataset=dataset, a="lfd", b="none", metric="ca", rule=partial(_cost_under, cost)
        )
        found.append(Claim("abstract", text, _beside(dataset, "ca", "lfd", "none"), judge))
        text = f"{name}: LfD has the lowest average ASR of the four defenses"
        found.append(Claim("section 5.1", text, _beside(dataset, "asr", "lfd", *RIVALS), partial(_lowest, dataset)))
    cifar, gtsrb, imagenet = NAMES
    found += [
        Claim(
            "section 5.1",
            "CIFAR-10: ABL is the best of the older defenses by average ASR",
            _beside(cifar, "asr", "abl", "fine-pruning", "ac"),
            partial(_lowest, cifar, contenders=("abl", "fine-pruning", "ac")),
        ),
        Claim(
            "section 5.1",
            "CIFAR-10: LfD keeps more CA than ABL on average",
            _beside(cifar, "ca", "lfd", "abl"),
            partial(Evidence.compare, dataset=cifar, a="lfd", b="abl", metric="ca", rule=_higher),
        ),
        Claim(
            "section 5.1",
            "CIFAR-10: LfD has the lowest ASR on most attacks",
            "8 of 9 attacks in Table 2",
            partial(_by_attack, cifar, judge=_most),
        ),
        Claim(
            "section 5.1",
            "CIFAR-10 without attack: LfD keeps more CA than ABL",
            _beside(cifar, "ca", "lfd", "abl", clean=True),
            partial(Evidence.compare, dataset=cifar, a="lfd", b="abl", metric="ca", rule=_higher, clean=True),
        ),
        Claim(
            "section 5.1",
            "CIFAR-10 without attack: LfD loses less than 1 point of CA to AC",
            _beside(cifar, "ca", "lfd", "ac", clean=True),
            partial(
                Evidence.compare,
                dataset=cifar,
                a="lfd",
                b="ac",
                metric="ca",
                rule=partial(_cost_under, 0.01),
                clean=True,
            ),
        ),
        Claim(
            "section 5.1",
            f"CIFAR-10: AC hardly helps at 10 % poison (rule: takes less than {100 * STAYS:.0f} points off the ASR)",
            "98.52 of 99.98 on average",
            _ac_at_ten,
        ),
        Claim(
            "section 5.1",
            "GTSRB: LfD has the lowest ASR on most attacks",
            "5 of 6 attacks in Table 2",
            partial(_by_attack, gtsrb, judge=_most),
        ),
        Claim(
            "section 5.1",
            "GTSRB: LfD is not always best, ABL has the lower ASR on some attack",
            "tj-sq: abl 16.06, lfd 25.70",
            partial(_by_attack, gtsrb, judge=_abl_wins),
        ),
        Claim(
            "section 5.1",
            "ImageNet subset: LfD has higher CA and lower ASR than every other defense on all attacks",
            "3 of 4 attacks in Table 2 itself",
            partial(_by_attack, imagenet, judge=_all),
        ),
        Claim(
            "section 5.1",
            "ImageNet subset without attack: LfD is more accurate than plain training",
            _beside(imagenet, "ca", "lfd", "none", clean=True),
            partial(Evidence.compare, dataset=imagenet, a="lfd", b="none", metric="ca", rule=_higher, clean=True),
        ),
    ]
    return found
