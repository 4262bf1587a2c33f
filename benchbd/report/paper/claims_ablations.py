"""The paper's claims about LfD's parts (section 5.2, Figures 4 and 5), judged on attacks common to all settings."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchbd.errors import counted
from benchbd.report import wording
from benchbd.report.averages import average
from benchbd.report.labels import value_text
from benchbd.report.paper.evidence import Claim, Evidence, Finding, Pair, pair
from benchbd.report.paper.sweeps import MODES, TEACHERS, Sweep, sweep

Rule = Callable[[Pair], bool]
VISIBLE = 0.005
"""Smaller differences do not count: half a point is invisible in a plot, and seeds differ by more."""


def _all_values(found: Sweep, metric: str) -> str:
    shown = []
    for value, column in zip(found.values, found.columns, strict=True):
        here = average(found.group, column, found.rows, metric)
        shown.append(f"{value_text(value)}: {wording.percent(here.mean) if here else wording.UNDEFINED}")
    return ", ".join(shown)


def _finding(found: Sweep, first: Any, second: Any, metric: str, rule: Rule) -> Finding | None:
    a, b = found.column(first), found.column(second)
    both = pair(found.group, a, b, found.rows, metric) if a and b else None
    if both is None:
        return None
    over = counted(both.rows, "attack")
    text = f"{metric.upper()} by {found.parameter} {_all_values(found, metric)} ({over}; {both.gap_text})"
    return Finding(rule(both), text, found.scale)


def _largest_below_smallest(evidence: Evidence, parameter: str, metric: str) -> list[Finding]:
    """Compare the largest value of a numeric parameter with the smallest: the metric must be visibly lower."""
    findings = []
    for group in evidence.groups_of("cifar10"):
        found = sweep(group, "lfd", parameter)
        if found:
            findings.append(_finding(found, found.values[-1], found.values[0], metric, _lower))
    return [f for f in findings if f]


def _between_values(
    evidence: Evidence, parameter: str, order: tuple[str, ...], first: str, second: str, metric: str, rule: Rule
) -> list[Finding]:
    """Compare one named value of a parameter with another."""
    findings = []
    for group in evidence.groups_of("cifar10"):
        found = sweep(group, "lfd", parameter, order)
        if found:
            findings.append(_finding(found, _full_value(found, first), _full_value(found, second), metric, rule))
    return [f for f in findings if f]


def _full_value(found: Sweep, name: str) -> Any:
    return next((v for v in found.values if isinstance(v, str) and v.partition("(")[0] == name), None)


def _lower(both: Pair) -> bool:
    return both.a < both.b - VISIBLE


def _higher(both: Pair) -> bool:
    return both.a > both.b + VISIBLE


def claims() -> list[Claim]:
    """The claims, in the order of the figures."""
    teacher = partial(_between_values, parameter="teacher", order=TEACHERS)
    mode = partial(_between_values, parameter="mode", order=MODES)
    return [
        Claim(
            "Figure 4a",
            "A teacher with high capacity (ResNet-18) costs CA compared with ResNet-S",
            "shown as a plot",
            partial(teacher, first="resnet18", second="resnet-s", metric="ca", rule=_lower),
        ),
        Claim(
            "Figure 4a",
            "A teacher with too little capacity (ResNet-S1) leaves a higher ASR than ResNet-S",
            "shown as a plot",
            partial(teacher, first="resnet-s1", second="resnet-s", metric="asr", rule=_higher),
        ),
        Claim(
            "Figure 4b",
            "A higher alpha lowers the ASR",
            "shown as a plot",
            partial(_largest_below_smallest, parameter="alpha", metric="asr"),
        ),
        Claim(
            "Figure 4b",
            "A higher alpha costs CA",
            "shown as a plot",
            partial(_largest_below_smallest, parameter="alpha", metric="ca"),
        ),
        Claim(
            "Figure 4c",
            "A higher beta lowers the ASR",
            "shown as a plot",
            partial(_largest_below_smallest, parameter="beta", metric="asr"),
        ),
        Claim(
            "Figure 4c",
            "A higher beta costs CA",
            "shown as a plot",
            partial(_largest_below_smallest, parameter="beta", metric="ca"),
        ),
        Claim(
            "Figure 5",
            "Gradient ascent lowers the ASR compared with no ascent",
            "shown as a plot",
            partial(mode, first="unweighted", second="none", metric="asr", rule=_lower),
        ),
        Claim(
            "Figure 5",
            "Weighted ascent lowers the ASR compared with no ascent",
            "shown as a plot",
            partial(mode, first="weighted", second="none", metric="asr", rule=_lower),
        ),
        Claim(
            "Figure 5",
            "Unweighted gradient ascent costs CA compared with no ascent",
            "shown as a plot",
            partial(mode, first="unweighted", second="none", metric="ca", rule=_lower),
        ),
        Claim(
            "Figure 5",
            "Weighted ascent keeps more CA than unweighted ascent",
            "shown as a plot",
            partial(mode, first="weighted", second="unweighted", metric="ca", rule=_higher),
        ),
    ]
