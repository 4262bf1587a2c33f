"""Safetensors from bytes and from a file: the same tensors, and the same words about anything else."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from benchbd.engine.weights_file import read_safetensors, read_safetensors_file
from benchbd.errors import UsageError

STATE = {"a": torch.arange(6.0).reshape(2, 3), "none": torch.zeros(0, 4), "half": torch.ones(3).bfloat16()}


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_bytes_and_file_give_the_same(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    content = save(STATE, metadata)
    (tmp_path / "w").write_bytes(content)
    for state, noted in (read_safetensors(content), read_safetensors_file(tmp_path / "w")):
        assert noted == (metadata or {})
        assert state.keys() == STATE.keys()
        assert all(torch.equal(state[name], STATE[name]) and state[name].dtype == STATE[name].dtype for name in STATE)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Error while deserializing"),
        (save(STATE)[:-1], "Error while deserializing"),
        (pickle.dumps({}), "which is never unpickled"),
        (b"PK\x03\x04", "which is never unpickled"),
    ],
)
def test_anything_else_is_refused_in_the_same_words(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "w"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as of_bytes:
        read_safetensors(content)
    with pytest.raises(UsageError) as of_file:
        read_safetensors_file(path)
    assert str(of_file.value) == str(of_bytes.value).replace("the file", str(path), 1)
    assert "write it with safetensors.torch.save_file" in str(of_bytes.value)
    with pytest.raises(UsageError, match="is missing"):
        read_safetensors_file(tmp_path / "nothing")
