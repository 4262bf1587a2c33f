"""Seeds: one per purpose, derived only from the inputs that it may depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def seed_for(*parts: Any) -> int:
    """A stable 63-bit seed from JSON-serialisable parts; the same parts give the same seed on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def surrogate_seed(trigger_seed: int) -> int:
    """Seed of what an attack trains for its trigger, as a cell has one.

    It is negative, which no cell's seed is. A surrogate with a victim's seed would share the victim's initial weights
    and batch order.
    """
    return -1 - seed_for("surrogate", trigger_seed)
