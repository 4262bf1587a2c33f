"""Loads what cells need before their processes are forked, so that no cell pays for it.

Only benchbd's own modules, its built-in plugins and the libraries that these import are loaded. A user's plugins are
imported in the cells that need them, where their side effects stay. Nothing here may start a thread or ask for a GPU:
a process that has called CUDA leaves it unusable in its forks, and torch's question whether there is a GPU calls it.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import importlib
import sys
from pathlib import Path
from typing import Any

from benchbd.core import environment
from benchbd.core.kinds import KINDS
from benchbd.core.variables import variables
from benchbd.plugins import registry

LIBRARIES = (
    *("torch._dynamo", "torch.profiler._cupti_monitor", "numpy.random", "safetensors.numpy", "importlib.readers"),
    *(f"PIL.{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Ppm", "Png")),
)
"""Modules that every cell comes to import: an optimizer loads torch._dynamo when it is created."""
OPTIONAL = ("numpy", "PIL", "scipy", "sklearn", "threadpoolctl", "torch", "benchbd")
"""Packages from which the functions of built-in plugins import more."""
BUILT_IN = "benchbd."


def warm_up() -> None:
    """Load what every cell needs; libraries only if cells use torch (those of some tests do not)."""
    environment.basics()
    models = registry.entries("models")
    if "torch" in sys.modules:
        with _no_cuda():
            for name in LIBRARIES:
                with contextlib.suppress(ImportError):  # another release of a library has other modules
                    importlib.import_module(name)
            for entry in models:  # a defense may name models beside the cell's own
                _load(entry.kind, entry.name)
        importlib.import_module("benchbd.engine.global_state").remember()
    gc.collect()
    gc.freeze()


def warm_for(cell: dict[str, Any]) -> None:
    """Load the built-in plugins of a cell, and what their functions import.

    Args:
        cell: ``Cell.to_json()``. Errors are left to the cell's own process.
    """
    if "torch" not in sys.modules:
        gc.collect()
        gc.freeze()
        return
    parts = cell.get("spec", {})
    with _no_cuda():
        fresh = [_load(f"{kind}s", str(parts.get(kind, {}).get("name"))) for kind in KINDS]
    if any(fresh):
        importlib.import_module("benchbd.engine.global_state").remember()
        # The collector would touch, and the kernel then copy, every object of this process in each cell.
        gc.collect()
        gc.freeze()


def _no_cuda() -> contextlib.AbstractContextManager[None]:
    """A context in which ``torch.cuda.is_available`` asks the driver's NVML, which forks survive, and not CUDA."""
    return variables({"PYTORCH_NVML_BASED_CUDA_CHECK": "1"})


_seen: set[tuple[str, str]] = set()
"""Kinds and names of the plugins that :func:`_load` has been called with."""


def _load(kind: str, name: str) -> bool:
    """Load a built-in plugin and what its functions import. Returns whether this call has loaded anything."""
    if (kind, name) in _seen:
        return False
    _seen.add((kind, name))
    with contextlib.suppress(Exception):
        entry = registry.find(kind, name)
        if entry.module.startswith(BUILT_IN) and entry.file:
            # An error in the middle leaves the rest to the cell.
            with contextlib.suppress(Exception):
                registry.load(kind, name)
                registry.source_digest(kind, name)
                _import_lazy(Path(entry.file))
            return True
    return False


@functools.cache
def _import_lazy(file: Path) -> None:
    """Import what the functions of a file, and of the helpers it imports from its folder, import when they run."""
    for node in ast.walk(ast.parse(file.read_bytes())):
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name.partition(".")[0] in OPTIONAL:
                with contextlib.suppress(Exception):
                    module = importlib.import_module(name)
                    if name.startswith(BUILT_IN) and name.rpartition(".")[2].startswith("_"):
                        _import_lazy(Path(str(module.__file__)))
                        if name.endswith("._torchvision"):
                            module.torchvision()
