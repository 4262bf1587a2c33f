"""The artifact store: arrays and facts under a key that hashes everything they depend on.

Guarantees: an artifact is there whole or not at all (written to a temporary folder, fsynced, renamed); arrays and facts
are checked against a sha256 on every load, and a damaged artifact is dropped, reported and rebuilt; two processes never
compute one key at once (an flock a key, released by the kernel when its holder dies, so no lock outlives a crash);
nothing is read or written through a symbolic link that leads out of the store. Arrays are safetensors, facts JSON:
nothing is pickled.
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
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.core.files import sync_folder, write_synced
from benchbd.core.locks import FileLock, lock_state
from benchbd.errors import CorruptArtifact, UsageError, one_line, shown

if TYPE_CHECKING:
    import numpy as np

_KIND = re.compile(r"[a-z][a-z-]{0,30}")
_KEY = re.compile(r"[0-9a-f]{16,64}")
_LOCK = re.compile(r"[a-z0-9][a-z0-9-]{0,99}")
_GONE_OR_BAD = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EIO)
"""Errors of reading that say something about the artifact. Others (no memory, too many open files) do not: it stays."""


class Artifact(NamedTuple):
    """What was stored.

    Attributes:
        arrays: by name; the caller's own, to change as it likes.
        meta: facts (``seconds`` it took, and so on).
        sha256: of the arrays' bytes as stored.
    """

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]
    sha256: str = ""


def _read(path: Path) -> bytes:
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return file.read()


def _seal(kind: str, key: str, sha: str, facts: Any) -> str:
    """sha256 over what ``meta.json`` says."""
    return hashlib.sha256(json.dumps([kind, key, sha, facts], sort_keys=True).encode()).hexdigest()


def _numbers(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays ready to be stored. Objects and text are refused: only pickle could keep the former."""
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
        root: the folder; made when first written to.
        say: told in one line when an artifact is found damaged.
        kinds: the only kinds of artifacts this view of the store gives access to; None for all.
    """

    def __init__(
        self, root: Path, say: Callable[[str], None] | None = None, kinds: Collection[str] | None = None
    ) -> None:
        self.root = root
        self.say = say or (lambda line: None)
        self.kinds = None if kinds is None else frozenset(kinds)
        self._held: set[tuple[int, str]] = set()

    def path(self, kind: str, key: str) -> Path:
        """Folder of one artifact. Refuses kinds and keys that are not plain words and hex digits."""
        if not _KIND.fullmatch(kind) or not _KEY.fullmatch(key):
            raise UsageError(f"store: {shown(kind, 40)}/{shown(key, 80)} is not the name of an artifact")
        if self.kinds is not None and kind not in self.kinds:
            raise UsageError(f"store: artifacts of kind {kind!r} are out of bounds here")
        return self.root / kind / key[:2] / key

    def _place(self, kind: str, key: str) -> Path:
        """:meth:`path`, after checking that no symbolic link on the way leads out of the store."""
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

    def _load(self, kind: str, key: str) -> Artifact | None:
        """The artifact, or None where there is none. Raises CorruptArtifact with the reason where it is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        folder = self._place(kind, key)
        if not os.path.lexists(folder):
            return None
        if folder.is_symlink():
            raise CorruptArtifact("it is a symbolic link")
        try:
            meta = json.loads(_read(folder / "meta.json"))
            body = _read(folder / "arrays.safetensors")
            sha, facts = meta["sha256"], meta["facts"]
            if hashlib.sha256(body).hexdigest() != sha or _seal(kind, key, sha, facts) != meta["seal"]:
                raise CorruptArtifact("its bytes do not have the sha256 written beside them")
            return Artifact({k: v if v.flags.writeable else v.copy() for k, v in load(body).items()}, facts, sha)
        except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise CorruptArtifact(one_line(error)[:120]) from error
        except OSError as error:
            if error.errno not in _GONE_OR_BAD:
                raise
            raise CorruptArtifact(f"{error.strerror}: {Path(str(error.filename)).name}") from error

    def get(self, kind: str, key: str) -> Artifact | None:
        """Load an artifact, or None where there is none (or where it was damaged, after saying so and dropping it)."""
        try:
            return self._load(kind, key)
        except CorruptArtifact as error:
            self.say(f"artifact {kind}/{key[:16]} is damaged ({error}); dropped, it will be made again")
            self.drop(kind, key)
            return None

    def has(self, kind: str, key: str) -> bool:
        """Whether an artifact lies there (unchecked)."""
        return (self._place(kind, key) / "meta.json").is_file()

    def put(self, kind: str, key: str, arrays: Mapping[str, Any], facts: dict[str, Any]) -> str:
        """Store an artifact and return the sha256 of its arrays. Last writer wins; equal keys mean equal content."""
        from safetensors.numpy import save

        final = self._place(kind, key)
        body = save(_numbers(arrays))
        sha = hashlib.sha256(body).hexdigest()
        facts = json.loads(json.dumps(facts))
        meta = {"key": key, "sha256": sha, "facts": facts, "seal": _seal(kind, key, sha, facts)}
        temporary = self._inside(self.root / "tmp") / f"{kind}-{key[:32]}-{secrets.token_hex(8)}"
        try:
            temporary.mkdir(parents=True)
            write_synced(temporary / "arrays.safetensors", body)
            write_synced(temporary / "meta.json", json.dumps(meta, sort_keys=True).encode())
            sync_folder(temporary)
            final.parent.mkdir(parents=True, exist_ok=True)
            for tries_left in reversed(range(20)):
                try:
                    temporary.rename(final)
                    break
                except OSError as error:
                    # An older one is in the place, or another writer's, put there since it was dropped.
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR) or not tries_left:
                        raise
                    self.drop(kind, key)
            sync_folder(final.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return sha

    def drop(self, kind: str, key: str) -> None:
        """Remove an artifact, whatever state it is in."""
        folder = self._place(kind, key)
        if folder.is_symlink() or folder.is_file():
            folder.unlink(missing_ok=True)
        elif folder.exists():
            with contextlib.suppress(FileNotFoundError):  # another process drops it too
                shutil.rmtree(folder)

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold a key's lock. ``waiting`` is called once if another process has it."""
        if not _LOCK.fullmatch(key):
            raise UsageError(f"store: {shown(key)} is not the name of a lock")
        mine = (threading.get_ident(), key)
        if mine in self._held:
            raise UsageError(f"store: what is being computed under {key[:40]} asks for itself")
        lock = FileLock(self._inside(self.root / "locks") / f"{key}.lock")
        lock.take(waiting)
        self._held.add(mine)
        try:
            yield
        finally:
            self._held.discard(mine)
            lock.release()

    def _sweep(self, key: str) -> None:
        """Remove what killed writers of a key left half-written. To be called by the holder of the key's lock."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / "tmp") as entries:
            for entry in entries:
                if f"-{key[:32]}-" in entry.name:
                    shutil.rmtree(entry.path, ignore_errors=True)

    def memo(
        self,
        kind: str,
        key: str,
        compute: Callable[[], tuple[Mapping[str, Any], dict[str, Any]]],
        waiting: Callable[[], None] | None = None,
    ) -> tuple[Artifact, bool]:
        """The artifact under a key, computed if it is not there.

        Args:
            kind: folder.
            key: hash of everything that determines the result.
            compute: makes arrays and facts; its wall-clock is added to the facts as ``seconds`` unless it says its own.
            waiting: called once if another process is computing the same key.

        Returns:
            The artifact, the same whether it was computed or loaded; and whether it was computed now.
        """
        # Without the lock, an artifact that is just being replaced may look damaged: only its holder judges.
        with contextlib.suppress(CorruptArtifact):
            found = self._load(kind, key)
            if found is not None:
                # A holder that was killed just when it was done has left its lock file.
                lock_state(self.root / "locks" / f"{kind}-{key}.lock", remove=True)
                return found, False
        with self.lock(f"{kind}-{key}", waiting):
            found = self.get(kind, key)
            if found is not None:
                return found, False
            self._sweep(key)
            began = time.perf_counter()
            given, facts = compute()
            facts.setdefault("seconds", time.perf_counter() - began)
            sha = self.put(kind, key, given, facts)
            arrays = {name: array.copy() for name, array in _numbers(given).items()}
            return Artifact(arrays, json.loads(json.dumps(facts)), sha), True
