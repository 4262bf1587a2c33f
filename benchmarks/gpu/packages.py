"""The packages that ``make gpu`` needs, and what to say of a machine that lacks one."""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Callable, Iterable
from importlib import metadata

NEEDED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "numpy": "numpy",
    "pandas": "pandas",
    "sklearn": "scikit-learn",
    "rich": "rich",
    "safetensors": "safetensors",
    "yaml": "pyyaml",
    "pytest": "pytest",
}
"""Names of packages, by the module that is imported."""
OLDEST_PYTHON = (3, 10)
OLDEST_TORCH = (2, 11)


def faults(versions: Callable[[str], str] = metadata.version, modules: Iterable[str] = NEEDED) -> list[str]:
    """What is missing or too old here, one line each; nothing is imported.

    Args:
        versions: returns the version of an installed package.
        modules: the modules to look for.
    """
    found = []
    if sys.version_info[:2] < OLDEST_PYTHON:
        found.append(f"Python {platform.python_version()} is too old; {'.'.join(map(str, OLDEST_PYTHON))} is needed")
    for module in modules:
        package = NEEDED.get(module, module)
        if importlib.util.find_spec(module) is None:
            found.append(f"the package {package} is missing (import {module} finds nothing in {sys.prefix})")
        elif module == "torch" and (version := _number(versions(package))) < OLDEST_TORCH:
            wanted = ".".join(map(str, OLDEST_TORCH))
            found.append(f"torch {'.'.join(map(str, version))} is too old; {wanted} or later is needed")
    return found


def _number(version: str) -> tuple[int, ...]:
    """The first two numbers of a version such as ``2.13.0+cu130``."""
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in version.split(".")[:2])
