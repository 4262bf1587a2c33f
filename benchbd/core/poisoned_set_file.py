"""The file of a poisoned set: a zip of ``header.json`` and one ``.npy`` for each array, which ``numpy.load`` reads.

Nothing in it is pickled. The header holds the sha256 of each array, which every load checks, and all facts that a plan
needs, so plans read no arrays. Equal sets give equal files, byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from benchbd.core.files import named_file, open_plain
from benchbd.core.poisoned_set import CleanTest, PoisonedSet, TriggeredTest
from benchbd.errors import BenchbdError, UsageError, one_line, shown

if TYPE_CHECKING:
    import numpy as np

FORMAT = "benchbd-poisoned-set"
VERSION = 1
HEADER = "header.json"
LARGEST_HEADER = 1 << 24
"""Bytes from which on something is not a header. Names of 10,000 classes fit."""
REQUIRED = ("images", "labels", "poison", "cover", "true_labels")
TRIGGERED = tuple(f"triggered_{name}" for name in TriggeredTest._fields)
TEST = tuple(f"test_{name}" for name in CleanTest._fields)
KNOWN = {*REQUIRED, "originals", *TRIGGERED, *TEST}
_COUNTS = ("classes", "size", "train", "poison", "cover", "triggered", "test")
_DATE = (1980, 1, 1, 0, 0, 0)


class SetFacts(NamedTuple):
    """What the header says of a set.

    Attributes:
        classes: number of classes.
        size: height and width of the images.
        train: number of training samples.
        poison: number of poisoned samples among them.
        cover: number of covers among them.
        triggered: number of triggered test images.
        test: number of clean test images.
        originals: whether the clean images of poison and covers are in the file.
        true_labels: whether the true label of every sample is known.
        targets: the target of each class.
        class_counts: training samples of each class, by their true labels where these are known.
        class_names: names of the classes; empty if they are not known.
        source: where the set comes from.
        sha256: sha256 of each array, by name.
    """

    classes: int
    size: int
    train: int
    poison: int
    cover: int
    triggered: int
    test: int
    originals: bool
    true_labels: bool
    targets: tuple[int, ...]
    class_counts: tuple[int, ...]
    class_names: tuple[str, ...]
    source: dict[str, Any]
    sha256: dict[str, str]


def facts_of_set(given: PoisonedSet) -> SetFacts:
    """The facts of a set, as its file's header says them."""
    import numpy as np

    return SetFacts(
        classes=given.classes,
        size=int(given.images.shape[-1]),
        train=len(given.images),
        poison=int(given.poison.sum()),
        cover=int(given.cover.sum()),
        triggered=0 if given.triggered is None else len(given.triggered.images),
        test=0 if given.test is None else len(given.test.images),
        originals=given.originals is not None,
        true_labels=bool((given.true_labels >= 0).all()),
        targets=given.targets,
        class_counts=tuple(np.bincount(given.best_labels, minlength=given.classes).tolist()),
        class_names=given.class_names,
        source=given.source,
        sha256={name: _sha(array) for name, array in given.arrays().items()},
    )


def write_set(given: PoisonedSet, path: Path) -> SetFacts:
    """Check a set and write its file; an old file is replaced only once the new one is complete.

    Raises:
        UsageError: the arrays do not fit each other, or the file cannot be written.
    """
    import numpy as np

    given.check("the poisoned set")
    facts = facts_of_set(given)
    text = json.dumps({"format": FORMAT, "version": VERSION, **facts._asdict()}, indent=1, sort_keys=True)
    try:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; give the name of a file, such as poison.npz")
        with named_file(path) as out, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(HEADER, _DATE), text)
            for name, array in given.arrays().items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy", _DATE), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    except OSError as error:
        raise UsageError(f"{path} cannot be written ({error.strerror or error})") from error
    return facts


class PoisonedSetFile:
    """A file of a poisoned set. Its header is read at once, its arrays by :meth:`load`.

    Raises:
        UsageError: there is no such file, or it is not a poisoned set of this version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = self._read_facts()

    def load(self) -> PoisonedSet:
        """Read all arrays and check them against their sha256 and each other.

        Raises:
            UsageError: the file is damaged.
        """
        facts = self.facts
        try:
            with self._opened() as file, zipfile.ZipFile(file) as archive:
                arrays = {name: self._array(archive, name) for name in facts.sha256}
        except (OSError, zipfile.BadZipFile) as error:
            raise UsageError(f"{self.path} cannot be read ({one_line(error)}); import it again") from error
        given = PoisonedSet(
            **{name: arrays[name] for name in REQUIRED},
            classes=facts.classes,
            targets=facts.targets,
            originals=arrays.get("originals"),
            triggered=TriggeredTest(*(arrays[name] for name in TRIGGERED)) if facts.triggered else None,
            test=CleanTest(*(arrays[name] for name in TEST)) if facts.test else None,
            class_names=facts.class_names,
            source=facts.source,
        )
        given.check(str(self.path))
        if facts_of_set(given) != facts:
            raise UsageError(f"{self.path} is damaged: its header does not describe its arrays; import it again")
        return given

    def _opened(self) -> IO[bytes]:
        """The file, open. A pipe, socket or device is refused instead of waited for; links are followed."""
        return open(open_plain(os.path.realpath(self.path)), "rb")  # noqa: PTH123 - a descriptor

    def _array(self, archive: zipfile.ZipFile, name: str) -> np.ndarray:
        import numpy as np

        try:
            with archive.open(f"{name}.npy") as member:
                array = np.lib.format.read_array(member, allow_pickle=False)
        except Exception as error:  # numpy and zlib raise nearly anything on damaged bytes
            raise UsageError(f"{self.path} is damaged: {name} is no plain array; import it again") from error
        if array.dtype.hasobject or _sha(array) != self.facts.sha256[name]:
            raise UsageError(f"{self.path} is damaged: {name} does not match its sha256; import it again")
        return np.asarray(array)

    def _read_facts(self) -> SetFacts:
        try:
            with self._opened() as file, zipfile.ZipFile(file) as archive:
                if archive.getinfo(HEADER).file_size >= LARGEST_HEADER:
                    raise ValueError("its header is too large")
                header = json.loads(archive.read(HEADER))
            if header["format"] != FORMAT:
                raise ValueError(f"its format is {shown(header['format'])}")
            if header["version"] != VERSION:
                raise UsageError(
                    f"{self.path} has version {shown(header['version'])} of the format; this benchbd reads {VERSION}"
                )
            return _facts(header)
        except FileNotFoundError:
            raise UsageError(f"there is no file {self.path}; benchbd import writes it") from None
        except BenchbdError:
            raise
        except OSError as error:
            raise UsageError(f"{self.path} cannot be read ({error.strerror or error})") from error
        except Exception as error:  # zipfile and json raise nearly anything on other files
            raise UsageError(
                f"{self.path} is not a poisoned set that benchbd import wrote ({one_line(error)[:120]})"
            ) from None


def _facts(header: dict[str, Any]) -> SetFacts:
    """The facts of a header. Raises any error if it is not a header."""
    counts = {name: header[name] for name in _COUNTS}
    names, sha = header["class_names"], header["sha256"]
    lists = {name: header[name] for name in ("targets", "class_counts")}
    if not all(
        type(count) is int and count >= 0 for counted in (counts.values(), *lists.values()) for count in counted
    ):
        raise ValueError("a count is not a number")
    if not all(isinstance(name, str) for name in [*names, *sha, *sha.values()]) or not set(sha) <= KNOWN:
        raise ValueError("it has other arrays")
    needed = {*REQUIRED, *(TRIGGERED if counts["triggered"] else ()), *(TEST if counts["test"] else ())}
    if not needed <= set(sha) or not counts["classes"] == len(lists["targets"]) == len(lists["class_counts"]):
        raise ValueError("its header contradicts itself")
    if not all(target < counts["classes"] for target in lists["targets"]):
        raise ValueError("a target is not a class")
    return SetFacts(
        **counts,
        originals=header["originals"] is True,
        true_labels=header["true_labels"] is True,
        targets=tuple(lists["targets"]),
        class_counts=tuple(lists["class_counts"]),
        class_names=tuple(names),
        source=dict(header["source"]),
        sha256=dict(sha),
    )


def _sha(array: np.ndarray) -> str:
    """sha256 (hex) of an array's type, shape and values, in little-endian order."""
    import numpy as np

    sha = hashlib.sha256(f"{array.dtype.newbyteorder('=').name}{tuple(array.shape)}".encode())
    sha.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return sha.hexdigest()
