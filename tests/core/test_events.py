"""Events: one line of JSON each, and every reader takes what is there."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from benchbd.core import events
from benchbd.core.events import Event, decode, encode, is_waiting, log_line, progress, remark, sound, terminal_line

READERS = (log_line, remark, terminal_line, is_waiting)


def test_an_event_crosses_as_one_line_of_json() -> None:
    event = progress("teacher", {"epoch": 1, "epochs": 3, "loss": 0.5})
    assert event == {"event": "progress", "stage": "teacher", "epoch": 1, "epochs": 3, "loss": 0.5}
    line = encode(event)
    assert line == json.dumps(event).encode() + b"\n"
    assert decode(line) == event
    odd: Any = {"event": "progress", "parts": {1}, "images": np.int64(3), "norm": np.float32(0.5)}
    assert decode(encode(odd)) == {"event": "progress", "parts": "{1}", "images": 3, "norm": 0.5}


def test_an_event_loses_the_fields_that_no_reader_can_use() -> None:
    odd: dict[str, Any] = {
        "event": "progress",
        "stage": ["a"],
        "epoch": 10**400,
        "epochs": float("inf"),
        "images": "n/a",
    }
    odd |= {"step": float("nan"), "loss": "q", "norm": -(10**400), "code": "abc", "pid": 1.5, "recorded": "yes"}
    odd |= {"parts": [[]], "status": 3, "reason": {"a": 1}, "stopped": 1, "slot": True}
    good = {"steps": 9, "text": "t", "rate": 0.5}
    assert sound({**odd, **good}) == {"event": "progress", **good}
    assert decode(json.dumps({**odd, **good}).encode()) == {"event": "progress", **good}
    kept: Event = {"event": "progress", "loss": None, "norm": float("inf"), "epoch": 3, "code": -9, "recorded": False}
    assert sound(kept) == kept


@pytest.mark.parametrize(
    ("loss", "text"), [(0.5, "0.5000"), ("q\nr", "q r"), (10**400, "1" + 39 * "0"), ([1], "[1]"), (float("nan"), "nan")]
)
def test_a_log_takes_whatever_a_plugin_calls_a_loss(loss: Any, text: str) -> None:
    assert log_line(progress("train", {"epoch": 1, "epochs": 2, "loss": loss})) == f"train: epoch 1/2 loss {text}"


LINES = [b"", b"{", b"3", b"[]", b"null", b"\xff", b"{}", b'{"event": []}', b'{"event": 3}', b'{"event": "unknown"}']


@pytest.mark.parametrize("line", [*LINES, b'{"event": "note", "a": ' + b"[" * 100_000], ids=range(len(LINES) + 1))
def test_a_line_that_is_no_event_is_none(line: bytes) -> None:
    assert decode(line) is None


@pytest.mark.parametrize("kind", [*get_args(events.Kind), "of the future", ""])
@pytest.mark.parametrize("value", [None, 3, 0.5, "text", [], {}])
def test_readers_take_whatever_is_there(kind: str, value: Any) -> None:
    fields = set(get_type_hints(Event)) - {"event", "loss"}
    for event in ({"event": kind}, {"event": kind, **dict.fromkeys(fields, value)}):
        for read in READERS:
            assert isinstance(read(event), (str, bool, type(None)))  # type: ignore[operator]


def test_what_is_shown_at_once() -> None:
    assert remark({"event": "note", "text": " worker replaced "}) == "worker replaced"
    assert remark({"event": "log", "line": "one"}) == "one"
    assert remark({"event": "log", "line": "one\ntwo"}) is None
    assert remark({"event": "warning", "warning": "weak"}) == "weak"
    assert remark({"event": "stage", "stage": "teacher"}) is None


def test_who_waits_for_another_worker() -> None:
    assert is_waiting({"event": "waiting", "stage": "teacher"})
    assert not is_waiting({"event": "stage", "stage": "teacher"})
