"""Torch archives and numpy files of other programs, read without unpickling objects."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchbd.core.files import open_plain
from benchbd.errors import UsageError


def read_torch(path: Path, *, arrays: bool = False) -> Any:
    """Read a torch archive with torch's weights-only loader.

    Args:
        path: the file.
        arrays: also allow numpy arrays and numbers of the usual types.

    Raises:
        UsageError: the file is missing, is not a torch archive, or holds anything else.
    """
    with plain_arrays(path, "torch archive"), opened(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own old types
        return _loaded(file, path, arrays)


@contextlib.contextmanager
def plain_arrays(path: Path, kind: str) -> Iterator[None]:
    """Turn any error of a loader into one line.

    torch and numpy raise nearly anything on damaged or forbidden files, with advice that must not be followed.

    Args:
        path: the file, for the line.
        kind: what it should be, for the line.

    Raises:
        UsageError: the block raised an error; a UsageError passes unchanged.
    """
    try:
        yield
    except UsageError:
        raise
    except Exception:
        raise UsageError(
            f"{path} is refused: it is not a {kind}, is damaged, or holds objects that are not plain arrays"
        ) from None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """Open a file of the user's to read; links are followed.

    Raises:
        UsageError: it is missing, cannot be read, or is a pipe, socket, device or folder.
    """
    try:
        handle = open_plain(os.path.realpath(path))
    except FileNotFoundError:
        raise UsageError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    with open(handle, "rb") as file:  # noqa: PTH123 - a descriptor
        yield file


def _loaded(file: IO[bytes], path: Path, arrays: bool) -> Any:
    import torch
    from torch import serialization

    if not arrays:
        return torch.load(file, map_location="cpu", weights_only=True)
    if not hasattr(serialization, "safe_globals"):
        raise UsageError(f"{path} holds numpy arrays, which torch {torch.__version__} cannot read safely; update it")
    with serialization.safe_globals(_numpy_types()):
        return torch.load(file, map_location="cpu", weights_only=True)


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
    with plain_arrays(path, ".npy file"), opened(path) as file:
        array = np.load(file, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise UsageError(f"{path} is refused: it must be a .npy file, not .npz")
    return array
