"""Checks that a plugin leaves unchanged what it was handed, before anything made from it is stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np

from benchbd.core.checksum import checksum
from benchbd.errors import Misused, UsageError


@contextlib.contextmanager
def blamed(who: str) -> Iterator[None]:
    """Put a plugin's name, as in ``defense 'mine'``, before the message of a :class:`Misused` raised inside."""
    try:
        yield
    except Misused as error:
        raise UsageError(f"{who}: {error}") from error


@contextlib.contextmanager
def no_change_in(arrays: Mapping[str, np.ndarray]) -> Iterator[None]:
    """Raise :class:`Misused` at the end if an array was changed in place inside, or another one put in its place."""
    before = {name: checksum(array) for name, array in arrays.items()}
    yield
    for name, array in arrays.items():
        if before.pop(name, None) != checksum(np.asarray(array)):
            raise Misused(f"{name} of its context was changed in place; work on a copy")
    if before:
        raise Misused(f"{next(iter(before))} was deleted from its context; work on a copy")
