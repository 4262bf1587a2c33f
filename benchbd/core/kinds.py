"""The kinds of plugins in a cell."""

from __future__ import annotations

KINDS = ("dataset", "model", "attack", "defense")
"""Fields of a cell, its spec and its record. The plugin folders have the plural names."""
