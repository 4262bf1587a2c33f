"""Check that a defense respects the information barrier, from its source and from what it accesses in a run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from benchbd.testing.source import files, imported
from benchbd.testing.watch import NEEDS

if TYPE_CHECKING:
    from benchbd.testing.plugin_under_test import PluginUnderTest

FORBIDDEN = (
    *("benchbd.core.paths", "benchbd.core.poisoned_set", "benchbd.core.poisoned_set_file"),
    *("benchbd.datasets", "benchbd.exchange", "benchbd.pipeline", "benchbd.storage"),
)
"""Packages that a defense must not use: they see the truth, the test images, or the folder that holds both."""
AROUND = {"sys": ("_getframe", "_current_frames"), "inspect": ("stack", "currentframe", "trace"), "gc": None}
"""Functions that get around any barrier inside a process, by module. None stands for the whole module."""


def keeps_barrier(bench: PluginUnderTest) -> Iterator[str]:
    """A defense declares what it needs, uses what it declares, and accesses nothing else."""
    cls = bench.cls
    for need in cls.needs:
        if need not in NEEDS:
            yield f"needs names {need!r}; known needs: {', '.join(NEEDS)}"
    if "truth" in cls.needs and not cls.control:
        yield "it sees the truth, so it is a control: set control = True"
    for file, tree in files(bench.entry.file):
        where = "" if str(file) == bench.entry.file else f"{file.name} "
        for line, fault in sorted(_reaches(tree)):
            yield f"{where}line {line} {fault}"
    # A control may declare the needs of the defense that it imitates. The leaderboard prints the needs of every other
    # defense, so they must be true.
    if "clean" in cls.needs and not cls.control and _finished(bench) and "clean" not in bench.accessed:
        yield "needs names 'clean', but lab.clean is never used; leave the need out"


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
            if module.startswith("benchbd.") and any(f"{module}.".startswith(f"{hidden}.") for hidden in FORBIDDEN):
                yield line, f"imports {module}, which is behind the information barrier"
                break
        if isinstance(node, ast.Attribute) and (dotted := ast.unparse(node)) in FORBIDDEN:
            yield line, f"uses {dotted}, which is behind the information barrier"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            base, name = node.value.id, node.attr
            if base in labs and name.startswith("_") and not name.startswith("__"):
                yield line, f"reaches into the lab ({name})"
            elif base in AROUND and (AROUND[base] is None or name in (AROUND[base] or ())):
                yield line, f"looks at the harness's own state ({base}.{name})"
        if isinstance(node, ast.Call) and _makes_dataset(node):
            yield line, "makes a data set, whose test images are behind the information barrier"


def _labs(tree: ast.Module) -> set[str]:
    """Names of the lab in the file: ``lab``, and the first argument of every ``train`` or ``scores`` method."""
    found = {"lab"}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name in ("train", "scores") and len(node.args.args) > 1:
            found.add(node.args.args[1].arg)
    return found


def _makes_dataset(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = call.args[0] if call.args else None
    return name in ("make", "load") and isinstance(first, ast.Constant) and first.value == "datasets"
