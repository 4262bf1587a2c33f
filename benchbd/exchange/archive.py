"""Torch archives and numpy files of other programs, read without unpickling objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchbd.errors import UsageError, one_line


def read_torch(path: Path, *, arrays: bool = False) -> Any:
    """Read a torch archive with torch's weights-only loader.

    Args:
        path: the file.
        arrays: also allow numpy arrays and numbers of the usual types.

    Raises:
        UsageError: the file is missing, is not a torch archive, or holds anything else.
    """
    import torch
    from torch import serialization

    if not path.is_file():
        raise UsageError(f"{path} is missing")
    try:
        if not arrays:
            return torch.load(path, map_location="cpu", weights_only=True)
        if not hasattr(serialization, "safe_globals"):
            raise UsageError(
                f"{path} holds numpy arrays, which torch {torch.__version__} cannot read safely; update it"
            )
        with serialization.safe_globals(_numpy_types()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except UsageError:
        raise
    except Exception as error:  # torch raises many kinds on damaged or forbidden archives
        reason = one_line(error).replace("Weights only load failed. ", "")[:160]
        raise UsageError(f"{path} is refused: it must be a torch archive of plain tensors ({reason})") from None


def _numpy_types() -> list[Any]:
    """The numpy types that a weights-only load may build, under the names of numpy 1 and 2."""
    core = getattr(np, "_core", None) or np.core
    multiarray = core.multiarray
    dtypes = [type(np.dtype(name)) for name in ("int64", "int32", "uint8", "bool", "float32", "float64")]
    functions = [multiarray._reconstruct, multiarray.scalar]
    named = [(f, f"numpy.{place}.multiarray.{f.__name__}") for f in functions for place in ("core", "_core")]
    return [np.ndarray, np.dtype, *dtypes, *named]


def read_numpy(path: Path) -> np.ndarray:
    """Read a ``.npy`` file of numbers.

    Raises:
        UsageError: the file is missing, is damaged, or holds objects.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except Exception as error:  # numpy raises nearly anything on damaged files
        raise UsageError(f"{path} is refused: it must be a .npy file of numbers ({one_line(error)[:120]})") from None
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path} is refused: it must be a .npy file, not .npz")
    return array
