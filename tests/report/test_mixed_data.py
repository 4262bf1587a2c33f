"""Numbers of different data stand in no table without a sign, in no format, and win nothing."""

from __future__ import annotations

import json

import pytest

from benchbd.report import board
from benchbd.report.mixed_data import OTHER_DATA
from benchbd.report.wording import TIMES


def data(train="a", test="b", weights=None):
    return {"train": train * 64, "test": test * 64, "files": None, "weights": weights and weights * 64}


def tables(records):
    return board(records).tables


def marked(table):
    return {row.label: row.mark for row in table.rows if OTHER_DATA in row.mark}


def test_records_of_one_version_or_of_none_are_not_marked(make_record):
    for fields in ({}, {"data": None}, {"data": data()}):
        found = tables(
            [make_record(a, d, s, **fields) for a in ("bn-g", "sig") for d in ("none", "lfd") for s in (0, 1)]
        )
        assert OTHER_DATA not in str(found)
    old, new = make_record("bn-g", "none"), make_record("bn-g", "lfd", data=data())
    assert OTHER_DATA not in str(tables([old, new])), "an old record says nothing"


@pytest.mark.parametrize(
    ("other", "what"),
    [(data(train="c"), "training set"), (data(test="c"), "test set"), (data(weights="c"), "initial weights")],
)
def test_a_cell_of_other_data_is_marked_and_named(make_record, other, what):
    records = [
        make_record(a, d, s, data=data()) for a in ("bn-g", "sig") for d in ("none", "lfd", "ac") for s in (0, 1)
    ]
    for record in records:
        if (record["attack"], record["defense"]) == ("bn-g", "ac"):
            record |= {"data": other, "ca": 0.99, "asr": 0.01}
    table, summary = tables(records)
    assert marked(table) == {"bn-g": OTHER_DATA}
    assert sum(OTHER_DATA in cell.display for row in table.rows for cell in row.cells if row.kind == "body") == 2
    (note,) = (note for note in table.notes if note.startswith(OTHER_DATA))
    assert f"bn-g {TIMES} ac seeds 0, 1 (another {what})" in note
    rows = {row.label: row for row in table.rows}
    assert not any(cell.best for cell in rows["bn-g"].cells), "nothing wins a row of different data"
    average = next(row for row in table.rows if row.kind == "average")
    assert [OTHER_DATA in cell.display for cell in average.cells] == [c.tag == "ac" for c in table.columns]
    assert not any(cell.best for cell in average.cells)
    assert marked(summary) == {"ac": OTHER_DATA}
    assert not any(cell.best for row in summary.rows for cell in row.cells)


def test_a_mean_over_seeds_of_two_versions_is_marked(make_record):
    records = [make_record(seed=s, data=data(train="c" if s == 2 else "a")) for s in range(3)]
    table = tables(records)[0]
    assert all(cell.display.endswith(OTHER_DATA) for cell in table.rows[0].cells)
    assert any(f"bn-g {TIMES} none seed 2 (another training set)" in note for note in table.notes)


def test_failed_records_do_not_count(make_record):
    records = [make_record(data=data()), make_record(defense="lfd", status="failed", error="no", data=data(train="c"))]
    assert OTHER_DATA not in str(tables(records))


def test_a_sign_joins_that_of_the_gate(make_record):
    records = [make_record(asr=0.1, data=data()), make_record(defense="lfd", data=data(train="c"))]
    table = tables(records)[0]
    assert table.rows[0].mark == f"†{OTHER_DATA}"
    assert sum(note.startswith(("†", OTHER_DATA)) for note in table.notes) == 2


@pytest.mark.parametrize(("fmt", "sign"), [("md", "§"), ("csv", "§"), ("json", "§"), ("html", "§"), ("latex", "\\S{}")])
def test_every_format_shows_the_sign_and_the_note(make_record, fmt, sign):
    text = board([make_record(data=data()), make_record(defense="lfd", data=data(train="c"))]).render(fmt)
    if fmt == "json":
        text = json.dumps(json.loads(text), ensure_ascii=False)
    assert text.count(sign) > 2
    if fmt != "csv":
        assert "measured on different data than the rest" in text
