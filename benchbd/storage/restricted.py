"""What a lab holds in place of things that know too much: what listens to a cell, and the store's folder.

The things themselves are kept here, in the module, and found by a number. So nothing that can be reached from a lab by
attributes, slots, closures or containers names the attack or leads to the folder where the poison lies.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from benchbd.core.events import Event, Listener

if TYPE_CHECKING:
    from benchbd.storage.artifacts import Artifact, Store

_listeners: dict[int, Listener] = {}
_stores: dict[int, Store] = {}
_numbers = itertools.count()


class EventProxy:
    """Passes events on to a listener: what listens knows the attack, its bearer must not."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, event: Event) -> None:
        _listeners[self._number](event)

    def line(self, text: str) -> None:
        """Pass a line for the log on."""
        self({"event": "log", "line": text})


class RestrictedStore:
    """What stages need of a store, without its folder, in which poison and triggers lie beside the stages."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def get(self, kind: str, key: str) -> Artifact | None:
        """:meth:`benchbd.storage.artifacts.Store.get`."""
        return _stores[self._number].get(kind, key)

    def put(self, kind: str, key: str, arrays: Mapping[str, Any], facts: dict[str, Any]) -> str:
        """:meth:`benchbd.storage.artifacts.Store.put`."""
        return _stores[self._number].put(kind, key, arrays, facts)

    def drop(self, kind: str, key: str) -> None:
        """:meth:`benchbd.storage.artifacts.Store.drop`."""
        _stores[self._number].drop(kind, key)

    def memo(
        self,
        kind: str,
        key: str,
        compute: Callable[[], tuple[Mapping[str, Any], dict[str, Any]]],
        waiting: Callable[[], None] | None = None,
    ) -> tuple[Artifact, bool]:
        """:meth:`benchbd.storage.artifacts.Store.memo`."""
        return _stores[self._number].memo(kind, key, compute, waiting)

    def say(self, line: str) -> None:
        """Tell whoever watches the store."""
        _stores[self._number].say(line)


@contextlib.contextmanager
def event_proxy(on_event: Listener | None) -> Iterator[EventProxy]:
    """A messenger to a listener, for as long as the context lasts."""
    number = next(_numbers)
    _listeners[number] = on_event or (lambda event: None)
    try:
        yield EventProxy(number)
    finally:
        del _listeners[number]


@contextlib.contextmanager
def restricted_store(store: Store) -> Iterator[RestrictedStore]:
    """A shelf of a store (a view that gives only the kinds to be had there), for as long as the context lasts."""
    number = next(_numbers)
    _stores[number] = store
    try:
        yield RestrictedStore(number)
    finally:
        del _stores[number]
