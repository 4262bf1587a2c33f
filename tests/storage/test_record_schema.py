"""One schema: own records and somebody's results file are refused alike, and every committed record is one."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from json_edits import ABSENT, set_at

from benchbd.errors import UsageError
from benchbd.plan.cell import Cell, identity
from benchbd.storage import record_schema, records, results_file

COMMITTED = sorted((Path(__file__).parents[2] / "leaderboard").glob("*.jsonl"))


def done(cell: Cell) -> dict[str, Any]:
    return records.blank(cell, "done") | {
        "ca": 0.9,
        "asr": 1,
        "detection": {
            "auroc": 0.7,
            **{"precision": 0.5, "recall": 0.2, "fpr": 0.25, "f1": 4 / 14},
            "confusion": {"tp": 2, "fp": 2, "fn": 8, "tn": 6},
        },
        "poison": {"count": 10, "share_of_set": 0.1, "share_of_target_class": None},
        "clean_asr": 0.25,
        "triggered": {"images": 20, "unchanged": 1, "gained": 16, "lost": 1, "target_images": 5},
        "asr_all": 0.96,
        "ca_non_target": 0.95,
        "time": {"total": 12.5, "own": 1.5, "stages": {"teacher": 3.0}},
        "trainings": {"full": 1},
        "data": {"train": "0" * 64, "test": "1" * 64, "files": None, "weights": None},
        "needs": ["clean"],
    }


WRONG: list[tuple[str, Any]] = [
    *[("id", value) for value in (None, 3, "", "../../x", "ab", "0123456789ABCDEF", "0" * 16)],
    *[(name, value) for name in ("dataset", "model", "attack", "defense") for value in (None, 3, "", "m" * 201, "x")],
    *[("seed", value) for value in (None, "0", 0.5, True, 5, 10**400)],
    *[("status", value) for value in (None, 3, [], "finished", "pending")],
    *[("error", value) for value in (3, [], {})],
    *[(name, value) for name in ("label", "matrix") for value in (None, 3, {})],
    *[
        (name, value)
        for name in ("ca", "asr", "ra", "clean_asr", "asr_all", "ca_non_target")
        for value in (True, "0.9", -0.1, 1.5, 10**400, math.inf, [])
    ],
    ("ca", None),
    *[(name, value) for name in ("params", "recipe", "spec", "time", "env", "notes") for value in (None, 3, [], "x")],
    *[(name, value) for name in ("artifacts", "sources", "trainings") for value in (None, 3, [])],
    *[(name, value) for name in ("detection", "poison", "triggered") for value in (3, [], "x")],
    *[(f"triggered.{name}", value) for name in ("images", "gained") for value in (1.5, -1, True, "many")],
    *[("triggered.unchanged", 21), ("triggered.gained", 20), ("triggered.lost", 2), ("clean_asr", 0.5)],
    *[("asr_all", 0.7), ("ca_non_target", 0.8), ("triggered.target_images", -1)],
    *[(f"detection.{name}", value) for name in ("precision", "recall", "fpr", "f1") for value in (0.3, None)],
    *[("detection.confusion", value) for value in (3, {}, {"tp": 1}, {"tp": -1, "fp": 0, "fn": 0, "tn": 0})],
    *[(name, value) for name in ("peak_memory_bytes", "epochs_trained") for value in ("many", -1, True, math.inf)],
    *[("needs", value) for value in (None, "clean", [3], {})],
    *[("control", value) for value in (None, 1, "yes")],
    *[(f"params.{kind}", value) for kind in ("dataset", "model", "attack", "defense") for value in (ABSENT, 3, [])],
    ("params.defense.beta", 0.5),
    ("recipe.epochs", 1),
    *[(f"time.{name}", value) for name in ("total", "own") for value in ("fast", -1, True, math.inf)],
    *[
        ("time.stages", value)
        for value in (ABSENT, None, [1], {"teacher": None}, {"teacher": "b"}, {"teacher": math.inf})
    ],
    *[(f"detection.{name}", value) for name in ("auroc", "precision", "recall") for value in ("high", 1.2, -1, True)],
    *[("poison.count", value) for value in ([], -1, "ten")],
    *[("poison.share_of_set", value) for value in ("all", True)],
    *[("poison.measured", value) for value in (3, [], {"gap": "small"}, {"gap": None}, {"gap": math.inf})],
    *[("data", value) for value in (3, [], "x")],
    *[(f"data.{name}", value) for name in record_schema.INPUTS for value in (3, "", "F" * 64, "0" * 63, [])],
    *[("trainings.full", value) for value in (None, "one", {"full": 1}, True)],
]
FIELDS = (
    *("id", "label", "matrix", "dataset", "attack", "defense", "model", "seed", "params", "recipe", "status", "error"),
    *("ca", "asr", "ra", "detection", "poison", "time", "peak_memory_bytes", "epochs_trained", "trainings", "env"),
    *("artifacts", "notes", "needs", "control", "spec", "sources"),
)
WRONG += [(name, ABSENT) for name in FIELDS]
FREE = (
    *[(name, value) for name in ("clean_asr", "triggered", "asr_all", "ca_non_target") for value in (ABSENT, None)],
    *[("detection.confusion", value) for value in (ABSENT, None)],
    *[("poison.measured", value) for value in (None, {}, {"gap": -0.1})],
    *[("triggered", {}), ("triggered", {"images": 0}), ("triggered.gained", ABSENT), ("triggered.unchanged", 20)],
)


def changed(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    record = json.loads(json.dumps(record))  # a deep copy would keep that spec and record share their parameters
    set_at(record, path, value)
    return record


@pytest.mark.parametrize(("path", "value"), WRONG, ids=lambda given: "absent" if given is ABSENT else repr(given)[:40])
def test_a_wrong_record_is_refused_by_both_readers_alike(cell: Cell, tmp_path: Path, path: str, value: Any) -> None:
    text = json.dumps(changed(done(cell), path, value)).replace("Infinity", "1e999")
    file = records.record_path(tmp_path, cell.id)
    file.parent.mkdir()
    file.write_text(text)
    assert records.read_record(tmp_path, cell.id) is None
    for place in (tmp_path, file.with_suffix(".jsonl")):
        if place != tmp_path:
            place.write_text(text + "\n")
        with pytest.raises(UsageError) as caught:
            results_file.load(place, identity)
        message = str(caught.value)
        assert message.startswith(f"{place}")
        assert path.split(".")[0] in message
        assert "\n" not in message
        assert len(message) < len(str(place)) + 300


@pytest.mark.parametrize(("name", "words"), [("asr_all", "has an asr_all"), ("ca_non_target", "has a ca_non_target")])
def test_a_contradicted_rate_has_the_right_article(cell: Cell, name: str, words: str) -> None:
    assert str(record_schema.fault(changed(done(cell), name, 0.7), identity)).startswith(f"{words} that its ")


@pytest.mark.parametrize(("path", "value"), FREE)
def test_fields_that_older_records_lack_are_optional(cell: Cell, path: str, value: Any) -> None:
    assert record_schema.fault(changed(done(cell), path, value), identity) is None


@pytest.mark.parametrize("text", ['{"id": NaN}', "{", "", "[1]", "3", "null", "[" * 100_000])
def test_what_is_no_record_at_all_is_refused_by_both(cell: Cell, tmp_path: Path, text: str) -> None:
    file = records.record_path(tmp_path, cell.id)
    file.parent.mkdir()
    file.write_text(text)
    assert records.read_record(tmp_path, cell.id) is None
    with pytest.raises(UsageError, match=f"{file}: "):
        results_file.load(tmp_path, identity)


def test_nan_in_a_note_is_refused_by_both(cell: Cell, tmp_path: Path) -> None:
    file = records.record_path(tmp_path, cell.id)
    file.parent.mkdir()
    file.write_text(json.dumps(done(cell) | {"notes": {"x": math.nan}}))
    assert records.read_record(tmp_path, cell.id) is None
    with pytest.raises(UsageError, match="NaN is not JSON"):
        results_file.load(tmp_path, identity)


def test_a_right_record_of_every_status_is_read_by_both(cell: Cell, tmp_path: Path) -> None:
    for status in record_schema.STATUSES:
        record = done(cell) if status == "done" else records.blank(cell, status, "why")
        records.write_record(tmp_path, record | {"attempts": 2, "of a later version": [1]})
        assert records.read_record(tmp_path, cell.id) == results_file.load(tmp_path, identity)[0]


def test_the_fields_are_those_of_a_blank_record(cell: Cell) -> None:
    assert set(FIELDS) | set(record_schema._OPTIONAL) == set(records.blank(cell, "failed"))
    assert set(FIELDS) == set(record_schema._FIELDS)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_every_committed_record_is_read_by_both(tmp_path: Path, path: Path) -> None:
    found = results_file.load(path, identity)
    assert found
    for record in found:
        records.write_record(tmp_path, record)
        assert records.read_record(tmp_path, record["id"]) == record
