"""A plugin's source as the checks read it: its file, and the files beside it that it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def tree(file: str | Path | None) -> ast.Module:
    """The syntax tree of a file; an empty one where there is no file."""
    return ast.parse(Path(file).read_bytes()) if file else ast.Module([], [])


def imported(node: ast.AST) -> list[str]:
    """Every dotted name that an import statement may load; of a relative one, what follows the dots."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        before = [node.module] if node.module else []
        return [*before, *(".".join([*before, alias.name]) for alias in node.names)]
    return []


def files(first: str | None) -> Iterator[tuple[Path, ast.Module]]:
    """A plugin's file and, one after the other, those of its folder that it or one of these imports."""
    waiting = [Path(first)] if first else []
    seen = set(waiting)
    while waiting:
        file = waiting.pop()
        parsed = tree(file)
        yield file, parsed
        for word in sorted({word for node in ast.walk(parsed) for word in _words(node)}):
            beside = file.with_name(f"{word}.py")
            if beside not in seen and beside.is_file():
                seen.add(beside)
                waiting.append(beside)


def _words(node: ast.AST) -> set[str]:
    """Words that may name a file of the plugin's own; of benchbd's modules only helpers (``_name``) are a plugin's."""
    found = {word for name in imported(node) for word in name.split(".")}
    return {word for word in found if word.startswith("_")} if "benchbd" in found else found
