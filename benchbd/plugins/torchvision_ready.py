"""Lets users' plugins import torchvision as the built-in data sets do, with any build of torch.

The torchvision wheel on PyPI cannot be imported beside a CPU-only torch (``operator torchvision::nms does not exist``).
``benchbd.datasets._torchvision`` declares the missing operators. A plugin that imports torchvision at its top gets them
when it is loaded; one that imports it inside a function gets them before its cell runs.
"""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path

from benchbd.core.torchvision_module import torchvision_module

_IMPORT = re.compile(rb"^[ \t]*(?:import|from)[ \t]+torchvision\b", re.MULTILINE)
_wanted: set[str] = set()


def note_torchvision(file: str) -> None:
    """Note whether a plugin's file imports torchvision, and import it at once where torch is loaded already."""
    with contextlib.suppress(OSError):
        if _IMPORT.search(Path(file).read_bytes()):
            _wanted.add(file)
    if "torch" in sys.modules:
        ready_torchvision()


def ready_torchvision() -> None:
    """Import torchvision if a noted plugin imports it. If that fails, the plugin's own import reports why."""
    if _wanted:
        with contextlib.suppress(Exception):
            torchvision_module()


def is_mismatch(error: BaseException) -> bool:
    """Whether an import failed because torchvision's operators are not there."""
    return isinstance(error, RuntimeError) and "operator torchvision::" in str(error)
