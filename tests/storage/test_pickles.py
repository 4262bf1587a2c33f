"""A pickle put where benchbd reads arrays is never run: it is damage like any other."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchbd.datasets._decoded import Source, decoded
from benchbd.storage import artifacts as store_module
from benchbd.storage.artifacts import Store

KEY = "ab" * 32


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it ran"


def npy(mark: Path) -> bytes:
    data = io.BytesIO()
    np.save(data, np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    return data.getvalue()


def npz(mark: Path) -> bytes:
    data = io.BytesIO()
    np.savez(data, a=np.array([Bomb(mark)], dtype=object))
    return data.getvalue()


def test_the_bomb_works(mark: Path) -> None:
    np.load(io.BytesIO(npz(mark)), allow_pickle=True)["a"]
    assert mark.exists()


@pytest.mark.parametrize("make", [npy, npz])
def test_a_stored_artifact_that_is_a_pickle_with_every_checksum_right(
    tmp_path: Path, mark: Path, make: Callable[[Path], bytes]
) -> None:
    said: list[str] = []
    store = Store(tmp_path / "store", said.append)
    store.put("model", KEY, {"a": np.ones(2, np.float32)}, {"seconds": 1.0})
    folder, body = store.path("model", KEY), make(mark)
    meta = json.loads((folder / "meta.json").read_bytes())
    meta["sha256"] = hashlib.sha256(body).hexdigest()
    meta["seal"] = store_module._seal("model", KEY, meta["sha256"], meta["facts"])
    (folder / "arrays.safetensors").write_bytes(body)
    (folder / "meta.json").write_text(json.dumps(meta))
    found, now = store.memo("model", KEY, lambda: ({"a": np.zeros(2, np.float32)}, {"seconds": 1.0}))
    assert now, "it was made anew"
    assert found.arrays["a"].tolist() == [0.0, 0.0]
    assert len(said) == 1
    assert said[0].startswith(f"artifact model/{KEY[:16]} is damaged (")
    assert not mark.exists()


@pytest.mark.parametrize("make", [npy, npz])
def test_decoded_images_that_are_a_pickle(
    tmp_path: Path, mark: Path, make: Callable[[Path], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (4, 4), (1, 2, 3)).save(tmp_path / "pictures" / "0.png")
    source = Source("pictures", tmp_path / "pictures", ["0.png"], 4, crop=False)
    before = np.array(decoded(source))
    (kept,) = (tmp_path / "cache").rglob("images.npy")
    kept.write_bytes(make(mark))
    assert np.array_equal(decoded(source), before)
    assert not mark.exists()
