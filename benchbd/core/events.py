"""Events of a running cell, and their text in a log, on a display and on a terminal.

A worker sends each event as one line of JSON. An event may lack any field but its kind, so readers must expect that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, Literal, TypedDict, cast, get_args

Kind = Literal["ready", "starting", "started", "stage", "progress", "waiting", "log", "warning", "note", "ended"]


class _OfAKind(TypedDict):
    event: Kind


class Event(_OfAKind, total=False):
    """One event in a cell's run.

    A worker sends ``ready`` (with ``pid``) and ``ended`` (``id``; ``status``, ``reason`` and
    ``recorded``, or ``code``, or ``stopped``) to
    the run. Executors send ``starting`` and ``started`` (``where``, ``slot``) and ``note`` (``text``). The rest comes
    from the cell: ``stage`` and ``waiting`` (``stage``), ``progress`` (``stage``, ``epoch``, ``epochs`` and other
    fields of a training or an attack), ``log`` (``line``) and ``warning`` (``warning``).
    """

    stage: str
    """Name of the stage: a training, a scoring, ``poison``, ``evaluate``."""
    epoch: int
    """Number of epochs done; with ``step``, the current epoch."""
    epochs: int
    step: int
    steps: int
    """Number of steps in an epoch."""
    loss: float | None
    norm: float | None
    """Norm of an attack's trigger during its training."""
    images: int
    """Number of images trained on so far."""
    line: str
    """Text for the cell's log; a traceback has several lines."""
    quiet: bool
    """Whether a line is for the log alone."""
    warning: str
    text: str
    """Text for the user."""
    where: str
    """Name of the slot, or of the machine's queue."""
    slot: int
    pid: int
    id: str
    status: str
    reason: str
    recorded: bool
    """Whether the cell's own process has written its record."""
    code: int
    """Exit code of a cell's process that ended without a result; negative for a signal."""
    stopped: bool
    """Whether the worker has stopped the cell because the run asked it to."""


Listener = Callable[[Event], None]
"""A function that receives each event."""


def progress(stage: str, facts: Mapping[str, Any]) -> Event:
    """A progress event of a stage.

    Args:
        stage: name of the stage.
        facts: ``epoch``, ``epochs`` and other fields of the event.
    """
    return cast("Event", {"event": "progress", "stage": stage, **facts})


def encode(event: Event) -> bytes:
    """An event as a line of JSON. Numbers of other libraries become Python's, and what JSON cannot represent text."""
    return json.dumps(event, default=_as_json).encode() + b"\n"


def _as_json(value: Any) -> int | float | str:
    return int(value) if isinstance(value, Integral) else float(value) if isinstance(value, Real) else str(value)


def decode(line: bytes) -> Event | None:
    """The event in a line of JSON, made :func:`sound`; None for any other line, as any code may write to any pipe."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return sound(event) if isinstance(event, dict) and event.get("event") in get_args(Kind) else None


_TEXTS = ("stage", "line", "warning", "text", "where", "id", "status", "reason")
_AMOUNTS = ("epoch", "epochs", "step", "steps", "images")
_MEASURED = ("loss", "norm")
_LARGEST = 2**63


def sound(event: Mapping[str, Any]) -> Event:
    """An event without the fields that a reader could not use.

    A plugin may report anything as its progress, and may write to its cell's pipe itself. Left out are fields of
    another type than :class:`Event` declares, numbers too large to compute with, and lists and objects.
    """
    return cast("Event", {name: value for name, value in event.items() if _is_usable(name, value)})


def _is_usable(name: str, value: Any) -> bool:
    if name in _TEXTS:
        return isinstance(value, str)
    if name in ("recorded", "stopped", "quiet"):
        return isinstance(value, bool)
    if name in ("slot", "pid", "code"):
        return type(value) is int and _is_moderate(value)
    if name in _AMOUNTS and value is not None:
        return isinstance(value, Real) and _is_moderate(value)
    if name in _MEASURED and value is not None:
        return isinstance(value, Real) and (isinstance(value, float) or _is_moderate(value))
    return value is None or isinstance(value, (str, Real))


def _is_moderate(number: Any) -> bool:
    return bool(abs(number) < _LARGEST)


def is_waiting(event: Event) -> bool:
    """Whether the cell waits for a stage that another worker computes."""
    return event.get("event") == "waiting"


def log_line(event: Event) -> str | None:
    """The text of an event in a cell's log; None for the many events that only drive the display."""
    kind, stage = event.get("event"), event.get("stage", "")
    if kind == "log":
        return str(event.get("line", ""))
    if kind == "warning":
        return f"warning: {event.get('warning', '')}"
    if kind == "stage":
        return str(stage)
    if kind == "waiting":
        return f"{stage}: waiting, another worker is computing it"
    loss = event.get("loss")
    if kind == "progress" and loss is not None:
        return f"{stage}: epoch {event.get('epoch')}/{event.get('epochs')} loss {_decimals(loss)}"
    return None


def _decimals(value: Any) -> str:
    """A number with four decimals, and anything else that a plugin reports as text."""
    try:
        return f"{float(value):.4f}"
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last is torch's, for tensors of many values
        return " ".join(str(value)[:40].split())


def is_for_log_alone(event: Event) -> bool:
    """Whether an event is a line that the run itself has no use for."""
    return event.get("event") == "log" and event.get("quiet") is True


def remark(event: Event) -> str | None:
    """The text of an event that the user sees at once: a note, a warning or a log line.

    Tracebacks and quiet lines stay in the log.
    """
    kind = event.get("event") if not event.get("quiet") else None
    texts = {"note": event.get("text"), "warning": event.get("warning"), "log": event.get("line")}
    text = str(texts.get(kind) or "").strip() if kind else ""
    return text if text and "\n" not in text else None


def terminal_line(event: Event) -> str:
    """The text of an event during a preview, such as ``surrogate 3/80 loss 0.812``; '' if there is nothing to show."""
    event = sound(event)
    stage = event.get("stage", "")
    if event.get("warning"):
        return f"warning: {event['warning']}"
    if event.get("event") == "waiting":
        return f"{stage}: waiting, another process is computing it"
    if event.get("event") != "progress":
        return stage
    step, steps = event.get("step"), event.get("steps")
    within = f" step {step}/{steps}" if event.get("loss") is None and step is not None and step != steps else ""
    facts = (("loss", event.get("loss")), ("norm", event.get("norm")))
    measured = "".join(f" {name} {value:.3f}" for name, value in facts if isinstance(value, (int, float)))
    return f"{stage} {event.get('epoch')}/{event.get('epochs')}{within}{measured}"
