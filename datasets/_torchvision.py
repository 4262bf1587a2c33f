"""torchvision, importable beside any torch.

The torchvision wheel on PyPI is a CUDA build. Beside a CPU-only torch its library of operators cannot be loaded, and
the import then fails at the first operator it wants to describe: ``operator torchvision::nms does not exist``.
Declaring the two missing operators then, by schema alone, lets a second import through; nothing here calls them.
"""

from __future__ import annotations

import functools
import importlib
import sys
from types import ModuleType
from typing import Any

_OPERATORS = ("nms", "qnms")
_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_declared: list[object] = []
"""The declarations; they would vanish with their library object."""


@functools.cache
def torchvision() -> ModuleType:
    """Import torchvision, declaring the operators that a mismatched build lacks (and only those).

    Returns:
        The module, its ``datasets`` loaded.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        return _imported()
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    # Not before the import has failed: an operator declared here that the library defines later would end the process.
    _declare()
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    return _imported()


def _imported() -> ModuleType:
    importlib.import_module("torchvision.datasets")
    return importlib.import_module("torchvision")


def _declare() -> None:
    import torch

    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(name + _SCHEMA)
    _declared.append(library)
