"""The module torchvision, imported with any build of torch."""

from __future__ import annotations

import importlib
from typing import Any


def torchvision_module() -> Any:
    """torchvision, as the built-in data sets import it (``benchbd.datasets._torchvision``).

    Raises:
        ImportError: torchvision is not installed.
    """
    return importlib.import_module("benchbd.datasets._torchvision").torchvision()
