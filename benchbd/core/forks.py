"""Copies of this process that a plugin forks."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def only_this_process() -> Iterator[None]:
    """A context that no other process leaves: a copy of this one, forked by a plugin, ends at the end of the block."""
    pid = os.getpid()
    try:
        yield
    finally:
        if os.getpid() != pid:
            os._exit(1)
