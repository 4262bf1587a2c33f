"""Proxies that a lab holds in place of the event listener, the store and the keeper of weights, which know the attack.

This module keeps the listeners, stores and keepers in tables and looks them up by number. Nothing that is reachable
from a lab through attributes, slots, closures or containers therefore names the attack or leads to the folder with the
poison.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from benchbd.core.events import Event, Listener

if TYPE_CHECKING:
    from benchbd.storage.artifacts import Artifact, Store

    Keeper = Callable[[str, int, Mapping[str, Any]], None]
    """Keeps the weights of an epoch: key of the training, epoch from 1, arrays by name."""

_listeners: dict[int, Listener] = {}
_stores: dict[int, Store] = {}
_keepers: dict[int, Keeper] = {}
_numbers = itertools.count()
T = TypeVar("T")


class EventProxy:
    """Forwards events to a listener. The listener knows the attack; the holder of the proxy must not."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, event: Event) -> None:
        _listeners[self._number](event)

    def line(self, text: str) -> None:
        """Send a line to the log."""
        self({"event": "log", "line": text})


class RestrictedStore:
    """The store methods that stages need, without the folder, which also holds poison and triggers."""

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
        """Report a line through the store's ``say``."""
        _stores[self._number].say(line)


class KeeperProxy:
    """Hands the weights of epochs to a keeper, which knows the attack, and gives nothing back."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, training: str, epoch: int, state: Mapping[str, Any]) -> None:
        _keepers[self._number](training, epoch, state)


@contextlib.contextmanager
def _numbered(table: dict[int, T], entry: T) -> Iterator[int]:
    """Keep an entry of a table under a new number while the context lasts."""
    number = next(_numbers)
    table[number] = entry
    try:
        yield number
    finally:
        del table[number]


@contextlib.contextmanager
def keeper_proxy(keeper: Keeper) -> Iterator[KeeperProxy]:
    """A proxy for a keeper; it works only inside the context."""
    with _numbered(_keepers, keeper) as number:
        yield KeeperProxy(number)


@contextlib.contextmanager
def event_proxy(on_event: Listener | None) -> Iterator[EventProxy]:
    """A proxy for a listener; it works only inside the context."""
    with _numbered(_listeners, on_event or (lambda event: None)) as number:
        yield EventProxy(number)


@contextlib.contextmanager
def restricted_store(store: Store) -> Iterator[RestrictedStore]:
    """A proxy for a store, with the same kinds of artifacts; it works only inside the context."""
    with _numbered(_stores, store) as number:
        yield RestrictedStore(number)
