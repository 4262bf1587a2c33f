"""Lets torch say that this CPU has bf16 units, or none: trainings run in the precision class that such machines choose.

Where ``BENCHBD_TEST_BF16`` is 1 or 0, ``tests/conftest.py`` puts this folder on ``PYTHONPATH``. Python imports a module
of this name at its start, so that the processes a test starts agree with it; none imports torch sooner than it would.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Any

NAME = "torch.cpu"


def pretend(cpu: ModuleType) -> None:
    """Change what ``torch.cpu`` says of the processor."""
    real, has = getattr(cpu, "get_capabilities", dict), os.environ.get("BENCHBD_TEST_BF16") == "1"
    cpu.get_capabilities = lambda: {**real(), "amx_bf16": has, "avx512_bf16": has}


class AtImport(importlib.abc.MetaPathFinder):
    """Finds ``torch.cpu`` like the standard finders, and patches the module right after its import."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != NAME:
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, found), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                pretend(module)

            spec.loader.exec_module = exec_module
        return spec


if NAME in sys.modules:
    pretend(sys.modules[NAME])
else:
    sys.meta_path.insert(0, AtImport())
