"""Reading Python files as text for plugin classes, so that listing runs no plugin code."""

from __future__ import annotations

import ast
import importlib.machinery
import importlib.util
import warnings
from pathlib import Path
from typing import NamedTuple

from benchbd.errors import one_line

DECORATORS = {"dataset": "datasets", "attack": "attacks", "defense": "defenses", "model": "models"}


class PluginEntry(NamedTuple):
    """Where a plugin is to be found, and what can be told of it without importing it."""

    kind: str
    name: str
    module: str
    attr: str
    file: str | None
    origin: str
    version: int | None
    summary: str
    error: str | None


def describe_error(error: BaseException, file: str | None = None) -> str:
    """An error of somebody's file in one line: its class, its text and, where it can be told, its line in the file."""
    line = getattr(error, "lineno", None) if isinstance(error, SyntaxError) else None
    trace = error.__traceback__
    while trace is not None and not isinstance(error, SyntaxError):
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == file else line
        trace = trace.tb_next
    text = one_line(getattr(error, "msg", None) or error)
    return type(error).__name__ + (f": {text}" if text else "") + (f" (line {line})" if line else "")


def scan(file: Path, module: str, origin: str) -> list[PluginEntry]:
    """Entries for the decorated classes in one Python file; one entry with an ``error`` where it can't be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(file.read_bytes(), filename=str(file))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError) as error:
        return [PluginEntry("", file.stem, module, "", str(file), origin, None, "", describe_error(error))]
    found = []
    for node in tree.body:
        for mark in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            kind, name, version = _mark(mark)
            if isinstance(node, ast.ClassDef) and kind and name is not None:
                summary = (ast.get_docstring(node) or "").split("\n")[0]
                place = f"{origin}:{node.lineno}"
                found.append(PluginEntry(kind, name, module, node.name, str(file), place, version, summary, None))
    return found


def _mark(mark: ast.expr) -> tuple[str, str | None, int | None]:
    """Kind, name and version that a decorator such as ``@attack("name", version=1)`` gives."""
    if not isinstance(mark, ast.Call):
        return "", None, None
    word = mark.func.id if isinstance(mark.func, ast.Name) else getattr(mark.func, "attr", "")
    said = {k.arg: k.value.value for k in mark.keywords if isinstance(k.value, ast.Constant)}
    if mark.args and isinstance(mark.args[0], ast.Constant):
        said["name"] = mark.args[0].value
    name, version = said.get("name"), said.get("version")
    return (
        DECORATORS.get(word, ""),
        name if isinstance(name, str) else None,
        version if isinstance(version, int) else None,
    )


def scan_installed(kind: str, name: str, target: str, package: str) -> PluginEntry:
    """The entry of an entry point ``module:Class``, its file found and read without importing anything of it."""
    module, _, attr = (part.strip() for part in target.partition(":"))
    origin = f"package {package} ({target})"
    entry = PluginEntry(kind, name, module, attr, None, origin, None, "", None)
    if not attr:
        return entry._replace(error=f"its entry point must be module:Class, not {target!r}")
    try:
        spec = _find(module)
    except Exception as error:  # finders are other people's code
        return entry._replace(error=describe_error(error))
    if spec is None:
        return entry._replace(error=f"ModuleNotFoundError: no module named {module!r}")
    if not spec.has_location or not spec.origin or not spec.origin.endswith(".py"):
        return entry
    entry = entry._replace(file=spec.origin)
    for seen in scan(Path(spec.origin), module, origin):
        if seen.error:
            return entry._replace(error=seen.error)
        if seen.attr == attr:
            return entry._replace(version=seen.version, summary=seen.summary)
    return entry


def _find(module: str) -> importlib.machinery.ModuleSpec | None:
    """Spec of a module, without importing its parents (as importlib.util.find_spec would)."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    name = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name += f".{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations)
    return spec
