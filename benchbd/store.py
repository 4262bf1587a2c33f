"""The artifact store: arrays and facts under a key that hashes everything they depend on.

Guarantees: an artifact is there whole or not at all (written to a temporary folder, fsynced, renamed); its bytes are
checked against a sha256 on every load, and a damaged one is dropped, reported and rebuilt; two processes never compute
one key at once (an flock a key, released by the kernel when its holder dies, so no lock outlives a crash). Arrays are
safetensors, facts JSON: nothing is pickled.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from benchbd.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

_KIND = re.compile(r"[a-z][a-z-]{0,30}")
_KEY = re.compile(r"[0-9a-f]{16,64}")


class Artifact(NamedTuple):
    """What was stored: arrays by name, and facts (``seconds`` it took, and so on)."""

    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]


def atomic_write(path: Path, data: bytes) -> None:
    """Write a file so that readers see the old bytes or the new ones, never a part; fsynced before the rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


class Store:
    """A folder of artifacts.

    Args:
        root: the folder; made when first written to.
        say: told in one line when an artifact is found damaged.
    """

    def __init__(self, root: Path, say: Callable[[str], None] | None = None) -> None:
        self.root = root
        self.say = say or (lambda line: None)

    def path(self, kind: str, key: str) -> Path:
        """Folder of one artifact. Refuses kinds and keys that are not plain words and hex digits."""
        if not _KIND.fullmatch(kind) or not _KEY.fullmatch(key):
            raise UsageError(f"store: {kind[:40]!r}/{key[:80]!r} is not the name of an artifact")
        return self.root / kind / key[:2] / key

    def get(self, kind: str, key: str) -> Artifact | None:
        """Load an artifact, or None where there is none (or where it was damaged, after saying so and dropping it)."""
        from safetensors.numpy import load

        folder = self.path(kind, key)
        try:
            if folder.is_symlink() or not folder.is_dir():
                return None
            meta = json.loads((folder / "meta.json").read_bytes())
            body = (folder / "arrays.safetensors").read_bytes()
            if hashlib.sha256(body).hexdigest() != meta["sha256"] or meta["key"] != key:
                raise ValueError("its bytes do not have the sha256 written beside them")
            return Artifact(load(body), meta["facts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            self.say(f"artifact {kind}/{key[:16]} is damaged ({' '.join(str(error).split())[:120]}); dropped, it will be made again")
            self.drop(kind, key)
            return None
        except Exception as error:  # safetensors' own error class derives from Exception directly
            if type(error).__module__.partition(".")[0] not in ("safetensors", "safetensors_rust", "builtins"):
                raise
            self.say(f"artifact {kind}/{key[:16]} is damaged ({error}); dropped, it will be made again")
            self.drop(kind, key)
            return None

    def has(self, kind: str, key: str) -> bool:
        """Whether an artifact lies there (unchecked)."""
        return (self.path(kind, key) / "meta.json").is_file()

    def put(self, kind: str, key: str, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> str:
        """Store an artifact and return the sha256 of its arrays. Last writer wins; equal keys mean equal content."""
        import numpy as np
        from safetensors.numpy import save

        final = self.path(kind, key)
        body = save({name: np.ascontiguousarray(a) for name, a in arrays.items()})
        sha = hashlib.sha256(body).hexdigest()
        temporary = self.root / "tmp" / f"{kind}-{key[:32]}-{os.getpid()}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            atomic_write(temporary / "arrays.safetensors", body)
            atomic_write(temporary / "meta.json", json.dumps({"key": key, "sha256": sha, "facts": facts}, sort_keys=True).encode())
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.exists() or final.is_symlink():
                self.drop(kind, key)
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return sha

    def drop(self, kind: str, key: str) -> None:
        """Remove an artifact, whatever state it is in."""
        folder = self.path(kind, key)
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        else:
            shutil.rmtree(folder, ignore_errors=True)

    @contextlib.contextmanager
    def lock(self, key: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
        """Hold a key's lock. ``waiting`` is called once if another process has it."""
        folder = self.root / "locks"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{key[:64]}.lock"
        handle = self._acquire(path, waiting)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(handle)

    @staticmethod
    def _acquire(path: Path, waiting: Callable[[], None] | None) -> int:
        while True:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    waiting()
                    waiting = None
                fcntl.flock(handle, fcntl.LOCK_EX)
            # The last holder removes the file; a lock on a removed file is no lock, so take the new one.
            try:
                if os.fstat(handle).st_ino == path.stat().st_ino:
                    return handle
            except FileNotFoundError:
                pass
            os.close(handle)

    def memo(
        self,
        kind: str,
        key: str,
        compute: Callable[[], tuple[dict[str, np.ndarray], dict[str, Any]]],
        waiting: Callable[[], None] | None = None,
    ) -> tuple[Artifact, bool]:
        """The artifact under a key, computed if it is not there.

        Args:
            kind: folder.
            key: hash of everything that determines the result.
            compute: makes arrays and facts; its wall-clock is added to the facts as ``seconds`` unless it says its own.
            waiting: called once if another process is computing the same key.

        Returns:
            The artifact, and whether it was computed now.
        """
        found = self.get(kind, key)
        if found:
            return found, False
        with self.lock(f"{kind}-{key}"[:64], waiting):
            found = self.get(kind, key)
            if found:
                return found, False
            began = time.perf_counter()
            arrays, facts = compute()
            facts.setdefault("seconds", time.perf_counter() - began)
            self.put(kind, key, arrays, facts)
            return Artifact(arrays, facts), True
