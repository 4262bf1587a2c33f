"""Numbers of different code of a plugin stand in no table without a note."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from benchbd.plugins.source_digest import CODE
from benchbd.report import board
from benchbd.report.wording import TIMES

Make = Callable[..., dict[str, Any]]


def code(records: list[dict[str, Any]]) -> list[str]:
    """The notes on code, of all tables."""
    return [note for table in board(records).tables for note in table.notes if "different code" in note]


def sources(**others: str) -> dict[str, str]:
    return {kind: CODE + others.get(kind, "a") for kind in ("dataset", "model", "attack", "defense")}


def test_records_of_one_code_or_of_an_unknown_one_have_no_note(make_record: Make) -> None:
    for fields in ({}, {"sources": None}, {"sources": sources()}):
        assert code([make_record("bn-g", d, s, **fields) for d in ("none", "lfd") for s in (0, 1)]) == []
    seeds = [{"defense": "a"}, {"defense": CODE + "b"}, {}]
    assert code([make_record("bn-g", "lfd", s, sources=given) for s, given in enumerate(seeds)]) == []
    failed = make_record("bn-g", "lfd", 1, status="failed", error="no", sources=sources(defense="b"))
    assert code([make_record("bn-g", "lfd", 0, sources=sources()), failed]) == []
    plain = make_record("bn-g", "none", 0, sources=sources(defense="b"))
    assert code([make_record("bn-g", "lfd", 0, sources=sources()), plain]) == [], "two plugins have two codes"


@pytest.mark.parametrize(
    ("kind", "name"),
    [("defense", "Defense lfd"), ("attack", "Attack bn-g"), ("model", "Model"), ("dataset", "Data set")],
)
def test_a_mean_over_seeds_of_two_codes_has_a_note(make_record: Make, kind: str, name: str) -> None:
    records = [make_record("bn-g", "lfd", s, sources=sources(**({kind: "b"} if s == 2 else {}))) for s in range(3)]
    (note,) = code(records)
    assert note.startswith(f"{name} ")
    assert f": bn-g {TIMES} lfd seed 2. benchbd run --rerun stale" in note


def test_variants_of_a_plugin_are_compared_too(make_record: Make) -> None:
    records = [make_record("bn-g", "lfd", s, sources=sources()) for s in (0, 1, 2)]
    changed = {"given": {"defense": {"beta": 0.5}}, "sources": sources(defense="b")}
    records += [make_record("bn-g", "lfd", s, **changed) for s in (0, 1)]
    (note,) = code(records)
    assert "seeds 0, 1." in note


def test_plugins_that_others_use_are_compared_too(make_record: Make) -> None:
    used = [{"model resnet-s": CODE + digest} for digest in "aab"]
    records = [make_record("bn-g", "lfd", s, sources=sources(), other_sources=u) for s, u in enumerate(used)]
    (note,) = code(records)
    assert note.startswith("Model resnet-s ")
    assert f": bn-g {TIMES} lfd seed 2. " in note
    assert code([*records[:2], make_record("bn-g", "lfd", 2, sources=sources())]) == []
