"""Defenses that try to see what they must not: they search all they can reach from their lab, and all of memory.

What to look for comes as fingerprints in a file, so that nothing searched for lies in memory because of the search.
Registered by file.
"""

from __future__ import annotations

import gc
import hashlib
import json
import re
import sys
from collections import deque
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any, ClassVar

import numpy as np

from benchbd.errors import BenchbdError
from benchbd.plugins.contract import Defense, defense
from benchbd.storage.artifacts import Store

_KEY = re.compile(r"[0-9a-f]{16,64}")
_PATH = re.compile(r"/[^\s'\":]+")
KINDS = ("poison", "trigger", "triggered", "model", "array", "checkpoint")


def whole(array: np.ndarray) -> str:
    """Fingerprint of an array's values, whatever their type and shape."""
    return hashlib.sha256(np.asarray(array).astype(np.float64).tobytes()).hexdigest()


def singly(images: np.ndarray) -> set[str]:
    """Fingerprints of images (N, 3, H, W), one by one, whatever their scale."""
    if images.dtype.kind == "f" and images.size and images.max() <= 1:
        images = images * 255
    return {whole(np.rint(image.astype(np.float64))) for image in images}


class Search:
    """Everything seen so far, and which secrets were in it."""

    def __init__(self, secrets: dict[str, Any]) -> None:
        self.secrets, self.size, self.count = secrets, secrets["size"], secrets["count"]
        self.found: set[str] = set()
        self.arrays = 0
        self.strings: set[str] = set()
        self.stores: list[Any] = []
        self.paths: set[Path] = set()
        self._done: set[int] = set()
        self._kept: list[Any] = []

    def look(self, array: np.ndarray) -> None:
        """Compare one array with every secret."""
        self.arrays += 1
        if array.dtype.kind not in "biuf" or array.size == 0:
            return
        mark = whole(array)
        self.found |= {name for name, marks in self.secrets["whole"].items() if mark in marks}
        if array.ndim >= 3 and array.shape[-3:] == (3, self.size, self.size):
            marks = singly(array.reshape(-1, 3, self.size, self.size))
            self.found |= {name for name, known in self.secrets["images"].items() if marks & set(known)}

    def walk(self, start: Any) -> None:
        """All that can be reached: attributes, slots, closures, defaults, containers, bound methods."""
        queue = deque([start])
        while queue:
            thing = queue.popleft()
            if id(thing) in self._done:
                continue
            self._done.add(id(thing))
            self._kept.append(thing)  # an id is one's own only as long as one lives
            queue.extend(self._next(thing))

    def _next(self, thing: Any) -> list[Any]:
        if isinstance(thing, (str, bytes)):
            self.strings.add(thing if isinstance(thing, str) else thing.decode("latin-1"))
            return []
        array = as_array(thing)
        if array is not None:
            self.look(array)
            return [thing.base] if isinstance(thing, np.ndarray) and thing.base is not None else []
        if isinstance(thing, (int, float, type(None), ModuleType)):
            return []
        if isinstance(thing, Path):
            self.paths.add(thing)
            return []
        if not isinstance(thing, type) and hasattr(type(thing), "memo"):
            self.stores.append(thing)
        if isinstance(thing, dict):
            return [*thing.keys(), *thing.values()]
        if isinstance(thing, (list, tuple, set, frozenset, deque)):
            numbers = [v for v in thing if isinstance(v, (int, np.integer))]
            if numbers and len(numbers) == len(thing):
                self.look(np.array(sorted(numbers) if isinstance(thing, (set, frozenset)) else numbers))
            return list(thing)
        if isinstance(thing, MethodType):
            return [thing.__self__, thing.__func__]
        if isinstance(thing, BuiltinFunctionType):
            return [thing.__self__] if not isinstance(thing.__self__, ModuleType) else []
        if isinstance(thing, FunctionType):
            cells = [cell.cell_contents for cell in thing.__closure__ or () if _filled(cell)]
            return [*cells, *(thing.__defaults__ or ()), *(thing.__kwdefaults__ or {}).values()]
        return self._inside(thing)

    def _inside(self, thing: Any) -> list[Any]:
        found = [*getattr(thing, "__dict__", {}).values()]
        kind = thing if isinstance(thing, type) else type(thing)
        if not isinstance(thing, type):
            found.append(kind)
        for base in kind.__mro__:
            slots = base.__dict__.get("__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                found.append(getattr(thing, name, None))
            # What properties give and what methods are bound to, for classes of ours.
            if base.__module__.partition(".")[0] == "benchbd" and not isinstance(thing, type):
                found += [_got(thing, name) for name in base.__dict__ if not name.startswith("__")]
        return found

    def open_stores(self) -> None:
        """Ask every store within reach for every key within reach."""
        keys = {key for text in self.strings for key in _KEY.findall(text)}
        for store in list(self.stores):
            for key in keys:
                self._try(store, key)

    def open_folders(self) -> None:
        """Open a store in every folder within reach, above and below, and ask it for all that lies there."""
        named = {Path(path) for text in self.strings for path in _PATH.findall(text)}
        near = {up for path in self.paths | named for up in (path, *list(path.absolute().parents)[:5])}
        for folder in near | {up / "store" for up in near}:
            if any((folder / kind).is_dir() for kind in KINDS):
                for key in {place.name for kind in KINDS for place in (folder / kind).glob("*/*")}:
                    self._try(Store(folder), key)

    def _try(self, store: Any, key: str) -> None:
        for kind in KINDS:
            try:
                artifact = store.get(kind, key)
            except BenchbdError:
                continue
            for array in artifact.arrays.values() if artifact else ():
                self.look(array)


def as_array(thing: Any) -> np.ndarray | None:
    """The values of a numpy array or a tensor."""
    import torch

    if issubclass(type(thing), np.ndarray):
        return thing
    if issubclass(type(thing), torch.Tensor):
        if thing.device.type == "meta" or type(thing).__module__.startswith("torch._subclasses"):
            return None  # shapes without values, as torch.export leaves them behind
        values = thing.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy()  # numpy has no bfloat16
    return None


def _filled(cell: Any) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _got(thing: Any, name: str) -> Any:
    try:
        return getattr(thing, name)
    except (BenchbdError, AttributeError):
        return None


def frames() -> list[dict[str, Any]]:
    """Local variables of the harness's frames above the defense."""
    found, frame = [], sys._getframe()
    while frame is not None:
        if "/benchbd/" in frame.f_code.co_filename and "testing" not in frame.f_code.co_filename:
            found.append(dict(frame.f_locals))
        frame = frame.f_back
    return found


def alive() -> list[Any]:
    """Every array and tensor in this process that anything known to the garbage collector refers to."""
    import torch

    seen: dict[int, Any] = {}
    for thing in gc.get_objects():
        for candidate in (thing, *gc.get_referents(thing)):
            if issubclass(type(candidate), torch.Tensor) and candidate.is_meta:  # without data
                continue
            if issubclass(type(candidate), (np.ndarray, torch.Tensor)):
                seen[id(candidate)] = candidate
    return list(seen.values())


class _Spy(Defense):
    def search(self, lab: Any) -> Any:
        secrets = json.loads(Path(self.secrets).read_text())
        if self.everywhere:
            memory = Search(secrets)
            there = [array for thing in alive() if (array := as_array(thing)) is not None]
            for array in there:
                memory.look(array)
            known = any(np.array_equal(array, lab.poisoned.images.numpy()) for array in there)
            for local in frames():
                memory.walk(local)
            lab.note("memory", {"found": sorted(memory.found), "knows the poisoned set": known})
        reach = Search(secrets)
        trained = lab.train(lab.poisoned, epochs=0)
        lab.losses(trained, lab.poisoned)
        reach.walk(lab)
        reach.open_stores()
        reach.open_folders()
        lab.note("reach", {"found": sorted(reach.found), "arrays": reach.arrays, "stores": len(reach.stores)})
        lab.note("words", sorted(w for w in secrets["words"] if any(w in text for text in reach.strings)))
        return trained


@defense("spy", version=1)
class Spy(_Spy):
    """Declares no needs."""

    secrets: str = ""
    """File of fingerprints."""
    everywhere: bool = False
    """Search all of memory too."""

    def train(self, lab):
        return self.search(lab)


@defense("spy-clean", version=1)
class SpyClean(Spy):
    """Declares that it needs clean images."""

    needs: ClassVar[tuple[str, ...]] = ("clean",)


@defense("spy-truth", version=1)
class SpyTruth(Spy):
    """Declares that it sees the truth."""

    needs: ClassVar[tuple[str, ...]] = ("truth",)
    control: ClassVar[bool] = True
