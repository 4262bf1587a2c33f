"""DER, TPR, FPR, F1 and other definitions of ASR and CA, by hand counts."""

from __future__ import annotations

import pytest

from benchbd.cli import main
from benchbd.errors import UsageError
from benchbd.report import board
from benchbd.report.compare import compare, failures, parse_limit
from benchbd.report.definitions import Definitions
from benchbd.report.der import rating, ratings
from benchbd.report.isolation import rates_of
from benchbd.report.pools import pools_of
from benchbd.report.wording import DASH
from benchbd.storage import results_file


def cells(made, title):
    """The cells of the table whose title begins so: by row label, then by heading."""
    table = next(t for t in made.tables if t.title.startswith(title))
    return {row.label: dict(zip([c.label for c in table.columns], row.cells, strict=False)) for row in table.rows}


@pytest.mark.parametrize(
    ("before", "after", "by_hand"),
    [
        ((0.9, 1.0), (0.9, 0.0), 1.0),  # perfect
        ((0.9, 1.0), (0.9, 1.0), 0.5),  # no effect
        ((0.9, 1.0), (0.1, 1.0), 0.1),  # costs 80 points and takes nothing
        ((0.9, 0.9), (0.8, 0.1), 0.85),  # (0.8 - 0.1 + 1) / 2; the wrong sign would give 0.95
        ((0.9, 0.1), (0.95, 0.6), 0.5),  # a higher ASR or CA does not count
    ],
)
def test_der_by_hand(before, after, by_hand):
    assert rating(before, after) == pytest.approx(by_hand)


def test_der_pairs_seeds_rows_and_data(make_record):
    one, other = {"train": "0" * 64, "test": "1" * 64}, {"train": "2" * 64, "test": "1" * 64}
    records = [
        make_record("bn-g", "none", 0, 0.9, 1.0),
        make_record("bn-g", "none", 1, 0.8, 0.5, data=one),
        make_record("sig", "none", 0, 0.7, 0.9),
        make_record("bn-g", "lfd", 0, 0.8, 0.2),  # (0.8 - 0.1 + 1) / 2
        make_record("bn-g", "lfd", 1, 0.8, 0.1, data=other),  # not the data of its undefended cell
        make_record("bn-g", "lfd", 2, 0.8, 0.1),  # no undefended cell
        make_record("sig", "lfd", 0, 0.7, 0.5),  # (0.4 - 0 + 1) / 2
        make_record("none", "lfd", 0, 0.7),
        make_record("sig", "ac", 0, status="failed"),
    ]
    by_hand = {records[3]["id"]: pytest.approx(0.85), records[6]["id"]: pytest.approx(0.7)}
    assert ratings(records) == by_hand
    summary = cells(board(records), "Summary")
    assert summary["lfd"]["DER, mean"].value == pytest.approx((0.85 + 0.7) / 2)
    assert (summary["none"]["DER, mean"].value, summary["ac"]["DER, mean"].value) == (None, None)
    newer = make_record("bn-g", "none", 0, 0.9, 0.5, version=2)  # of another version of the attack too
    assert ratings([*records, newer]) == by_hand


def test_compare_has_the_change_of_der(make_record, tmp_path, capsys):
    before = [make_record(ca=0.9, asr=1.0), make_record(defense="lfd", ca=0.9, asr=0.0)]
    after = [before[0], make_record(defense="lfd", ca=0.8, asr=0.2)]
    found = compare(before, after)
    plain, defended = (line.changes["der"] for line in found.lines)
    assert plain is None
    assert defended.mean == pytest.approx(-15)  # from 1 to (0.8 - 0.1 + 1) / 2
    (broken,) = failures(found, [parse_limit("der:-10")])
    assert "der -15.00 (limit -10)" in broken
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl")]
    for file, records in zip(files, (before, after), strict=True):
        results_file.write(records, file)
    assert main(["compare", *map(str, files)]) == 0
    assert "DER" in capsys.readouterr().out


def test_flagged_samples_have_rates_in_old_records_and_new(make_record):
    # Of 50,000 samples, 5,000 are poisoned; 2,000 are flagged, 1,500 of them rightly.
    old = make_record(detection={"auroc": 0.8, "precision": 0.75, "recall": 0.3, "flagged": 2000})
    by_hand = {"precision": 0.75, "recall": 0.3, "fpr": pytest.approx(500 / 45000), "f1": pytest.approx(3000 / 7000)}
    assert rates_of(old) == by_hand
    new = make_record(detection={"precision": 0.75, "recall": 0.3, "fpr": 0.25, "f1": 0.5, "flagged": 2000})
    assert rates_of(new) == {"precision": 0.75, "recall": 0.3, "fpr": 0.25, "f1": 0.5}
    nothing = make_record(detection={"auroc": 0.8, "precision": None, "recall": 0.0, "flagged": 0})
    assert rates_of(nothing) == {"precision": None, "recall": 0.0, "fpr": 0.0, "f1": 0.0}
    scores = make_record(detection={"auroc": 0.8, "precision": None, "recall": None})
    for record in (scores, make_record(), make_record(detection={"flagged": "many"}), make_record("none", "ac")):
        assert set(rates_of(record).values()) == {None}
    summary = cells(board([make_record(), {**old, "defense": "ac"}]), "Summary")
    assert [summary["ac"][name].display for name in ("TPR", "FPR", "F1")] == ["0.300", "0.011", "0.429"]
    assert summary["none"]["TPR"].note == "the defense flags no samples"


@pytest.mark.parametrize("share", [0.0, 1.5, 1e-15, 1e-300, 5e-324, 1e300])
def test_a_share_that_no_set_has_gives_no_rates(make_record, share):
    detection = {"auroc": 0.8, "precision": 0.75, "recall": 0.3, "flagged": 2000}
    record = make_record(detection=detection, poison={"count": 5000000, "share_of_set": share})
    assert rates_of(record) == {"precision": 0.75, "recall": 0.3, "fpr": None, "f1": None}
    board([make_record(), {**record, "defense": "ac"}])


def test_a_table_has_one_definition_and_says_which(make_record):
    others = {"asr_all": 0.91, "ca_non_target": 0.85}
    records = [make_record(seed=s, ca=0.9, asr=0.9, **others) for s in (0, 1)]
    records += [make_record(defense="lfd", ca=0.8, asr=0.1, asr_all=0.19, ca_non_target=0.7)]
    records += [make_record(defense="ac", ca=0.5, asr=0.5)]  # of an older version
    usual = board(records)
    table = cells(usual, "cifar10")
    assert {"CA", "ASR"} <= set(table["bn-g"])
    other = board(records, definitions=Definitions("all", "non-target"))
    (table, _) = other.tables
    assert [c.label for c in table.columns][:2] == ["CA (non-target)", "ASR (all)"]
    shown = dict(zip([(c.group, c.label) for c in table.columns], table.rows[0].cells, strict=True))
    assert shown["none", "ASR (all)"].value == pytest.approx(0.91)
    assert shown["none", "CA (non-target)"].value == pytest.approx(0.85)
    for metric in ("ASR (all)", "CA (non-target)"):
        assert (shown["ac", metric].value, shown["ac", metric].display) == (None, DASH)
        assert "did not measure it" in shown["ac", metric].note
    summary = cells(other, "Summary")
    assert summary["lfd"]["ASR (all), worst"].value == pytest.approx(0.19)
    # DER is of the same definitions: (0.91 - 0.19 - (0.85 - 0.7) + 1) / 2.
    assert summary["lfd"]["DER, mean"].value == pytest.approx((0.72 - 0.15 + 1) / 2)
    assert summary["ac"]["DER, mean"].value is None
    assert len(other.reading) == len(usual.reading) + 3
    with pytest.raises(UsageError, match="leave out --asr-over and --ca-over"):
        board(records, paper=True, definitions=Definitions("all"))


def test_pools_of_a_record_and_notes_of_that_name_that_are_not_pools():
    pools = [
        {"name": "clean", "epoch": 1, "size": 10, "poisoned": 1},
        {"name": "first", "epoch": None, "size": 0, "poisoned": 0},
        {"name": "clean", "epoch": 2, "size": 20, "poisoned": 5},
    ]
    found = pools_of({"notes": {"pools": pools}})
    assert {name: [pool.purity for pool in same] for name, same in found.items()} == {
        "clean": [0.9, 0.75],
        "first": [None],
    }
    for wrong in (None, 3, "x", [3], [{}], [{**pools[0], "poisoned": 11}], [{**pools[0], "size": "10"}]):
        assert pools_of({"notes": {"pools": wrong}}) == {}
