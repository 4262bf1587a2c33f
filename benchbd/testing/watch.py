"""Watches what a defense looks at beyond the poisoned set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

NEEDS = ("clean", "truth")


@contextlib.contextmanager
def watching(asked: set[str]) -> Iterator[None]:
    """While open, what a defense looks at beyond the poisoned set is noted in ``asked``."""
    from benchbd.lab.lab import Lab

    usual: dict[str, Any] = {name: vars(Lab)[name] for name in NEEDS}

    def noting(name: str) -> property:
        def look(lab: Lab) -> Any:
            asked.add(name)
            return usual[name].fget(lab)

        return property(look)

    try:
        for name in NEEDS:
            setattr(Lab, name, noting(name))
        yield
    finally:
        for name in NEEDS:
            setattr(Lab, name, usual[name])
