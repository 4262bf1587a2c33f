"""How the code and the machines of two records of one cell differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchbd.errors import shown
from benchbd.storage.record_schema import Record
from benchbd.storage.staleness import known_sources


def differences(one: Record, other: Record) -> list[str]:
    """What is known to differ: ``code of defense lfd``, ``torch 2.12.0 and 2.13.0``, ``device 'A' and 'B'``.

    What a record does not say does not count. Data, initial weights and precision classes are compared elsewhere.
    """
    known = known_sources(other)
    found = [
        f"code of {kind} {name}"
        for (kind, name), digest in known_sources(one).items()
        if known.get((kind, name), digest) != digest
    ]
    here, there = _mapping(one["env"], "versions"), _mapping(other["env"], "versions")
    for name in here:
        if name in there and here[name] != there[name]:
            found.append(f"{name} {_text(here[name])} and {_text(there[name])}")
    commits = _mapping(one["env"], "git").get("commit"), _mapping(other["env"], "git").get("commit")
    if all(isinstance(commit, str) for commit in commits) and commits[0] != commits[1]:
        found.append(f"commit of benchbd {str(commits[0])[:10]} and {str(commits[1])[:10]}")
    for name in ("device", "system"):
        if name in one["env"] and name in other["env"] and one["env"][name] != other["env"][name]:
            found.append(f"{name} {shown(one['env'][name])} and {shown(other['env'][name])}")
    return found


def _mapping(env: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = env.get(name)
    return found if isinstance(found, Mapping) else {}


def _text(version: Any) -> str:
    return shown(str(version), 40)[1:-1]
