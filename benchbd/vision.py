"""torchvision, importable beside any torch.

The torchvision wheel on PyPI is a CUDA build. Beside a CPU-only torch its library of operators cannot be loaded, and
the import then fails at the first operator it wants to describe: ``operator torchvision::nms does not exist``.
Declaring the two missing operators first, by schema alone, lets the import through; nothing here calls them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.machinery
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _load_operators() -> None:
    """Load torchvision's own library of operators as its import would, where that can be done."""
    import torch

    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    for suffix in importlib.machinery.EXTENSION_SUFFIXES:
        library = Path(found.origin).with_name(f"_C{suffix}")
        if library.exists():
            load: Any = torch.ops.load_library
            with contextlib.suppress(OSError):  # the mismatched build: what it lacks is declared next
                load(str(library))
            return


@functools.cache
def torchvision() -> ModuleType:
    """Import torchvision, declaring the operators that a mismatched build lacks (and only those).

    Returns:
        The module, its ``datasets`` loaded.

    Raises:
        ImportError: torchvision is not installed.
    """
    import torch

    # The real operators must come first: declaring one that the library defines later would break a sound build.
    _load_operators()
    missing = [name for name in _OPERATORS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in missing:
            library.define(name + _SCHEMA)
        _declared.append(library)
    importlib.import_module("torchvision.datasets")
    return importlib.import_module("torchvision")


_declared: list[object] = []
"""The declarations; they would vanish with their library object."""
