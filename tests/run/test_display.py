"""What people see while cells run."""

from __future__ import annotations

import io
import re
import time
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from benchbd.core.events import log_line
from benchbd.errors import UsageError
from benchbd.run.display import choose
from benchbd.run.display.base import NoDisplay
from benchbd.run.display.choose import make_display
from benchbd.run.display.plain import PlainDisplay
from benchbd.run.display.rich import RichDisplay
from benchbd.run.outcome import Outcome


def facts(**changes: Any) -> Any:
    base = {"total": 5, "left": 3, "running": {}, "counts": {"done": 2}, "eta": lambda: 90.0, "cells": {}, "kept": {}}
    return SimpleNamespace(**{**base, **changes})


def play(display: Any) -> None:
    display.begin(facts(), "5 cells to run")
    display.event("a", "digits/net/bn-g/lfd/s0", {"event": "started", "where": "cpu0", "slot": 0})
    display.event("a", "digits/net/bn-g/lfd/s0", {"event": "stage", "stage": "teacher"})
    display.event(
        "a", "digits/net/bn-g/lfd/s0", {"event": "progress", "stage": "teacher", "epoch": 3, "epochs": 12, "loss": 0.25}
    )
    display.event("a", "digits/net/bn-g/lfd/s0", {"event": "log", "line": "artifact model/ab is damaged; dropped"})
    display.event("a", "digits/net/bn-g/lfd/s0", {"event": "log", "line": "Traceback:\n  of many\n  lines"})
    display.event("a", "digits/net/bn-g/lfd/s0", {"event": "warning", "warning": "dynamic: weak generators"})
    display.note("cpu1: worker replaced")
    display.tick()


def test_plain_lines() -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append, heartbeat=0.0)
    play(display)
    display.ended("a", "digits/net/bn-g/lfd/s0", "done", "", 62.0, {"ca": 0.9123, "asr": 0.5})
    display.ended("b", "other", "killed", "killed by signal 9", 1.0, None)
    display.tick()
    bare = [re.sub(r"^\d\d:\d\d:\d\d ", "", line) for line in lines]
    assert bare == [
        "5 cells to run",
        "start  digits/net/bn-g/lfd/s0  [a] on cpu0",
        "note   artifact model/ab is damaged; dropped  [a]",
        "note   dynamic: weak generators  [a]",
        "note   cpu1: worker replaced",
        "still  digits/net/bn-g/lfd/s0: teacher 3/12 loss 0.250",
        "2/5 done   digits/net/bn-g/lfd/s0  CA 0.912  ASR 0.500  in 1m02s  (about 1m30s left)",
        "2/5 killed other  killed by signal 9  in 1s  (about 1m30s left)",
    ]


def test_plain_lines_say_what_the_first_cells_wait_for_once() -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append, heartbeat=0.0)
    for cell, slot in (("a", "cpu0"), ("b", "cpu1")):
        display.event(cell, f"digits/net/bn-g/{cell}/s0", {"event": "starting", "where": slot})
    display.event("a", "digits/net/bn-g/a/s0", {"event": "started", "where": "cpu0", "slot": 0})
    display.tick()
    assert [line[9:] for line in lines] == [
        "note   the workers load PyTorch before the first cell starts",
        "start  digits/net/bn-g/a/s0  [a] on cpu0",
        "still  digits/net/bn-g/a/s0; digits/net/bn-g/b/s0: loading PyTorch",
    ]


def test_the_heartbeat_comes_only_after_a_silence() -> None:
    lines: list[str] = []
    display = PlainDisplay(lines.append, heartbeat=60.0)
    play(display)
    assert not any("still" in line for line in lines)


@pytest.fixture
def screen() -> Any:
    return Console(file=io.StringIO(), force_terminal=True, width=160, color_system=None, legacy_windows=False)


def frame(display: RichDisplay, screen: Console) -> str:
    """What the live table shows at this moment."""
    with screen.capture() as captured:
        screen.print(display._render())
    return captured.get()


def test_the_live_table_shows_slots_and_the_whole(screen: Console) -> None:
    display = RichDisplay(screen)
    play(display)
    row = display._rows["a"]
    assert row.first is not None
    row.first = row.first._replace(at=time.monotonic() - 30)
    display.event("a", "", {"event": "progress", "stage": "teacher", "epoch": 6, "epochs": 12, "images": 6000})
    text = frame(display, screen)
    for part in (
        "cpu0",
        "digits/net/bn-g/lfd/s0",
        "teacher",
        "6/12",
        "1m00s",
        "0.250",
        "200/s",
        "1m30s",
        "2/5",
        "2 done",
        "about 1m30s left",
    ):
        assert part in text, part
    display.ended("a", "digits/net/bn-g/lfd/s0", "done", "", 62.0, {"ca": 0.9, "asr": None})
    assert "digits/net/bn-g/lfd/s0" not in frame(display, screen)
    display.end(Outcome({}, {}, [], 1.0))
    printed = screen.file.getvalue()  # type: ignore[union-attr]
    assert "CA 0.900" in printed
    assert "worker replaced" in printed
    assert "artifact model/ab is damaged" in printed
    assert "digits/net/bn-g/lfd/s0: dynamic: weak generators" in printed
    assert "of many" not in printed


def test_the_time_left_is_computed_once_a_second_and_when_a_cell_ends(
    screen: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For thousands of cells it takes 13 ms, and the table is drawn four times a second."""
    now, asked = [100.0], []

    def eta() -> float:
        asked.append(now[0])
        return 60.0 * len(asked)

    display = RichDisplay(screen)
    display._facts = facts(eta=eta)
    monkeypatch.setattr("benchbd.run.display.rich.time.monotonic", lambda: now[0])
    for number in range(8):  # two seconds of frames
        assert f"about {1 + number // 4}m00s left" in frame(display, screen)
        now[0] += 0.25
    assert asked == [100.0, 101.0]
    display._facts.left -= 1
    assert "about 3m00s left" in frame(display, screen)
    now[0] += 0.25
    assert "about 3m00s left" in frame(display, screen)
    assert len(asked) == 3


def test_a_new_stage_starts_from_nothing(screen: Console) -> None:
    display = RichDisplay(screen)
    play(display)
    display.event("a", "", {"event": "stage", "stage": "train"})
    text = frame(display, screen)
    assert "3/12" not in text
    assert "train" in text
    display.event("a", "", {"event": "progress", "stage": "train", "epoch": 1, "epochs": 4, "step": 5, "steps": 10})
    assert display._rows["a"].share == pytest.approx(0.125)
    display.end(Outcome({}, {}, [], 1.0))


def test_odd_events_break_nothing(screen: Console) -> None:
    display, plain = RichDisplay(screen), PlainDisplay(lambda line: None, heartbeat=0.0)
    display.begin(facts(eta=lambda: None), "x")
    display.event("nobody", "", {"event": "progress", "epoch": "x"})
    display.event("a", "l", {"event": "started"})
    for odd in (
        {},
        {"event": "progress", "epochs": 0, "epoch": 0},
        {"event": "progress", "stage": None, "loss": "nan"},
        {"event": "log", "line": "[/bold]"},
        {"event": "progress", "epoch": 10**400, "epochs": 3, "loss": 10**400, "images": "n/a"},
        {"event": "progress", "epoch": float("nan"), "epochs": float("inf"), "images": 1e308},
        {"event": "progress", "epoch": -5, "epochs": 1e-300, "step": 1, "steps": 1e-300, "images": [1]},
        {"event": "stage", "stage": "[/red] stage"},
        {"event": "progress", "stage": {"a": 1}, "epoch": True, "epochs": "x"},
    ):
        display.event("a", "l", odd)
        plain.event("a", "l", odd)
        frame(display, screen)
    display.note("[/red] brackets are text")
    assert "[/red] stage" in frame(display, screen)
    plain.tick()
    display.end(Outcome({}, {}, [], 1.0))


def test_a_warning_is_in_the_cells_log() -> None:
    assert log_line({"event": "warning", "warning": "dynamic: weak"}) == "warning: dynamic: weak"
    assert log_line({"event": "log", "line": "x"}) == "x"
    assert log_line({"event": "progress", "stage": "a", "epoch": 1, "epochs": 2}) is None


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_which_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(choose.sys, "stderr", _Terminal())
    assert isinstance(make_display(), RichDisplay)
    assert isinstance(make_display("plain"), PlainDisplay)
    assert isinstance(make_display("none"), NoDisplay)
    monkeypatch.setenv("CI", "1")
    assert isinstance(make_display(), PlainDisplay)
    monkeypatch.delenv("CI")
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_display(), PlainDisplay)
    monkeypatch.setattr(choose.sys, "stderr", io.StringIO())
    assert isinstance(make_display(), PlainDisplay)
    assert isinstance(make_display("rich"), RichDisplay)
    with pytest.raises(UsageError, match="--display"):
        make_display("colourful")
