"""The paper's claims about Table 2 (LfD abstract and section 5.1), each with its rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from benchbd.errors import counted
from benchbd.report import wording
from benchbd.report.averages import average
from benchbd.report.groups import Group
from benchbd.report.labels import Variant
from benchbd.report.mixed_data import measured
from benchbd.report.paper.evidence import Claim, Evidence, Finding, Pair, noted, pair
from benchbd.report.published import table2

RIVALS = ("fine-pruning", "ac", "abl")
NAMES = {"cifar10": "CIFAR-10", "gtsrb": "GTSRB", "imagenet-subset": "ImageNet subset"}
TOLERANCE = 0.05
"""Largest excess of an average ASR over the published one that still counts as the paper's level."""
LEAST_EFFECT = 0.2
"""A defense that lowers the ASR by less than this counts as ineffective."""


def _published(dataset: str, defense: str, metric: str, *, clean: bool = False) -> float:
    rows = [p for (d, a, f), p in table2().items() if (d, f) == (dataset, defense) and (a == "none") == clean]
    return math.fsum(getattr(p, metric) for p in rows) / len(rows)


def _published_text(dataset: str, metric: str, *defenses: str, clean: bool = False) -> str:
    return ", ".join(f"{d} {wording.percent(_published(dataset, d, metric, clean=clean))}" for d in defenses)


def _at_published_level(dataset: str, evidence: Evidence) -> list[Finding]:
    limit = _published(dataset, "lfd", "asr") + TOLERANCE
    found = []
    for group in evidence.groups_of(dataset):
        column = evidence.columns(group).get("lfd")
        here = average(group, column, evidence.working_attacks(group), "asr") if column else None
        if here and column:
            text = f"lfd {wording.percent(here.mean)} ({counted(here.rows, 'attack')})"
            text = noted(text, measured(group, evidence.working_attacks(group), [column]))
            found.append(Finding(here.mean <= limit, text, group.scale))
    return found


def _lowest_average(dataset: str, evidence: Evidence, contenders: tuple[str, ...] = ("lfd", *RIVALS)) -> list[Finding]:
    """The first contender's average ASR is below that of each other one, over the attacks that both share."""
    first, *others = contenders
    found = []
    for group in evidence.groups_of(dataset):
        columns = evidence.columns(group)
        rows = evidence.working_attacks(group)
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
    """Judge attack by attack: ``judge`` gets the rows with LfD and a rival as (attack, {defense: {metric: mean}})."""
    found = []
    for group in evidence.groups_of(dataset):
        columns = evidence.columns(group)
        rows, versions = [], []
        for row in evidence.working_attacks(group):
            means = {
                name: {m: v for m in ("ca", "asr") if (v := _mean(group, row, columns[name], m)) is not None}
                for name in ("lfd", *RIVALS)
                if name in columns
            }
            full = {name: values for name, values in means.items() if len(values) == 2}
            if "lfd" in full and len(full) > 1:
                rows.append((row.name, full))
                versions.append(measured(group, [row], [columns[name] for name in full]))
        verdict = judge(rows) if rows else None
        if verdict:
            holds, text = verdict
            found.append(Finding(holds, noted(text, *versions), group.scale))
    return found


def _best_on_most(rows: list[tuple[str, dict[str, dict[str, float]]]]) -> tuple[bool, str]:
    wins = [name for name, means in rows if means["lfd"]["asr"] <= min(m["asr"] for m in means.values())]
    return len(wins) > len(
        rows
    ) / 2, f"lowest on {len(wins)} of {counted(len(rows), 'attack')} ({', '.join(wins) or 'none'})"


def _best_on_all(rows: list[tuple[str, dict[str, dict[str, float]]]]) -> tuple[bool, str]:
    wins = []
    for name, means in rows:
        others = [m for defense, m in means.items() if defense != "lfd"]
        lfd = means["lfd"]
        if all(lfd["ca"] > m["ca"] and lfd["asr"] < m["asr"] for m in others):
            wins.append(name)
    return len(wins) == len(rows), f"on {len(wins)} of {counted(len(rows), 'attack')} ({', '.join(wins) or 'none'})"


def _abl_better_somewhere(rows: list[tuple[str, dict[str, dict[str, float]]]]) -> tuple[bool, str] | None:
    both = [(name, m["lfd"]["asr"], m["abl"]["asr"]) for name, m in rows if "abl" in m]
    wins = [f"{name} abl {wording.percent(abl)} lfd {wording.percent(lfd)}" for name, lfd, abl in both if abl < lfd]
    return (
        (bool(wins), f"on {len(wins)} of {counted(len(both), 'attack')} ({'; '.join(wins) or 'none'})")
        if both
        else None
    )


def _ac_ineffective(evidence: Evidence) -> list[Finding]:
    found = []
    for group in evidence.groups_of("cifar10"):
        columns = evidence.columns(group)
        undefended = group.undefended()
        rows = [r for r in evidence.working_attacks(group) if _poison_share(group, r) >= 0.095]
        both = pair(group, columns["ac"], undefended, rows, "asr") if "ac" in columns and undefended else None
        if both:
            found.append(Finding(both.a > both.b - LEAST_EFFECT, both.text("ac", "undefended"), group.scale))
    return found


def _poison_share(group: Group, row: Variant) -> float:
    undefended = group.undefended()
    records = group.entry(row, undefended).done() if undefended else []
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
        text = f"{name}: LfD brings the average ASR to the published level (rule: within {100 * TOLERANCE:.0f} points)"
        found.append(Claim("abstract", text, published, partial(_at_published_level, dataset)))
        text = f"{name}: LfD costs less than {100 * cost:.0f} point{'s' if cost > 0.01 else ''} of CA on average"
        judge = partial(
            Evidence.compare, dataset=dataset, a="lfd", b="none", metric="ca", rule=partial(_cost_under, cost)
        )
        found.append(Claim("abstract", text, _published_text(dataset, "ca", "lfd", "none"), judge))
        text = f"{name}: LfD has the lowest average ASR of the four defenses"
        found.append(
            Claim(
                "section 5.1", text, _published_text(dataset, "asr", "lfd", *RIVALS), partial(_lowest_average, dataset)
            )
        )
    cifar, gtsrb, imagenet = NAMES
    found += [
        Claim(
            "section 5.1",
            "CIFAR-10: ABL is the best of the older defenses by average ASR",
            _published_text(cifar, "asr", "abl", "fine-pruning", "ac"),
            partial(_lowest_average, cifar, contenders=("abl", "fine-pruning", "ac")),
        ),
        Claim(
            "section 5.1",
            "CIFAR-10: LfD keeps more CA than ABL on average",
            _published_text(cifar, "ca", "lfd", "abl"),
            partial(Evidence.compare, dataset=cifar, a="lfd", b="abl", metric="ca", rule=_higher),
        ),
        Claim(
            "section 5.1",
            "CIFAR-10: LfD has the lowest ASR on most attacks",
            "8 of 9 attacks in Table 2",
            partial(_by_attack, cifar, judge=_best_on_most),
        ),
        Claim(
            "section 5.1",
            "CIFAR-10 without attack: LfD keeps more CA than ABL",
            _published_text(cifar, "ca", "lfd", "abl", clean=True),
            partial(Evidence.compare, dataset=cifar, a="lfd", b="abl", metric="ca", rule=_higher, clean=True),
        ),
        Claim(
            "section 5.1",
            "CIFAR-10 without attack: LfD's CA is less than 1 point below that of AC",
            _published_text(cifar, "ca", "lfd", "ac", clean=True),
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
            f"CIFAR-10: AC hardly helps at 10 % poison (rule: ASR falls by less than {100 * LEAST_EFFECT:.0f} points)",
            "98.52 of 99.98 on average",
            _ac_ineffective,
        ),
        Claim(
            "section 5.1",
            "GTSRB: LfD has the lowest ASR on most attacks",
            "5 of 6 attacks in Table 2",
            partial(_by_attack, gtsrb, judge=_best_on_most),
        ),
        Claim(
            "section 5.1",
            "GTSRB: LfD is not always best; ABL has a lower ASR on some attack",
            "tj-sq: abl 16.06, lfd 25.70",
            partial(_by_attack, gtsrb, judge=_abl_better_somewhere),
        ),
        Claim(
            "section 5.1",
            "ImageNet subset: LfD has higher CA and lower ASR than every other defense on all attacks",
            "3 of 4 attacks in Table 2 itself",
            partial(_by_attack, imagenet, judge=_best_on_all),
        ),
        Claim(
            "section 5.1",
            "ImageNet subset without attack: LfD is more accurate than undefended training",
            _published_text(imagenet, "ca", "lfd", "none", clean=True),
            partial(Evidence.compare, dataset=imagenet, a="lfd", b="none", metric="ca", rule=_higher, clean=True),
        ),
    ]
    return found
