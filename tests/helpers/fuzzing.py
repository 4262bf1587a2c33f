"""What fuzz tests share: mutations of nested values, the number of examples, the limit of time."""

from __future__ import annotations

import contextlib
import copy
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

LONGEST = 10.0
"""Seconds that one example may take; it takes milliseconds."""


def examples(usual: int, share: float = 1.0) -> int:
    """Number of examples: ``usual``, or this share of ``BENCHBD_FUZZ`` (``make fuzz`` sets it)."""
    wanted = os.environ.get("BENCHBD_FUZZ")
    return usual if wanted is None else max(usual, round(int(wanted) * share))


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Fail if the block takes longer than LONGEST."""
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < LONGEST, f"an example took {took:.1f} s"


def mutate(
    value: Any, rng: random.Random, odd: list[Any], change: Callable[[Any, Any], bool], chance: float = 0.1
) -> Any:
    """Replace or change something at a random place of a value of nested mappings and lists.

    Args:
        value: the value; it is not changed itself.
        rng: draws the place and the mutation.
        odd: values to put there.
        change: called with a copy of a mapping or list and a key in it; changes it, or returns False to go deeper.
        chance: probability to stop at a mapping or list, and replace it.
    """
    if not (isinstance(value, (dict, list)) and value) or rng.random() < chance:
        return rng.choice(odd)
    value = copy.copy(value)
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    if not change(value, key):
        value[key] = mutate(value[key], rng, odd, change, chance)
    return value
