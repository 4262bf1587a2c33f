"""The command that runs a record's cell again."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from benchbd.core.numerics import NUMERICS
from benchbd.plan.matrix import COMPONENTS, NAME

LONGEST_KEY = 1000
"""Longest key, in characters, written without a question mark before it; YAML's limit is 1,024."""
_PAIR = re.compile(r"\\u(d[89ab]..)\\u(d[c-f]..)")


def command(record: Mapping[str, Any]) -> str:
    """Shell lines that pipe a matrix of this one cell, with every parameter, into ``benchbd run``.

    The record's own matrix does not suffice: ``--set`` may have overridden it, and it may have changed since. The
    filter by id prevents a run with another version of a plugin.
    """
    return f"benchbd run - --filter id={record['id']} --output again <<'END'\n{matrix_of(record)}END\n"


def matrix_of(record: Mapping[str, Any]) -> str:
    """The text of a matrix whose only cell is the record's."""
    keys: dict[str, Any] = {}
    if NAME.fullmatch(str(record.get("matrix"))):
        keys["name"] = record["matrix"]
    keys |= {"seeds": record["seed"], "recipe": record.get("recipe")}
    spec = record.get("spec") or {}
    keys |= {key: spec[key] for key in ("probe", *NUMERICS) if spec.get(key)}
    for kind, key in COMPONENTS.items():
        given = (record.get("params") or {}).get(kind) or {}
        # A bare list would expand into one cell per entry.
        keys[key] = {record[kind]: {k: [v] if isinstance(v, list) else v for k, v in given.items()}}
    return "".join(f"{key}: {_in_one_line(value)}\n" for key, value in keys.items())


def _in_one_line(value: Any) -> str:
    """JSON that is also YAML: it has no surrogate pairs and escapes every control character."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(name)}: {_in_one_line(inner)}" for name, inner in value.items()) + "}"
    text = json.dumps(value).replace("\x7f", r"\x7f")
    return _PAIR.sub(lambda pair: f"\\U{_joined(pair[1], pair[2]):08x}", text)


def _key(name: str) -> str:
    text = _in_one_line(name)
    return f"? {text} " if len(text) > LONGEST_KEY else text


def _joined(high: str, low: str) -> int:
    return 0x10000 + ((int(high, 16) - 0xD800) << 10) + (int(low, 16) - 0xDC00)
