"""Artifacts are there whole or not at all, checked on load, and never pickled."""

from __future__ import annotations

import errno
import json
import pickletools
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchbd.core.files import atomic_write
from benchbd.errors import UsageError
from benchbd.storage import artifacts as module
from benchbd.storage.artifacts import Store

KEY = "ab" * 32


def arrays() -> dict[str, np.ndarray]:
    """One of every kind that stages keep, the awkward ones included."""
    return {
        "float": np.arange(12, dtype=np.float32).reshape(3, 4),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float64),
        "mask": np.array([True, False, True]),
        "turned": np.arange(6, dtype=np.uint8).reshape(2, 3).T,
    }


def files(store: Store) -> list[Path]:
    return sorted(p for p in store.root.rglob("*") if p.is_file())


def test_what_is_stored_comes_back_with_type_and_shape(store):
    sha = store.put("model", KEY, arrays(), {"seconds": 1.5, "note": [1, None]})
    found = store.get("model", KEY)
    assert found.meta == {"seconds": 1.5, "note": [1, None]}
    assert found.sha256 == sha
    assert found.arrays.keys() == arrays().keys()
    for name, array in arrays().items():
        assert found.arrays[name].shape == array.shape, name
        assert found.arrays[name].dtype == array.dtype, name
        assert np.array_equal(found.arrays[name], array), name


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.put("model", KEY, arrays(), {}),
        lambda store: store.get("model", KEY),
        lambda store: store.memo("model", KEY, lambda: (arrays(), {})),
    ],
)
def test_the_sha256_is_that_of_the_arrays_used_whatever_happens_to_the_files(store, use):
    sha = store.put("model", KEY, arrays(), {})
    fresh = Store(store.root)
    assert fresh.sha256("model", KEY) == sha
    use(fresh)
    store.drop("model", KEY)
    assert fresh.sha256("model", KEY) == sha
    assert Store(store.root).sha256("model", KEY) is None


def test_a_computed_artifact_is_the_same_as_a_loaded_one_and_the_callers_own(store):
    source = np.arange(4.0)
    source.flags.writeable = False

    def compute():
        return {"a": source}, {"pair": (1, 2)}

    for now in (True, False):
        found, computed = store.memo("array", KEY, compute)
        assert computed is now
        assert found.meta.pop("seconds") >= 0
        assert found.meta == {"pair": [1, 2]}
        assert found.sha256 == store.get("array", KEY).sha256
        found.arrays["a"] += 1  # must neither fail nor be seen by the next caller
        assert found.arrays["a"].tolist() == [1, 2, 3, 4]
    assert source.tolist() == [0, 1, 2, 3]


def test_memo_computes_once_and_keeps_the_seconds_it_is_told(store):
    calls = []

    def compute():
        calls.append(1)
        return {"a": np.ones(1)}, {"seconds": 42.0}

    assert [store.memo("array", KEY, compute)[1] for _ in range(3)] == [True, False, False]
    assert len(calls) == 1
    assert store.get("array", KEY).meta["seconds"] == 42.0


def test_a_failed_computation_leaves_nothing(store):
    with pytest.raises(ZeroDivisionError):
        store.memo("array", KEY, lambda: 1 / 0)
    assert files(store) == []
    assert store.memo("array", KEY, lambda: ({"a": np.ones(1)}, {}))[1]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _cheat(path: Path) -> None:
    """Facts changed, everything else as it was."""
    meta = json.loads(path.read_bytes())
    meta["facts"]["seconds"] = 0.001
    path.write_text(json.dumps(meta))


def _link(path: Path) -> None:
    outside = path.parents[4] / "outside"
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)


@pytest.mark.parametrize("name", ["arrays.safetensors", "meta.json"])
@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink, lambda p: p.write_bytes(b""), _link])
def test_damage_is_found_said_and_mended(store, said, name, damage):
    store.put("model", KEY, arrays(), {"seconds": 5.0})
    damage(store.path("model", KEY) / name)
    found, now = store.memo("model", KEY, lambda: (arrays(), {"seconds": 6.0}))
    assert now
    assert found.meta["seconds"] == 6.0
    assert len(said) == 1
    assert said[0].startswith(f"artifact model/{KEY[:16]} is damaged (")
    assert "\n" not in said[0]
    assert store.get("model", KEY).meta["seconds"] == 6.0


def test_altered_facts_and_artifacts_moved_to_another_name_are_damage(store, said):
    store.put("model", KEY, arrays(), {"seconds": 5.0})
    _cheat(store.path("model", KEY) / "meta.json")
    assert store.get("model", KEY) is None
    store.put("model", KEY, arrays(), {})
    other = store.path("model", "cd" * 32)
    other.parent.mkdir(parents=True)
    store.path("model", KEY).rename(other)
    assert store.get("model", "cd" * 32) is None
    assert len(said) == 2


def test_an_unreadable_moment_is_no_damage(store, said, monkeypatch):
    """Too many open files say nothing about the artifact; dropping it would lose hours."""
    store.put("model", KEY, arrays(), {})

    def out_of_files(path):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(module, "read_plain", out_of_files)
        with pytest.raises(OSError, match="Too many open files"):
            store.get("model", KEY)
    assert said == []
    assert store.get("model", KEY) is not None


@pytest.mark.parametrize("kind", ["", "..", "Model", "a/b", "m\0", "/etc", "a" * 40, "model\n"])
def test_kinds_that_are_no_plain_words_are_refused(store, kind):
    with pytest.raises(UsageError, match="is not a valid artifact name"):
        store.get(kind, KEY)


@given(st.text(max_size=80).filter(lambda s: not (16 <= len(s) <= 64 and set(s) <= set("0123456789abcdef"))))
@settings(max_examples=30, deadline=None)
def test_keys_that_are_no_hex_are_refused_in_one_line(tmp_path_factory, key):
    store = Store(tmp_path_factory.getbasetemp() / "refused")
    for act in (store.get, store.has, store.drop, store.path, lambda k, v: store.put(k, v, {}, {})):
        with pytest.raises(UsageError) as caught:
            act("model", key)
        assert "\n" not in str(caught.value)
    assert not store.root.exists()


def test_a_view_of_some_kinds_gives_no_others(store):
    store.put("poison", KEY, arrays(), {})
    view = Store(store.root, kinds=("model",))
    for act in (view.get, view.has, view.drop, view.path):
        with pytest.raises(UsageError, match="out of bounds"):
            act("poison", KEY)
    assert store.get("poison", KEY) is not None


def test_a_link_in_place_of_an_artifact_is_replaced_and_its_target_untouched(store, said, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "meta.json").write_text("{}")
    place = store.path("model", KEY)
    place.parent.mkdir(parents=True)
    place.symlink_to(outside)
    assert store.get("model", KEY) is None
    place.symlink_to(outside)
    store.put("model", KEY, arrays(), {})
    assert store.get("model", KEY) is not None
    assert [p.name for p in outside.iterdir()] == ["meta.json"]
    assert "symbolic link" in said[0]


@pytest.mark.parametrize("which", ["model", f"model/{KEY[:2]}", "tmp", "locks"])
def test_links_on_the_way_that_lead_out_are_refused(store, tmp_path, which):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / KEY).mkdir()
    link = store.root / which
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(UsageError, match="leads out of"):
        store.memo("model", KEY, lambda: (arrays(), {}))
    if which.startswith("model"):
        with pytest.raises(UsageError, match="leads out of"):
            store.drop("model", KEY)
    assert [p.name for p in outside.rglob("*")] == [KEY]


def test_a_store_that_is_itself_reached_by_a_link_works(tmp_path):
    (tmp_path / "big-disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "big-disk")
    store = Store(tmp_path / "store")
    assert store.memo("model", KEY, lambda: (arrays(), {}))[1]
    assert store.get("model", KEY) is not None


@pytest.mark.parametrize("bad", [np.array([None]), np.array(["text"]), np.array([1 + 2j])])
def test_only_numbers_are_kept(store, bad):
    with pytest.raises(UsageError, match="numbers and booleans only"):
        store.put("array", KEY, {"a": bad}, {})
    assert files(store) == []


def test_nothing_written_is_pickled(store):
    store.memo("model", KEY, lambda: (arrays(), {"seconds": 1.0}))
    written = files(store)
    assert [p.name for p in written] == ["arrays.safetensors", "meta.json"]
    for path in written:
        with pytest.raises(Exception, match=r"opcode|pickle|exhausted"):
            list(pickletools.genops(path.read_bytes()))


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    atomic_write(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(path, b"new, and longer")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_loses_nothing_that_was_there(store, monkeypatch):
    store.put("model", KEY, arrays(), {"seconds": 1.0})

    def full(path, data):
        path.write_bytes(data[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_synced", full)
        for key in (KEY, "cd" * 32):
            with pytest.raises(OSError, match="the disk of the results is full"):
                store.put("model", key, {"a": np.zeros(3)}, {})
    assert store.get("model", KEY).meta["seconds"] == 1.0
    assert store.get("model", "cd" * 32) is None
    assert len(files(store)) == 2


def test_a_replaced_artifact_is_never_seen_in_parts(store, said):
    """A checkpoint is written again and again while others look."""
    versions = [{"a": np.full(2000, v)} for v in range(16)]
    store.put("checkpoint", KEY, versions[0], {"v": 0})
    stop = threading.Event()

    def write():
        for v, version in enumerate(versions):
            store.put("checkpoint", KEY, version, {"v": v})
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = 0
    while not stop.is_set():
        try:
            found = store._load("checkpoint", KEY)
        except module.CorruptArtifact:
            continue  # caught between two versions: told apart from a whole one, which is what counts
        if found is not None:
            assert (found.arrays["a"] == found.meta["v"]).all()
            seen += 1
    writer.join()
    assert seen > 0
    assert store.get("checkpoint", KEY).meta["v"] == 15
    assert not list((store.root / "tmp").iterdir())
