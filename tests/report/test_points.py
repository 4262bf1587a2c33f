"""Defenses as points, and the Pareto front."""

from __future__ import annotations

import itertools
import random

import pytest

from benchbd.report import board
from benchbd.report.points import front, front_line, points


def by_name(records):
    (found,) = board(records).overviews()
    return {point.name: point for point in points(found)}


@pytest.fixture
def records(make_record):
    """Two attacks, two seeds; time by defense. ``bad`` is beaten by ``good`` on both, the oracle by nobody."""
    values = {
        "none": (0.95, 0.99, 100),
        "good": (0.93, 0.05, 300),
        "bad": (0.90, 0.30, 150),
        "cheap": (0.94, 0.40, 110),
    }
    made = [
        make_record(a, d, s, ca + s / 1000, asr, time={"total": seconds, "own": seconds, "stages": {}})
        for a in ("bn-g", "sig")
        for d, (ca, asr, seconds) in values.items()
        for s in (0, 1)
    ]
    return made + [make_record(a, "oracle", s, 0.96, 0.0, control=True) for a in ("bn-g", "sig") for s in (0, 1)]


def test_points_are_means_over_attacks_with_the_cost(records):
    found = by_name(records)
    assert set(found) == {"none", "good", "bad", "cheap", "oracle"}
    good = found["good"]
    assert (good.ca, good.asr, good.worst) == pytest.approx((0.9305, 0.05, 0.05))
    assert good.cost == pytest.approx(3.0)
    assert good.ca_spread[:2] == pytest.approx((0.93, 0.931))
    assert (found["oracle"].control, found["none"].undefended) == (True, True)


def test_the_front_has_what_nothing_beats_and_no_control(records):
    assert {name for name, point in by_name(records).items() if point.front} == {"none", "good", "cheap"}


def test_a_defense_with_fewer_attacks_or_a_failed_seed_is_not_on_the_front(records, make_record):
    lonely = [make_record("bn-g", "lonely", s, 0.99, 0.0) for s in (0, 1)]
    failing = [make_record(a, "failing", s, 0.99, 0.0) for a in ("bn-g", "sig") for s in (0, 1)]
    failing.append(make_record("sig", "failing", 2, status="oom", error="no memory"))
    found = by_name([*records, *lonely, *failing])
    assert not found["lonely"].comparable
    assert not found["failing"].comparable
    assert {name for name, point in found.items() if point.front} == {"none", "good", "cheap"}


def test_an_attack_that_no_defense_has_keeps_none_of_them_off_the_front(records, make_record):
    found = by_name([*records, make_record("blend", "none", 0, 0.95, 0.99)])
    assert {name for name, point in found.items() if point.front} == {"good", "cheap"}
    assert not found["none"].comparable, "its means are over other attacks"


def test_no_point_without_an_attack(make_record):
    assert by_name([make_record("none", "ac")]) == {}


def test_the_front_is_that_of_the_definition():
    chance = random.Random(1)
    for _ in range(50):
        pairs = [(chance.randrange(6) / 5, chance.randrange(6) / 5) for _ in range(8)]
        beaten = {a for a, b in itertools.product(pairs, repeat=2) if b != a and b[0] >= a[0] and b[1] <= a[1]}
        assert front(pairs) == set(pairs) - beaten


def test_the_line_is_the_highest_ca_at_each_asr(records):
    """At every ASR, a step has the best CA of the defenses whose ASR is as low; checked between all corners."""
    chance = random.Random(2)
    plain = next(iter(by_name(records).values()))
    for _ in range(30):
        pairs = [(chance.randrange(8) / 7, chance.randrange(8) / 7) for _ in range(6)]
        best = front(pairs)
        given = [plain._replace(ca=ca, asr=asr, front=(ca, asr) in best) for ca, asr in pairs]
        corners = front_line(given)
        if len(best) == 1:
            assert corners == []
            continue
        assert corners == sorted(corners), "to the right and up"
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in itertools.pairwise(corners)), "no slope"
        for (left, height), (right, _) in itertools.pairwise(corners):
            if left < right:
                middle = (left + right) / 2
                assert height == max(ca for ca, asr in pairs if asr <= middle)
