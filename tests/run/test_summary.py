"""The lines at the end of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchbd.run.outcome import Outcome
from benchbd.run.settings import RunSettings
from benchbd.run.summary import summary


@pytest.mark.parametrize(
    ("statuses", "line"),
    [
        ({"a": "failed"}, "run them again: benchbd run m.yaml"),
        ({"a": "failed", "b": "timeout"}, "run them again, with a longer --timeout: benchbd run m.yaml"),
        ({"a": "lost"}, None),
    ],
)
def test_cells_out_of_time_need_a_longer_limit(tmp_path: Path, statuses: dict[str, str], line: str | None) -> None:
    outcome = Outcome(statuses=statuses, reasons={}, ran=[], seconds=1.0)
    text = summary(outcome, {}, RunSettings(output=tmp_path), again="benchbd run m.yaml")
    assert [found for found in text.splitlines() if found.startswith("run them")] == ([line] if line else [])
