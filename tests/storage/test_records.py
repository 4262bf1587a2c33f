"""Records: what is written is read back, and what is not right counts as not there."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
from fuzzing import examples, in_time
from hypothesis import given, settings
from hypothesis import strategies as st
from json_edits import ABSENT, set_at
from toy_matrices import ONE_CELL

from benchbd.cli.common import find_record
from benchbd.cli.show import _rows
from benchbd.errors import BenchbdError, UsageError
from benchbd.plan import matrix
from benchbd.plan.cell import Cell, identity
from benchbd.storage import record_schema, records

FIXED = (
    *("id", "dataset", "attack", "defense", "model", "seed", "params", "recipe", "status", "error", "ca", "asr", "ra"),
    *("detection", "poison", "time", "peak_memory_bytes", "epochs_trained", "env", "artifacts"),
    *("label", "matrix", "trainings", "notes", "needs", "control", "spec", "sources"),
)

FREE = ("artifacts", "detection", "env", "notes", "poison", "sources", "trainings")
"""Fields that may hold any mapping."""


def done(cell: Cell) -> dict[str, Any]:
    return records.blank(cell, "done") | {
        "ca": 0.9,
        "asr": 0.99,
        "ra": 0.01,
        "detection": {"auroc": 0.7, "precision": 0.5, "recall": None, "flagged": 3},
        "poison": {"count": 10, "share_of_set": 0.1, "share_of_target_class": 0.5},
        "time": {"total": 12.5, "own": 1.5, "stages": {"teacher": 3.0, "full": 9.5}},
        "peak_memory_bytes": 2**30,
        "epochs_trained": 25,
        "env": {"versions": {"python": "3.11"}, "git": {"commit": None, "dirty": None}, "threads": 1},
    }


def test_a_blank_record_has_every_field_and_is_a_record(cell: Cell, tmp_path: Path) -> None:
    blank = records.blank(cell, "failed", "no reason")
    assert set(FIXED) <= set(blank)
    records.write_record(tmp_path, blank)
    assert records.read_record(tmp_path, cell.id) == blank
    assert [p.name for p in (tmp_path / "records").iterdir()] == [f"{cell.id}.json"]


def test_a_record_comes_back_and_the_next_one_takes_its_place(cell: Cell, tmp_path: Path) -> None:
    assert records.read_record(tmp_path, cell.id) is None
    records.write_record(tmp_path, records.blank(cell, "killed"))
    records.write_record(tmp_path, done(cell))
    assert records.read_record(tmp_path, cell.id) == done(cell)


def test_no_odd_note_costs_the_cell_it_was_made_in(cell: Cell, tmp_path: Path) -> None:
    notes = {
        "nan": math.nan,
        "inf": [1.0, -math.inf],
        "scalar": np.float32(0.5),
        "flag": np.bool_(True),
        "array": np.arange(3),
        "nan array": np.array([1.0, math.nan]),
        3: (1, 2),
        "path": Path("/x"),
        "set": {1},
    }
    records.write_record(tmp_path, done(cell) | {"notes": notes})
    read = records.read_record(tmp_path, cell.id)
    assert read is not None
    assert read["notes"] == {
        "nan": None,
        "inf": [1.0, None],
        "scalar": 0.5,
        "flag": True,
        "array": [0, 1, 2],
        "nan array": [1.0, None],
        "3": [1, 2],
        "path": "/x",
        "set": "{1}",
    }


@pytest.mark.parametrize(
    "name",
    ["", "../../etc/passwd", "/etc/passwd", "0" * 15, "0" * 17, "0123456789ABCDEF", "0" * 15 + "\0", "x" * 10_000],
)
def test_ids_that_are_none_name_no_file(tmp_path: Path, name: str) -> None:
    for use in (lambda: records.record_path(tmp_path, name), lambda: records.read_record(tmp_path, name)):
        with pytest.raises(UsageError, match="is not a cell ID") as caught:
            use()
        assert len(str(caught.value)) < 120
    with pytest.raises(UsageError, match="is not a cell ID"):
        records.write_record(tmp_path, {"id": name})
    assert list(tmp_path.iterdir()) == []


def broken(record: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    record = copy.deepcopy(record)
    set_at(record, path, value)
    return record


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *[(name, ABSENT) for name in FIXED],
        *[(name, {"a": []}) for name in FIXED if name not in FREE],
        ("id", "0" * 16),
        ("status", "fine"),
        ("seed", 1),
        ("seed", True),
        ("ca", True),
        pytest.param("ca", 10**400, id="huge"),
        ("ca", math.nan),
        ("asr", math.inf),
        ("time.total", "fast"),
        ("time.stages", [1]),
        ("time.stages.teacher", None),
        ("detection.auroc", "high"),
        ("poison.count", []),
        ("defense", "lfd"),
        ("params.defense.beta", 0.5),
        ("params.defense", ABSENT),
        ("recipe.epochs", 1),
        ("spec.defense.params.beta", 0.5),
        ("spec.seed", 1),
        ("spec", None),
    ],
)
def test_a_record_that_is_not_right_counts_as_none(cell: Cell, tmp_path: Path, path: str, value: Any) -> None:
    records.write_record(tmp_path, done(cell))
    file = records.record_path(tmp_path, cell.id)
    file.write_text(json.dumps(broken(done(cell), path, value)))
    assert records.read_record(tmp_path, cell.id) is None


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"null", b"[]", b"3", b"\xff\xfe", b"\0" * 100, b"[" * 100_000, b"9" * 5000, b'{"id": NaN}', b"{}"],
    ids=lambda data: repr(data[:8]),
)
def test_a_file_that_is_no_record_counts_as_none(cell: Cell, tmp_path: Path, data: bytes) -> None:
    file = records.record_path(tmp_path, cell.id)
    file.parent.mkdir()
    file.write_bytes(data)
    assert records.read_record(tmp_path, cell.id) is None
    with pytest.raises(UsageError, match="is damaged; benchbd run computes it again"):
        find_record(tmp_path, cell.id[:6])


def test_a_truncated_record_counts_as_none(cell: Cell, tmp_path: Path) -> None:
    records.write_record(tmp_path, done(cell))
    file = records.record_path(tmp_path, cell.id)
    whole = file.read_bytes()
    for length in range(0, len(whole) - 2, 97):
        file.write_bytes(whole[:length])
        assert records.read_record(tmp_path, cell.id) is None


def test_links_are_not_followed_neither_in_reading_nor_in_writing(cell: Cell, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text(json.dumps(done(cell)))
    before = outside.read_bytes()
    output = tmp_path / "out"
    file = records.record_path(output, cell.id)
    file.parent.mkdir(parents=True)
    file.symlink_to(outside)
    assert records.read_record(output, cell.id) is None
    records.write_record(output, records.blank(cell, "failed"))
    assert not file.is_symlink()
    assert outside.read_bytes() == before


# -- finding one


def test_a_record_is_found_by_id_by_its_start_and_by_label(cell: Cell, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no records in"):
        find_record(tmp_path, cell.id)
    records.write_record(tmp_path, done(cell))
    (tmp_path / "records" / "notes.json").write_text("{}")
    for wanted in (cell.id, cell.id[:4], cell.label):
        assert find_record(tmp_path, wanted)["id"] == cell.id
    for wanted in ("", "zz", "../records", "\0", "x" * 10_000):
        with pytest.raises(UsageError, match=r"no cell .* among the 1 record ") as caught:
            find_record(tmp_path, wanted)
        assert len(str(caught.value)) < 300


def test_a_name_that_fits_several_records_is_refused(toys: Path, tmp_path: Path) -> None:
    cells = [matrix.resolve(matrix.parse(ONE_CELL, "m"), "m", sets=[f"epochs={i}"]).cells[0] for i in range(40)]
    assert len({c.label for c in cells}) == 1, "the recipe is not in the label"
    for each in cells:
        records.write_record(tmp_path, done(each))
    with pytest.raises(UsageError, match=r"matches 40 cells \(.*, \.\.\.\); give more of the ID"):
        find_record(tmp_path, cells[0].label)
    digit = max("0123456789abcdef", key=lambda d: sum(c.id.startswith(d) for c in cells))
    with pytest.raises(UsageError, match=f"'{digit}' matches"):
        find_record(tmp_path, digit)


# -- fuzz

ODD: list[Any] = [
    *(None, True, False, 0, -1, 2**63, 10**30, 1e308, -0.0, "", "x", "../../x", "\0", "\ud800", "x" * 10_000, [], {}),
    *([[]], {"": {}}, {"id": "x"}, [None] * 50, math.nan, math.inf, "done", "0" * 16),
]


def mutate(value: Any, rng: random.Random) -> Any:
    """Replace, remove or rename something at a random place."""

    def change(value: Any, key: Any) -> bool:
        how = rng.randrange(8)
        if how == 0:
            del value[key]
        elif how == 1 and isinstance(value, dict):
            value[rng.choice(["", "x", "id", "name", "\0", "__class__", "../x"])] = value.pop(key)
        else:
            return False
        return True

    return fuzzing.mutate(value, rng, ODD, change)


def test_a_thousand_mutated_records_are_read_or_refused_and_nothing_is_written(
    cell: Cell, tmp_path: Path, writes_nothing_outside: Callable[[Path], AbstractContextManager[None]]
) -> None:
    whole = done(cell)
    text = json.dumps(whole).encode()
    file = records.record_path(tmp_path, cell.id)
    file.parent.mkdir()
    seen: list[bool] = []

    @settings(max_examples=examples(2_200), deadline=None, derandomize=True, database=None)
    @given(st.integers(0, 2**64))
    def fuzz(seed: int) -> None:
        rng = random.Random(seed)
        if rng.random() < 0.6:
            found: Any = whole
            for _ in range(rng.choice((1, 1, 2))):
                found = mutate(found, rng)
            file.write_text(json.dumps(found))
        else:
            at = rng.randrange(len(text))
            file.write_bytes(text[:at] + rng.randbytes(rng.randrange(8)) + text[at + rng.randrange(20) :])
        with in_time():
            record = records.read_record(tmp_path, cell.id)
        seen.append(record is not None)
        if record is not None:
            # What is let through can be shown, and is what its id says.
            assert record_schema.fault(record, identity) is None
            assert all(isinstance(k, str) and isinstance(v, str) for k, v in _rows(record))
        try:
            loaded = json.loads(file.read_bytes())
        except (ValueError, RecursionError):
            return
        with contextlib.suppress(BenchbdError):
            Cell.from_json(loaded)

    with writes_nothing_outside(tmp_path):
        fuzz()
    assert len(seen) >= 1_000
    assert 50 < sum(seen) < len(seen) / 2, "some must pass (harmless notes), most must not"
