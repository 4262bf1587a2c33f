"""A plugin's source for the checks: its file, and the files in the same folder that it imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path


def tree(file: str | Path | None) -> ast.Module:
    """The syntax tree of a file; an empty tree for None."""
    return ast.parse(Path(file).read_bytes()) if file else ast.Module([], [])


def imported(node: ast.AST) -> list[str]:
    """Every dotted name that an import statement may load, without the leading dots of a relative import."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        before = [node.module] if node.module else []
        return [*before, *(".".join([*before, alias.name]) for alias in node.names)]
    return []


def files(first: str | None) -> Iterator[tuple[Path, ast.Module]]:
    """A plugin's file, then the files in its folder that it imports, directly or through each other."""
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
    """Words that may name one of the plugin's files. In imports from benchbd only helpers (``_name``) may."""
    found = {word for name in imported(node) for word in name.split(".")}
    return {word for word in found if word.startswith("_")} if "benchbd" in found else found
