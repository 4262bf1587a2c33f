"""The house: each package imports only those below it, no file is in a circle, and plugins see three doors."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND_UP = (
    *(
        "deprecated",
        "core",
        "engine",
        "plugins",
        "plan",
        "storage",
        "lab",
        "run",
        "report",
        "pipeline",
        "exchange",
        "testing",
    ),
    *("api", "cli", "__main__"),
)
"""Packages and modules of ``benchbd/``, each of which imports only those named before it (and ``errors``)."""
PLUGIN_FOLDERS = ("attacks", "datasets", "defenses", "models")
LIKE_A_USERS = ("benchbd/testing/scaffold/", "benchbd/testing/tiny.py")
"""Plugins that stand for a user's own. They import ``benchbd`` as a user does."""
UPWARD_NAMES = {("benchbd.run.settings", "benchbd.pipeline.run_cell")}
"""Who may name a module above itself in a string: a run names the function that its workers call."""
DOORS = ("benchbd.core", "benchbd.engine", "benchbd.errors")
"""What a built-in plugin may import beside ``benchbd`` itself and the files of its own folder."""


def _modules() -> dict[str, Path]:
    """Every file of the package by its dotted name, the plugin folders under their installed one."""
    found = {}
    for folder in ("benchbd", *PLUGIN_FOLDERS):
        for file in sorted((ROOT / folder).rglob("*.py")):
            if file.relative_to(ROOT).as_posix().startswith(LIKE_A_USERS):
                continue
            parts = list(file.relative_to(ROOT).with_suffix("").parts)
            parts = parts if folder == "benchbd" else ["benchbd", *parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = _modules()


def _imports(name: str) -> Iterator[tuple[str, int]]:
    """Modules that a file imports anywhere in it, type-only imports and those inside functions included."""
    for node in ast.walk(ast.parse(MODULES[name].read_bytes())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in MODULES else str(node.module)), node.lineno


def _named(name: str) -> Iterator[tuple[str, int]]:
    """Modules that a file names in strings of their own, as for ``importlib.import_module``."""
    for node in ast.walk(ast.parse(MODULES[name].read_bytes())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            module = node.value.partition(":")[0]
            if module in MODULES and module != "benchbd":
                yield module, node.lineno


def _arrows() -> dict[str, dict[str, int]]:
    return {
        name: {target: line for target, line in _imports(name) if target in MODULES and target != name}
        for name in MODULES
    }


ARROWS = _arrows()


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_room_is_on_the_plan() -> None:
    rooms = {_room(name) for name in MODULES} - {"", "errors", *PLUGIN_FOLDERS}
    assert rooms == set(GROUND_UP)


@pytest.mark.parametrize("room", GROUND_UP)
def test_a_package_imports_only_those_below_it(room: str) -> None:
    below = {"errors", *GROUND_UP[: GROUND_UP.index(room) + 1]}
    wrong = [
        f"{name}:{line} imports {target}"
        for name, targets in ARROWS.items()
        if _room(name) == room
        for target, line in targets.items()
        if _room(target) not in below
    ]
    assert wrong == []


@pytest.mark.parametrize("room", [room for room in GROUND_UP if room != "deprecated"])
def test_a_package_names_no_module_above_it_in_a_string(room: str) -> None:
    below = {"errors", *GROUND_UP[: GROUND_UP.index(room) + 1], *PLUGIN_FOLDERS}
    wrong = [
        f"{name}:{line} names {target}"
        for name in MODULES
        if _room(name) == room
        for target, line in _named(name)
        if _room(target) not in below and (name, target) not in UPWARD_NAMES
    ]
    assert wrong == []


def test_no_file_is_in_a_circle() -> None:
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(name: str) -> None:  # Tarjan's strongly connected components
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in ARROWS[name]:
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            circle = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(circle) > 1:
                circles.append(sorted(circle))

    for name in MODULES:
        if name not in index:
            visit(name)
    assert circles == []


@pytest.mark.parametrize("folder", PLUGIN_FOLDERS)
def test_built_in_plugins_import_three_doors_of_the_harness(folder: str) -> None:
    own = f"benchbd.{folder}"
    wrong = [
        f"{name}:{line} imports {target}"
        for name in MODULES
        if _room(name) == folder
        for target, line in _imports(name)
        if target.startswith("benchbd.") and not f"{target}.".startswith(tuple(f"{door}." for door in (own, *DOORS)))
    ]
    assert wrong == []
