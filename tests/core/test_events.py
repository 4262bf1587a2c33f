"""Events: one line of JSON each, and every reader takes what is there."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import pytest

from benchbd.core import events
from benchbd.core.events import Event, decode, encode, is_waiting, log_line, progress, remark, terminal_line

READERS = (log_line, remark, terminal_line, is_waiting)


def test_an_event_crosses_as_one_line_of_json() -> None:
    event = progress("teacher", {"epoch": 1, "epochs": 3, "loss": 0.5})
    assert event == {"event": "progress", "stage": "teacher", "epoch": 1, "epochs": 3, "loss": 0.5}
    line = encode(event)
    assert line == json.dumps(event).encode() + b"\n"
    assert decode(line) == event
    odd: Any = {"event": "progress", "norm": {1}}
    assert decode(encode(odd)) == {"event": "progress", "norm": "{1}"}


@pytest.mark.parametrize("line", [b"", b"{", b"3", b"[]", b"null", b"\xff", b"{}", b'{"event": []}', b'{"event": 3}'])
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
