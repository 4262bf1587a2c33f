"""Optional packages: imported when they are needed, and named with their extra where they are missing."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from benchbd.errors import UsageError, one_line

EXTRAS = {
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "parquet": ("pyarrow",),
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
    "timm": ("timm",),
}
"""Packages of each extra in pyproject.toml, by the name of the extra."""


def require_extra(extra: str, what: str) -> None:
    """Check that the packages of an extra are installed, without importing them.

    Args:
        extra: one of ``EXTRAS``.
        what: what needs them, for the message (``--format onnx``).

    Raises:
        UsageError: one is missing; the message has the command that installs it.
    """
    missing = [name for name in EXTRAS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"{what} needs {', '.join(missing)}; pip install 'benchbd[{extra}]'")


def extra_module(name: str, extra: str, what: str) -> Any:
    """Import a module of an optional package.

    Args:
        name: the module, such as ``pyarrow.parquet``.
        extra: the extra that brings it, one of ``EXTRAS``.
        what: what needs it, for the message.

    Raises:
        UsageError: the package is missing or cannot be imported.
    """
    require_extra(extra, what)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UsageError(f"{what}: {name} cannot be imported ({one_line(error)[:200]})") from error
