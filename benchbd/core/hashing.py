"""Canonical forms of values and arrays, and their hashes."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical(value: Any) -> str:
    """The canonical JSON of a value, for hashing: sorted keys, no spaces, plain ASCII, no NaN."""
    return _ENCODER.encode(value)


def digest(value: Any) -> str:
    """sha256 (hex) of a value's canonical form."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def sha_of(array: np.ndarray) -> str:
    """sha256 (hex) of an array's dtype, shape and values."""
    import numpy as np

    found = hashlib.sha256(f"{array.dtype}{array.shape}".encode())
    if array.flags.c_contiguous and not array.dtype.hasobject:
        found.update(array.reshape(-1).view(np.uint8).data)  # no copy of what may be a whole training set
    else:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
