"""Defenses as points: mean CA against mean ASR, with the cost, and which of them no other beats on both."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from benchbd.report import stats
from benchbd.report.groups import UNDEFENDED
from benchbd.report.labels import Variant
from benchbd.report.overview import Overview

RULE = (
    "The line joins the points that no other beats on both CA and ASR; the undefended model counts as a point. "
    "It leaves out controls, and defenses with a failed seed, a model at chance, other data or other attacks than the "
    "rest."
)
"""Which points the Pareto line joins, for legends."""

BEST = "Upper left is best."
"""Where the best defenses are in a plot of CA (upwards) against ASR."""


class Point(NamedTuple):
    """A defense of one data set, model and recipe. All values are means over the attacks of its overview.

    Attributes:
        defense: the defense.
        name: its short name, with signs that the notes of the overview explain.
        ca: mean CA, a fraction.
        asr: mean ASR, a fraction.
        worst: the highest mean ASR of an attack, a fraction; None if no attack has one.
        cost: multiple of the wall-clock time of no defense; None if unknown.
        control: whether it sees the truth.
        undefended: whether it is no defense.
        comparable: whether it may be on the front (see :data:`RULE`).
        front: whether it is on it.
        ca_spread: bounds of ``ca`` over seeds; None if attacks have different seeds, or one seed.
        asr_spread: bounds of ``asr``, likewise.
    """

    defense: Variant
    name: str
    ca: float
    asr: float
    worst: float | None
    cost: float | None
    control: bool
    undefended: bool
    comparable: bool
    front: bool
    ca_spread: stats.Spread | None
    asr_spread: stats.Spread | None


def front(pairs: Iterable[tuple[float, float]]) -> set[tuple[float, float]]:
    """The pairs (CA, ASR) that no other pair beats: none has a CA as high and an ASR as low, and one of both better."""
    found: set[tuple[float, float]] = set()
    least = float("inf")
    for ca, asr in sorted(set(pairs), key=lambda pair: (-pair[0], pair[1])):
        if asr < least:
            least = asr
            found.add((ca, asr))
    return found


def front_line(given: Iterable[Point]) -> list[tuple[float, float]]:
    """The corners (ASR, CA) of the line through the front, from the lowest ASR on; empty for fewer than two points.

    The line is a step: at each ASR, it has the highest CA of a defense whose ASR is as low. A slope between two points
    would promise defenses that nobody has measured.
    """
    ends = sorted({(point.asr, point.ca) for point in given if point.front})
    corners = ends[:1] if len(ends) > 1 else []
    for (_, before), (asr, ca) in itertools.pairwise(ends):
        corners += [(asr, before), (asr, ca)]
    return corners


def points(given: Overview) -> tuple[Point, ...]:
    """The points of the defenses that have a CA and an ASR, in the order of the summary."""
    lines = [line for line in given.lines if line.ca and line.asr]
    best = front((line.ca.mean, line.asr.mean) for line in lines if line.comparable and line.ca and line.asr)
    return tuple(
        Point(
            defense=line.defense,
            name=line.name,
            ca=line.ca.mean,
            asr=line.asr.mean,
            worst=line.worst.asr if line.worst else None,
            cost=line.cost,
            control=line.control,
            undefended=line.defense.name == UNDEFENDED,
            comparable=line.comparable,
            front=line.comparable and (line.ca.mean, line.asr.mean) in best,
            ca_spread=line.ca.spread,
            asr_spread=line.asr.spread,
        )
        for line in lines
        if line.ca and line.asr
    )
