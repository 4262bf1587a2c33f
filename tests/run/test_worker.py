"""What a worker process does around a cell."""

from __future__ import annotations

import argparse
import io
import sys
from typing import Any

import pytest

from benchbd.run.workers.one_cell import run_one

SETTINGS = argparse.Namespace(output="out", data=None, device="cpu", plugin=[])


class Full(io.StringIO):
    """A stream onto a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_log_on_a_full_disk_does_not_end_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*given: Any, **named: Any) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Full())
        status, reason, recorded = run_one(execute, {"cell": {}}, SETTINGS, lambda event: None)
    assert (status, recorded) == ("failed", False)
    assert "No space left on device" in reason, "by which the run knows that the cell is not to blame"
