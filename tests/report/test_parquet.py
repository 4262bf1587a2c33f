"""Records as a Parquet table: exact values, one type for each column, IDs as text."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from benchbd.cli import main

RESULTS = Path(__file__).parents[2] / "leaderboard" / "results.jsonl"


def test_every_record_comes_back_exactly(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    monkeypatch.chdir(tmp_path)
    assert main(["leaderboard", "--results", str(RESULTS), "--format", "parquet", "--write", "all.parquet"]) == 0
    assert capsys.readouterr().out == "all.parquet\n"
    table = pyarrow.parquet.read_table("all.parquet")
    rows = {row["id"]: row for row in table.to_pylist()}
    records = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    assert rows.keys() == {record["id"] for record in records}
    for record in records:
        row = rows[record["id"]]
        for name in ("label", "matrix", "seed", "status", "ca", "asr", "ra", "clean_asr"):
            assert row[name] == record.get(name), name
        assert row["time.total"] == record["time"]["total"]
    types = {field.name: str(field.type) for field in table.schema}
    assert types["id"] == types["label"] == types["error"] == "string"
    assert types["seed"] == "int64"
    assert types["ca"] == "double"


def test_ids_of_digits_stay_text_in_pandas(tmp_path):
    pytest.importorskip("pyarrow")
    import pandas as pd

    from benchbd.report.parquet import as_parquet

    ids = ["0000123456789012", "12345678901234e5", "1234567890123456"]
    records = [
        {"id": name, "odd": value, "seed": n} for n, (name, value) in enumerate(zip(ids, (1, "x", 2.5), strict=True))
    ]
    as_parquet(records, tmp_path / "t.parquet")
    frame = pd.read_parquet(tmp_path / "t.parquet")
    assert list(frame["id"]) == ids
    assert list(frame["odd"]) == ["1", "x", "2.5"]
    assert frame["ca"].dtype == "float64"


def test_what_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = ["leaderboard", "--results", str(RESULTS), "--format", "parquet"]
    assert main(given) == 2
    assert "is for --write FILE only" in capsys.readouterr().err
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else real(name))
    assert main([*given, "--write", "t.parquet"]) == 2
    assert capsys.readouterr().err == "benchbd: --format parquet needs pyarrow; pip install 'benchbd[parquet]'\n"
    assert not Path("t.parquet").exists()
