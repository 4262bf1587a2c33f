"""Records which data a defense reads beyond the poisoned set."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

NEEDS = ("clean", "truth")


@contextlib.contextmanager
def watching(accessed: set[str]) -> Iterator[None]:
    """Inside the block, add ``clean`` or ``truth`` to ``accessed`` when a defense reads it from the lab."""
    from benchbd.lab.lab import Lab

    original: dict[str, Any] = {name: vars(Lab)[name] for name in NEEDS}

    def recording(name: str) -> property:
        def read(lab: Lab) -> Any:
            accessed.add(name)
            return original[name].fget(lab)

        return property(read)

    try:
        for name in NEEDS:
            setattr(Lab, name, recording(name))
        yield
    finally:
        for name in NEEDS:
            setattr(Lab, name, original[name])
