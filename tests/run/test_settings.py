"""The small languages of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchbd.errors import UsageError
from benchbd.run.settings import (
    RunSettings,
    Shard,
    duration_text,
    parse_duration,
    parse_gpus,
    parse_shard,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("45s", 45),
        ("25m", 1500),
        ("2h", 7200),
        ("1h30m", 5400),
        ("1d", 86400),
        ("0.5h", 1800),
        (" 2H ", 7200),
        ("1m30", 90),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-5m", "h", "2x", "2h2h", "30m1h", "1e3", "nan", "inf", "٣m", "9" * 30]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        parse_duration(text, "--budget")


@given(st.integers(1, 10**7))
def test_duration_text_reads_back_within_its_precision(seconds: int) -> None:
    back = parse_duration(duration_text(seconds))
    step = 1 if seconds < 3600 else 60 if seconds < 86400 else 3600
    assert 0 <= seconds - back < step


def test_shards() -> None:
    assert parse_shard("2/8") == Shard(2, 8)
    for text in ("0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/5", "1.0/4"):
        with pytest.raises(UsageError, match="--shard"):
            parse_shard(text)


def test_gpus() -> None:
    assert parse_gpus("0, 2") == ("0", "2")
    assert parse_gpus("GPU-8f2e-1,MIG-aa/1/0") == ("GPU-8f2e-1", "MIG-aa/1/0")
    for text in ("", "0,", "0,0", "zero", "0;1", "-1"):
        with pytest.raises(UsageError, match="--gpus"):
            parse_gpus(text)


@pytest.mark.parametrize(
    "wrong",
    [{"jobs": 0}, {"threads": -1}, {"timeout": 0.0}, {"jobs_per_gpu": 0}, {"retries": -1}, {"executor": "dask"}],
)
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"--{next(iter(wrong)).replace('_', '-')}"):
        RunSettings(output=Path(), **wrong)
