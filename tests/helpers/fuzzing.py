"""The size of a fuzz test, and its limit of time."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator

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
