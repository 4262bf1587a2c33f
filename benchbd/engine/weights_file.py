"""Weights of other programs in files: safetensors and state dicts of ``torch.save``. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from benchbd.core.archive import opened, read_torch
from benchbd.errors import UsageError, one_line

NESTED = ("state_dict", "model_state_dict", "model", "net", "netC", "weights")
"""Entries under which checkpoints of other programs keep the weights."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors by name in a safetensors file or a state dict of ``torch.save``, whatever the suffix.

    Raises:
        UsageError: the file is missing, cannot be read, or holds anything else.
    """
    with opened(path) as file:
        start = file.read(9)
        file.seek(0, 2)
        length = file.tell()
    if is_safetensors(start, length):
        return read_safetensors_file(path)[0]
    return state_dict_of(read_torch(path), path)


def is_safetensors(start: bytes, length: int) -> bool:
    """Whether a file with these first bytes (9 or more) and this length is a safetensors file."""
    return start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= length


def read_safetensors_file(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As :func:`read_safetensors`, of a file.

    Raises:
        UsageError: the file is missing, cannot be read, or is something else.
    """
    with opened(path) as file:
        return read_safetensors(file.read(), str(path))


def read_safetensors(content: bytes, what: str = "the file") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, and the metadata, of a safetensors file.

    Args:
        content: the bytes of the file.
        what: what to call it in messages.

    Raises:
        UsageError: the bytes are something else.
    """
    from safetensors.torch import load

    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return tensors, header.get("__metadata__") or {}
    except Exception as error:  # the package raises nearly anything on other bytes
        if content[:2] == b"PK" or content[:1] == b"\x80":
            reason = "it is an archive of torch.save or a pickle, which is never unpickled"
        else:
            reason = one_line(error)[:200]
        advice = "write it with safetensors.torch.save_file(model.state_dict(), ...)"
        raise UsageError(f"{what} cannot be read as safetensors ({reason}); {advice}") from error


def state_dict_of(found: Any, path: Path) -> dict[str, Tensor]:
    """The tensors by name in what ``torch.save`` wrote, perhaps under another entry.

    Args:
        found: what was read.
        path: the file, for the message.

    Raises:
        UsageError: there are none.
    """
    for name in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
    if isinstance(found, Mapping):
        state = {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
        if state and len(state) == len(found):
            return state
    raise UsageError(f"{path} holds no state dict (tensors by name), alone or under {', '.join(NESTED)}")
