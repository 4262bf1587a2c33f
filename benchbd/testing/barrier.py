"""Does a defense keep to its side of the information barrier? Read from its source, and watched while it runs."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchbd.testing.source import files, imported
from benchbd.testing.watch import NEEDS

if TYPE_CHECKING:
    from benchbd.testing.plugin_under_test import PluginUnderTest

FORBIDDEN = (
    *(
        "benchbd.storage.restricted",
        "benchbd.datasets",
        "benchbd.core.paths",
        "benchbd.pipeline.selection",
        "benchbd.pipeline.evaluate",
        "benchbd.pipeline.run_cell",
    ),
    *("benchbd.pipeline.poison", "benchbd.storage.artifacts", "benchbd.pipeline.workshop"),
)
"""Modules that a defense has no business with: they see the truth, test images, or the folder where both lie."""
AROUND = {"sys": ("_getframe", "_current_frames"), "inspect": ("stack", "currentframe", "trace"), "gc": None}
"""Ways around any barrier inside one process, by module; None: all of it."""


def keeps_out(bench: PluginUnderTest) -> Iterator[str]:
    """It declares what it needs, asks for what it declares, and reaches for nothing else."""
    cls = bench.cls
    for need in cls.needs:
        if need not in NEEDS:
            yield f"needs names {need!r}; known are {', '.join(NEEDS)}"
    if "truth" in cls.needs and not cls.control:
        yield "it sees the truth, so it is a control: say control = True"
    for file, tree in files(bench.entry.file):
        where = "" if str(file) == bench.entry.file else f"{file.name} "
        for line, fault in sorted(_reaches(tree)):
            yield f"{where}line {line} {fault}"
    # Controls look through other defenses' eyes; of everybody else the leaderboard prints needs that must be true.
    if "clean" in cls.needs and not cls.control and _finished(bench) and "clean" not in bench.asked:
        yield "needs names 'clean', but lab.clean is never looked at; leave the need out"


def _finished(bench: PluginUnderTest) -> bool:
    return all(record["status"] == "done" for record in bench.runs)


def _reaches(tree: ast.Module) -> Iterator[tuple[int, str]]:
    labs = _labs(tree)
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        named = [*imported(node)]
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            named.append(node.value)
        for module in named:
            if module.startswith("benchbd.") and any(f"{module}.".startswith(f"{door}.") for door in FORBIDDEN):
                yield line, f"imports {module}, which is behind the information barrier"
                break
        if isinstance(node, ast.Attribute) and ast.unparse(node) in FORBIDDEN:
            yield line, f"uses {ast.unparse(node)}, which is behind the information barrier"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            base, name = node.value.id, node.attr
            if base in labs and name.startswith("_") and not name.startswith("__"):
                yield line, f"reaches into the lab ({name})"
            elif base in AROUND and (AROUND[base] is None or name in (AROUND[base] or ())):
                yield line, f"looks at what the harness holds ({base}.{name})"
        if isinstance(node, ast.Call) and _asks_for_data(node):
            yield line, "makes a data set, whose test images are behind the information barrier"


def _labs(tree: ast.Module) -> set[str]:
    """What the lab is called in the file: ``lab``, and the first argument of every ``train`` method."""
    found = {"lab"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "train" and len(node.args.args) > 1:
            found.add(node.args.args[1].arg)
    return found


def _asks_for_data(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = call.args[0] if call.args else None
    return name in ("make", "load") and isinstance(first, ast.Constant) and first.value == "datasets"
