"""Environment variables as the user gave them, whatever a plugin's code has set in this process since."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from benchbd.core.variables import variables

_changed: dict[str, tuple[str | None, str | None]] = {}
"""The variables that plugins' code has changed: the user's value, and the plugin's. None: not set."""


_at_work = False


def _raw() -> dict[bytes, bytes]:
    """A copy of the environment. To decode it takes fifty times as long, and plugins' code runs many times a cell."""
    return dict(os.environ._data)  # type: ignore[attr-defined]


@contextlib.contextmanager
def plugin_at_work() -> Iterator[None]:
    """A context in which a plugin's code runs. What it does to ``os.environ`` stays, and is remembered as its own."""
    global _at_work
    if _at_work:  # a plugin loads another
        yield
        return
    raw = _raw()
    _at_work = True
    try:
        yield
    finally:
        _at_work = False
        if raw != _raw():
            _remember({os.fsdecode(name): os.fsdecode(value) for name, value in raw.items()})


def _remember(before: dict[str, str]) -> None:
    """Note which variables a plugin's code has changed."""
    after = dict(os.environ)
    for name in before.keys() | after.keys():
        old, new = before.get(name), after.get(name)
        if old != new:
            users, plugins = _changed.get(name, (old, old))
            _changed[name] = (users if plugins == old else old, new)


def user_variables() -> dict[str, str]:
    """The variables for a process in which no plugin's code has run. A value set after the plugin's is the user's."""
    found = dict(os.environ)
    for name, (users, plugins) in _changed.items():
        if found.get(name) == plugins:
            found.pop(name, None)
            if users is not None:
                found[name] = users
    return found


@contextlib.contextmanager
def only_user_variables() -> Iterator[None]:
    """A context with :func:`user_variables` in ``os.environ``, for libraries that start processes themselves."""
    own, users = dict(os.environ), user_variables()
    with variables({name: users.get(name) for name in own.keys() | users.keys() if own.get(name) != users.get(name)}):
        yield
