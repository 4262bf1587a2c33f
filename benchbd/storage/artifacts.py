"""The artifact store: arrays and metadata under a key that hashes everything they depend on.

Guarantees: an artifact exists completely or not at all (it is written to a temporary folder, fsynced and renamed).
Arrays and metadata are checked against a sha256 on every load; a damaged artifact is reported, deleted and rebuilt. Two
processes never compute the same key at once: each key has an flock, which the kernel releases when its holder dies, so
no lock outlives a crash. The store never reads or writes through a symbolic link that leads out of it. Arrays are
safetensors and metadata is JSON; nothing is pickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.core.files import NotAFile, read_plain, results_disk, sync_folder, write_synced
from benchbd.core.locks import FileLock, lock_state
from benchbd.errors import CorruptArtifact, UsageError, one_line, shown

if TYPE_CHECKING:
    import numpy as np

_KIND = re.compile(r"[a-z][a-z-]{0,30}")
_KEY = re.compile(r"[0-9a-f]{16,64}")
_LOCK = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
_GONE_OR_BAD = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO)
"""Read errors that mean the artifact is damaged. After others (no memory, too many open files) the artifact stays."""


class Artifact(NamedTuple):
    """Stored arrays and their metadata.

    Attributes:
        arrays: arrays by name. The caller owns them and may change them.
        meta: metadata, such as the ``seconds`` that computing took.
        sha256: sha256 (hex) of the arrays' bytes as stored.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    sha256: str = ""


def _seal(kind: str, key: str, sha: str, facts: Any) -> str:
    """sha256 (hex) over the contents of ``meta.json``."""
    return hashlib.sha256(json.dumps([kind, key, sha, facts], sort_keys=True).encode()).hexdigest()


def _numbers(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays ready to be stored. Raises UsageError for objects and text; only pickle could store objects."""
    import numpy as np

    found = {}
    for name, given in arrays.items():
        array = np.asarray(given, order="C")
        if array.dtype.kind not in "biuf":
            raise UsageError(f"array {shown(name)} holds {array.dtype}; the store keeps numbers and booleans only")
        found[str(name)] = array
    return found


class Store:
    """A folder of artifacts.

    Args:
        root: the folder; created on the first write.
        say: called with one line when an artifact is damaged.
        kinds: the kinds of artifacts that this view of the store gives access to; None for all.
    """

    def __init__(
        self, root: Path, say: Callable[[str], None] | None = None, kinds: Collection[str] | None = None
    ) -> None:
        self.root = root
        self.say = say or (lambda line: None)
        self.kinds = None if kinds is None else frozenset(kinds)
        self._held: set[tuple[int, str]] = set()
        self._sums: dict[tuple[str, str], str] = {}

    def path(self, kind: str, key: str) -> Path:
        """Folder of one artifact. Raises UsageError unless the kind is a plain word and the key is hex digits."""
        if not _KIND.fullmatch(kind) or not _KEY.fullmatch(key):
            raise UsageError(f"store: {shown(kind, 40)}/{shown(key, 80)} is not a valid artifact name")
        if self.kinds is not None and kind not in self.kinds:
            raise UsageError(f"store: artifacts of kind {kind!r} are out of bounds here")
        return self.root / kind / key[:2] / key

    def _place(self, kind: str, key: str) -> Path:
        """:meth:`path`, after a check that no symbolic link leads out of the store."""
        folder = self.path(kind, key)
        self._inside(folder.parent)
        return folder

    def _inside(self, folder: Path) -> Path:
        try:
            inside = folder.resolve().is_relative_to(self.root.resolve())
        except (OSError, RuntimeError):  # a loop of links
            inside = False
        if not inside:
            raise UsageError(f"store: {folder} leads out of {self.root} by a symbolic link; remove the link")
        return folder

    def _make_folder(self, folder: Path) -> None:
        """Create a folder of the store. Whatever lies in its place below the root is removed: the store is a cache."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            below = folder.relative_to(self.root).parts
            for number in range(1, len(below) + 1):
                place = self.root.joinpath(*below[:number])
                if os.path.lexists(place) and not place.is_dir():
                    place.unlink(missing_ok=True)
                    self.say(f"{place} was not a folder; removed, will be rebuilt")
            folder.mkdir(parents=True, exist_ok=True)

    def _load(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None if it does not exist. Raises CorruptArtifact with the reason if it is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        folder = self._place(kind, key)
        if not os.path.lexists(folder):
            return None
        if folder.is_symlink():
            raise CorruptArtifact("it is a symbolic link")
        try:
            meta = json.loads(read_plain(folder / "meta.json"))
            body = read_plain(folder / "arrays.safetensors")
            sha, facts = meta["sha256"], meta["facts"]
            if hashlib.sha256(body).hexdigest() != sha or _seal(kind, key, sha, facts) != meta["seal"]:
                raise CorruptArtifact("its bytes do not match the sha256 stored with them")
            arrays = {k: v if v.flags.writeable else v.copy() for k, v in load(body).items()}
            self._sums[kind, key] = sha
            return Artifact(arrays, facts, sha)
        except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise CorruptArtifact(one_line(error)[:120]) from error
        except OSError as error:
            if error.errno not in _GONE_OR_BAD and not isinstance(error, NotAFile):
                raise
            raise CorruptArtifact(f"{error.strerror}: {Path(str(error.filename)).name}") from error

    def get(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None if it does not exist. A damaged one is reported and deleted, and counts as missing."""
        try:
            return self._load(kind, key)
        except CorruptArtifact as error:
            self.say(f"artifact {kind}/{key[:16]} is damaged ({error}); deleted, will be rebuilt")
            self.drop(kind, key)
            return None

    def has(self, kind: str, key: str) -> bool:
        """Whether the artifact exists. Its contents are not checked."""
        return (self._place(kind, key) / "meta.json").is_file()

    def sha256(self, kind: str, key: str) -> str | None:
        """The sha256 of the arrays that this object last read or wrote, whatever has happened to their files since.

        Otherwise the one in the store, not compared with the arrays; None if it cannot be read.
        """
        if (kind, key) in self._sums:
            return self._sums[kind, key]
        try:
            found = json.loads(read_plain(self._place(kind, key) / "meta.json"))["sha256"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return found if isinstance(found, str) else None

    def put(self, kind: str, key: str, arrays: Mapping[str, Any], facts: dict[str, Any]) -> str:
        """Store an artifact and return its arrays' sha256. The last writer wins; equal keys mean equal content."""
        from safetensors.numpy import save

        final = self._place(kind, key)
        body = save(_numbers(arrays))
        sha = hashlib.sha256(body).hexdigest()
        facts = json.loads(json.dumps(facts))
        meta = {"key": key, "sha256": sha, "facts": facts, "seal": _seal(kind, key, sha, facts)}
        with results_disk(self.root):
            self._write(final, kind, key, body, json.dumps(meta, sort_keys=True).encode())
        self._sums[kind, key] = sha
        return sha

    def _write(self, final: Path, kind: str, key: str, body: bytes, meta: bytes) -> None:
        self._make_folder(self._inside(self.root / "tmp"))
        temporary = self.root / "tmp" / f"{kind}-{key[:32]}-{secrets.token_hex(8)}"
        try:
            temporary.mkdir(parents=True)
            write_synced(temporary / "arrays.safetensors", body)
            write_synced(temporary / "meta.json", meta)
            sync_folder(temporary)
            self._make_folder(final.parent)
            for tries_left in reversed(range(20)):
                try:
                    temporary.rename(final)
                    break
                except OSError as error:
                    # An older artifact is there, or another writer's that arrived after the old one was deleted.
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or not tries_left:
                        raise
                    self.drop(kind, key)
            sync_folder(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def drop(self, kind: str, key: str) -> None:
        """Delete an artifact, whatever state it is in."""
        folder = self._place(kind, key)
        # Another process deletes it too, or there is no folder for it.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if stat.S_ISDIR(folder.lstat().st_mode):
                shutil.rmtree(folder)
            else:
                folder.unlink()

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold a key's lock. ``waiting`` is called once if another process holds it."""
        if not _LOCK.fullmatch(key):
            raise UsageError(f"store: {shown(key)} is not a valid lock name")
        mine = (threading.get_ident(), key)
        if mine in self._held:
            raise UsageError(f"store: the computation of {key[:40]} requests its own result")
        lock = FileLock(self.root / "locks" / f"{key}.lock")
        with results_disk(self.root):
            self._make_folder(self._inside(self.root / "locks"))
            lock.take(waiting)
        self._held.add(mine)
        try:
            yield
        finally:
            self._held.discard(mine)
            lock.release()

    def _remove_partial(self, key: str) -> None:
        """Remove the half-written files of a key's killed writers. Only the holder of the key's lock may call this."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root / "tmp") as entries:
            for entry in entries:
                # shutil.rmtree would open a pipe and wait.
                if f"-{key[:32]}-" in entry.name and entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)

    def memo(
        self,
        kind: str,
        key: str,
        compute: Callable[[], tuple[Mapping[str, Any], dict[str, Any]]],
        waiting: Callable[[], None] | None = None,
    ) -> tuple[Artifact, bool]:
        """The artifact under a key, computed if it does not exist.

        Args:
            kind: kind of artifact; names the folder.
            key: hash of everything that determines the result.
            compute: returns arrays and metadata. Its wall-clock time is added as ``seconds`` unless it returns one.
            waiting: called once if another process is computing the same key.

        Returns:
            The artifact, which is the same computed or loaded, and whether this call computed it.
        """
        # Without the lock, an artifact that is being replaced may look damaged; only the lock's holder may judge it.
        with contextlib.suppress(CorruptArtifact):
            found = self._load(kind, key)
            if found is not None:
                # A holder that was killed right after its write has left its lock file.
                lock_state(self.root / "locks" / f"{kind}-{key}.lock", remove=True)
                return found, False
        with self.lock(f"{kind}-{key}", waiting):
            found = self.get(kind, key)
            if found is not None:
                return found, False
            self._remove_partial(key)
            began = time.perf_counter()
            given, facts = compute()
            facts.setdefault("seconds", time.perf_counter() - began)
            sha = self.put(kind, key, given, facts)
            arrays = {name: array.copy() for name, array in _numbers(given).items()}
            return Artifact(arrays, json.loads(json.dumps(facts)), sha), True
