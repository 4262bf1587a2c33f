"""What a cell says: every line that a program prints stays in the log, and nothing of it takes the run's time."""

from __future__ import annotations

import json
import os

import pytest

from benchbd.run.workers.cell_process import _Messages


def test_printed_lines_go_to_the_log_alone(capsys: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()
    messages = _Messages(write)
    for _ in range(2):
        messages.event({"event": "log", "line": "printed", "quiet": True})
    for _ in range(2):
        messages.event({"event": "stage", "stage": "train"})
    messages.event({"event": "log", "line": "for the user, too"})
    os.close(write)
    with os.fdopen(read) as pipe:
        sent = [json.loads(line) for line in pipe]
    lines = [line.partition(" ")[2] for line in capsys.readouterr().out.splitlines()]
    assert lines == ["printed", "printed", "train", "for the user, too"]
    assert [event["event"] for event in sent] == ["stage", "stage", "log"]
