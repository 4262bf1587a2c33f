"""The schema of a record: its fields, their types and ranges, and the statuses of a cell.

The same rules hold for records of this installation and for results files from elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchbd.core.confusion import RATES, Confusion
from benchbd.core.kinds import KINDS
from benchbd.errors import shown, with_article

Record = dict[str, Any]
Identity = Callable[[dict[str, Any]], str]

STATUSES = ("done", "skipped", "failed", "diverged", "oom", "timeout", "killed", "lost", "cancelled")
"""Every status of a cell with a record, in display order."""
METRICS = ("ca", "asr", "ra")
"""Clean accuracy, attack success rate and recovery accuracy: fractions in [0, 1], or null."""

OTHER_SOURCES = "other_sources"
"""The field with the digests of the code of plugins that the components used, such as ``model resnet-s``. Null
if there are none."""

_ID = re.compile(r"[0-9a-f]{16}")
_LARGEST = 2**63


class _Rule(NamedTuple):
    """A rule for a field: a test of the value, and the expected value in words for the message."""

    holds: Callable[[Any], bool]
    what: str


def is_id(value: Any) -> bool:
    """Whether a value has the form of a cell ID: 16 hex digits."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _is_integer(value: Any) -> bool:
    # Python takes True for the number 1.
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _is_number(value: Any) -> bool:
    """Whether a value is a number that a float can represent. NaN and infinities are not."""
    return -_LARGEST <= value <= _LARGEST if isinstance(value, float) else _is_integer(value)


def _is_count(value: Any) -> bool:
    return _is_integer(value) and value >= 0


def _numbers_by_name(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(number) for number in value.values())


def _counts_by_name(value: Any) -> bool:
    return _numbers_by_name(value) and all(number >= 0 for number in value.values())


def _is_stamp(value: Any) -> bool:
    if not isinstance(value, dict):
        return value is None
    colours = value.get("value")
    return all(_is_integer(value.get(name)) for name in ("top", "left", "height", "width")) and (
        isinstance(colours, list) and len(colours) == 3 and all(map(_is_number, colours))
    )


_OBJECT = _Rule(lambda v: isinstance(v, dict), "an object")
_OBJECT_OR_NULL = _Rule(lambda v: v is None or isinstance(v, dict), "an object or null")
_NAME = _Rule(lambda v: isinstance(v, str) and 0 < len(v) <= 200, "a name")
_TEXT = _Rule(lambda v: isinstance(v, str), "text")
_TEXT_OR_NULL = _Rule(lambda v: v is None or isinstance(v, str), "text or null")
_FRACTION = _Rule(lambda v: v is None or (_is_number(v) and 0 <= v <= 1), "a fraction in [0, 1] or null")
_AMOUNT = _Rule(lambda v: v is None or (_is_number(v) and v >= 0), "a number of 0 or more, or null")
_SECONDS = _Rule(_AMOUNT.holds, "seconds or null")
_COUNT = _Rule(lambda v: v is None or _is_count(v), "a count or null")
_CONFUSION = _Rule(
    lambda v: v is None or (isinstance(v, dict) and all(_is_count(v.get(name)) for name in Confusion._fields)),
    "the counts tp, fp, fn and tn, or null",
)

_NUMBERS = _Rule(lambda v: v is None or _numbers_by_name(v), "numbers by name, or null")

_SHA = re.compile(r"[0-9a-f]{64}")
_SHA_OR_NULL = _Rule(lambda v: v is None or (isinstance(v, str) and _SHA.fullmatch(v) is not None), "a sha256 or null")

_FIELDS: dict[str, _Rule] = {
    "id": _Rule(is_id, "16 hex digits"),
    **dict.fromkeys(KINDS, _NAME),
    "seed": _Rule(_is_integer, "an integer"),
    "status": _Rule(lambda v: v in STATUSES, f"one of {', '.join(STATUSES)}"),
    **dict.fromkeys(("label", "matrix"), _TEXT),
    "error": _TEXT_OR_NULL,
    **dict.fromkeys(METRICS, _FRACTION),
    **dict.fromkeys(("params", "recipe", "spec", "time", "env", "artifacts", "notes", "sources"), _OBJECT),
    **dict.fromkeys(("detection", "poison"), _OBJECT_OR_NULL),
    **dict.fromkeys(("peak_memory_bytes", "epochs_trained"), _AMOUNT),
    "trainings": _Rule(_counts_by_name, "counts by kind of training"),
    "needs": _Rule(lambda v: isinstance(v, list) and all(isinstance(word, str) for word in v), "a list of words"),
    "control": _Rule(lambda v: isinstance(v, bool), "true or false"),
}
"""Required fields of a record; a record may have others too."""

_OPTIONAL: dict[str, _Rule] = {
    **dict.fromkeys(("clean_asr", "asr_all", "ca_non_target"), _FRACTION),
    **dict.fromkeys(("triggered", "data", "test_transform", OTHER_SOURCES), _OBJECT_OR_NULL),
}
"""Fields that older records lack; null and missing mean the same."""

INPUTS = ("train", "test", "files", "weights", "weight_files", "attack_files", "defense_files")
"""Entries of the field ``data``: fingerprints of the decoded training and test set, of the files that the data set
reads, of initial weights that do not come from the seed, and of the files that model, attack and defense read."""

_INNER: dict[str, dict[str, _Rule]] = {
    "params": dict.fromkeys(KINDS, _OBJECT),
    "time": {"total": _SECONDS, "own": _SECONDS, "stages": _Rule(_numbers_by_name, "seconds by stage")},
    "detection": {**dict.fromkeys(("auroc", *RATES), _FRACTION), "confusion": _CONFUSION},
    "data": dict.fromkeys(INPUTS, _SHA_OR_NULL),
    "poison": {**dict.fromkeys(("count", "share_of_set", "share_of_target_class"), _AMOUNT), "measured": _NUMBERS},
    "triggered": dict.fromkeys(("images", "unchanged", "gained", "lost", "target_images"), _COUNT),
    "test_transform": {
        "stamp": _Rule(_is_stamp, "a rectangle with three values, or null"),
        "label_map": _Rule(
            lambda v: v is None or (isinstance(v, list) and all(map(_is_integer, v))), "a list of classes or null"
        ),
    },
}
"""Fields inside a field that is not null. A missing inner field counts as null."""

RATES_BY_EPOCH = "rates_by_epoch"
"""The note of a probe with ``rates``: for ``undefended`` and ``model``, ``epochs`` and ``METRICS`` as lists of the same
length, or ``no_rates``, the reason."""
TRAININGS = ("model", "undefended")
"""Its trainings: the one that made the cell's model, and the row's undefended one."""


CLEAN_TARGET_COUNT, NO_CLEAN_TARGET = "clean_target_count", "no_clean_target"
"""Entries of ``notes.probe``: the number of clean samples with the target's label, or why there are none."""


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def decode(text: str) -> Any:
    """Parse JSON text. Raises ValueError (also for NaN and infinities, which are not JSON) and RecursionError."""
    return _DECODER.decode(text)


def fault(record: Any, identity: Identity | None = None) -> str | None:
    """The first fault of a record, phrased as the end of a sentence; None for a valid record.

    Args:
        record: the decoded JSON value.
        identity: maps a spec to a cell ID. If given, the ID, names, parameters, recipe and seed of the record must
            match its spec.
    """
    if not isinstance(record, dict):
        return f"is not a record but {shown(record, 40)}"
    for name, rule in _FIELDS.items():
        if name not in record:
            return f"has no {name}"
        if not rule.holds(record[name]):
            return f"{name} must be {rule.what}, not {shown(record[name], 40)}"
    for name, rule in _OPTIONAL.items():
        if not rule.holds(record.get(name)):
            return f"{name} must be {rule.what}, not {shown(record[name], 40)}"
    for name, rules in _INNER.items():
        inner = record.get(name)
        if inner is None:
            continue
        for key, rule in rules.items():
            value = inner.get(key)
            if not rule.holds(value):
                return f"{name}.{key} must be {rule.what}, not {shown(value, 40)}"
    for odd in (_odd_counts, _odd_definitions, _odd_rates, _odd_rates_by_epoch, _odd_clean_target):
        if (reason := odd(record)) is not None:
            return reason
    if record["status"] == "done" and record["ca"] is None:
        return "is done but has no ca"
    return None if identity is None else _contradiction(record, identity)


def _odd_counts(record: Mapping[str, Any]) -> str | None:
    """The contradiction between a record's counts of triggered test images and its rates; None if there is none."""
    counts = record.get("triggered") or {}
    images, unchanged, gained, lost = (counts.get(name) for name in ("images", "unchanged", "gained", "lost"))
    if images is None:
        return None
    if max(unchanged or 0, (gained or 0) + (lost or 0)) > images:
        return f"counts more unchanged, gained or lost triggered images than there are ({images})"
    asr, clean_asr = record["asr"], record.get("clean_asr")
    if not images or asr is None or clean_asr is None or gained is None or lost is None:
        return None
    if abs((asr - clean_asr) - (gained - lost) / images) > 1e-6:
        return "has an asr and a clean_asr that its counts of triggered images contradict"
    return None


def _odd_definitions(record: Mapping[str, Any]) -> str | None:
    """The contradiction between rates over all test images and the same rates without the target class, if any."""
    counts = record.get("triggered") or {}
    others, of_target = counts.get("images"), counts.get("target_images")
    if not others or of_target is None:
        return None
    for name, whole, part in (
        ("asr_all", record.get("asr_all"), record["asr"]),
        ("ca_non_target", record["ca"], record.get("ca_non_target")),
    ):
        if whole is None or part is None:
            continue
        in_target = whole * (others + of_target) - part * others  # how many images of the target class succeed
        if not -1e-6 * others <= in_target <= of_target + 1e-6 * others:
            rate = name.partition("_")[0]
            return f"has {with_article(name)} that its {rate} and its counts of triggered images contradict"
    return None


def _odd_rates(record: Mapping[str, Any]) -> str | None:
    """The contradiction between the rates of the flagged samples and the counts behind them; None if there is none."""
    detection = record.get("detection") or {}
    if (counts := detection.get("confusion")) is None:
        return None
    for name, rate in Confusion(*(counts[key] for key in Confusion._fields)).rates().items():
        given = detection.get(name)
        agree = rate is given if rate is None or given is None else abs(rate - given) <= 1e-6
        if not agree:
            return f"has a detection.{name} that its counts of flagged samples contradict"
    return None


def courses(record: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``notes.rates_by_epoch``; none if the cell's probe did not ask for rates, or the cell is not done.

    A defense may have a note of this name of its own then.
    """
    probe, notes = (record.get("spec") or {}).get("probe"), record.get("notes") or {}
    asked = isinstance(probe, dict) and probe.get("rates") and record.get("status") == "done"
    found = notes.get(RATES_BY_EPOCH) if asked else None
    return found if isinstance(found, dict) else {}


def _is_course(value: Any) -> bool:
    """Whether a value holds ``epochs``, ascending from 1, and as many rates of each metric."""
    if not isinstance(value, dict) or not all(isinstance(value.get(name), list) for name in ("epochs", *METRICS)):
        return False
    epochs = value["epochs"]
    rising = bool(epochs) and all(map(_is_count, epochs)) and epochs[0] > 0 and epochs == sorted(set(epochs))
    return rising and all(
        len(value[name]) == len(epochs) and all(map(_FRACTION.holds, value[name])) for name in METRICS
    )


def measured_courses(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Those of :func:`courses` that hold rates, by training; the others say why there are none."""
    return {training: found for training, found in courses(record).items() if _is_course(found)}


def by_epoch(record: Mapping[str, Any], training: str) -> dict[str, list[Any]]:
    """``epochs``, ``ca``, ``asr`` and ``ra`` of one of ``TRAININGS``, as lists; empty if the record has none."""
    found = measured_courses(record).get(training)
    return {name: found[name] for name in ("epochs", *METRICS)} if found else {}


def _odd_rates_by_epoch(record: Mapping[str, Any]) -> str | None:
    """What the rates by epoch must be, if they are not; None if they are, or there are none."""
    measured = measured_courses(record)
    for training, value in courses(record).items():
        if training not in measured and not (isinstance(value, dict) and isinstance(value.get("no_rates"), str)):
            must = "hold epochs and as many fractions of each metric, or no_rates"
            return f"notes.{RATES_BY_EPOCH} must {must}, not {shown(value, 40)}"
    return None


def probed_losses(record: Mapping[str, Any]) -> dict[str, Any]:
    """The entry ``notes.probe``; empty if the cell's probe did not ask for losses, or the cell is not done."""
    probe, found = (record.get("spec") or {}).get("probe"), (record.get("notes") or {}).get("probe")
    asked = isinstance(probe, dict) and probe.get("losses") and record.get("status") == "done"
    return found if asked and isinstance(found, dict) else {}


def _odd_clean_target(record: Mapping[str, Any]) -> str | None:
    """What a probe's losses of clean samples with the target's label must be, if they are not. They may be missing."""
    found = probed_losses(record)
    rules = {"clean_target_mean": _AMOUNT, "poison_over_clean_target_mean": _COUNT}
    given = {*rules, CLEAN_TARGET_COUNT} & {*found}
    if NO_CLEAN_TARGET in found:
        good = not given and isinstance(found[NO_CLEAN_TARGET], str) and bool(found[NO_CLEAN_TARGET])
    elif given:
        epochs: Any = found.get("epochs")
        count: Any = found.get(CLEAN_TARGET_COUNT)
        good = isinstance(epochs, list) and _is_count(count) and count > 0
        for name, rule in rules.items():
            values = found.get(name)
            good = good and isinstance(values, list) and len(values) == len(epochs) and all(map(rule.holds, values))
    else:
        return None
    if good:
        return None
    must = (
        f"hold {', '.join(rules)} (as many as epochs) and {CLEAN_TARGET_COUNT}, or only {NO_CLEAN_TARGET}, the reason"
    )
    return f"notes.probe must {must}"


def _contradiction(record: Mapping[str, Any], identity: Identity) -> str | None:
    """The first mismatch between a record and the cell that its spec describes; None if they match."""
    spec = record["spec"]
    try:
        expected = identity(spec)
        if expected != record["id"]:
            return f"claims the id {record['id']}, but its spec has the id {expected}"
        described: dict[str, Any] = {kind: spec[kind]["name"] for kind in KINDS}
        described["seed"], described["recipe"] = spec["seed"], spec["recipe"]
        described["params"] = {kind: spec[kind]["params"] for kind in KINDS}
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        return f"has a spec that cannot be read ({type(error).__name__}: {shown(str(error), 100)})"
    for name, value in described.items():
        if record[name] != value:
            return f"{name} is {shown(record[name], 40)}, but its spec says {shown(value, 40)}"
    return None
