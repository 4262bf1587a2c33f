"""Seeds: one per purpose, derived only from the inputs that it may depend on."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def seed_for(*parts: Any) -> int:
    """A stable 63-bit seed from JSON-serialisable parts; the same parts give the same seed on every machine."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
