"""The kinds of plugins that a cell is made of."""

from __future__ import annotations

KINDS = ("dataset", "model", "attack", "defense")
"""Fields of a cell, of its spec and of its record; the plugin folders have the plural."""
