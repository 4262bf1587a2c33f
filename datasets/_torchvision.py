"""Imports torchvision with any build of torch.

The torchvision wheel on PyPI is a CUDA build. With a CPU-only torch its operator library cannot be loaded, and the
import fails at the first operator that it describes: ``operator torchvision::nms does not exist``. After declaring the
schemas of the two missing operators, a second import succeeds. Nothing here calls these operators.
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
"""Keeps the declarations alive: they disappear with their library object."""


@functools.cache
def torchvision() -> ModuleType:
    """Import torchvision; declare the operators that a mismatched build lacks, and only those.

    Returns:
        The module, with ``torchvision.datasets`` imported.

    Raises:
        ImportError: torchvision is not installed.
    """
    try:
        return _imported()
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    # Only after the import has failed: if the library later defined an operator declared here, the process would abort.
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
