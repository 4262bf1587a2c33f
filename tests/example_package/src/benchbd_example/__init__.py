"""Plugins for benchbd, one a file, found by the entry points in pyproject.toml."""
