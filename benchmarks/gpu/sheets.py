"""CIFAR-10 as lossless sheets of 1,000 images, for a machine to which only small transfers are possible.

    python benchmarks/gpu/sheets.py DATA INTO --limit 50

writes ``INTO/load1``, ``INTO/load2`` ... of at most 50 MiB each; DATA holds ``cifar-10-batches-py``. The first load has
the test images, the labels and as many training images as fit. From all loads :func:`rebuild` makes the official files,
byte by byte: a batch file is its images between a head and a tail, which the files ``*.frame`` keep.
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

ACROSS, DOWN, SIDE = 40, 25, 32
EACH = ACROSS * DOWN
"""Images of a sheet, row by row, in the order of the data set."""
OF_BATCH = 10
"""Sheets of a batch file."""
SPLITS = {"train": 50, "test": 10}
"""Sheets of each split."""
FOLDER = "cifar-10-batches-py"
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
"""The official files, with the sums that torchvision checks."""
LABELS = "labels.bin"
"""60,000 bytes, the labels of the training images first."""
_IMAGES = OF_BATCH * EACH * 3 * SIDE * SIDE
_START = b"T" + struct.pack("<I", _IMAGES)
"""What precedes the images in a batch file: pickle's mark of a string of that many bytes."""


class SheetError(Exception):
    """A folder or file that cannot be used, in one line."""


def batch_files() -> list[tuple[str, str, int]]:
    """Each batch file with its split and the number of its first sheet."""
    train = [(f"data_batch_{n + 1}", "train", n * OF_BATCH) for n in range(SPLITS["train"] // OF_BATCH)]
    return [*train, ("test_batch", "test", 0)]


def to_sheet(images: np.ndarray) -> np.ndarray:
    """One picture uint8 (800, 1280, 3) of 1,000 images uint8 (1000, 3, 32, 32)."""
    grid = images.reshape(DOWN, ACROSS, 3, SIDE, SIDE).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(grid.reshape(DOWN * SIDE, ACROSS * SIDE, 3))


def from_sheet(picture: np.ndarray) -> np.ndarray:
    """The images uint8 (1000, 3, 32, 32) of a picture uint8 (800, 1280, 3)."""
    grid = picture.reshape(DOWN, SIDE, ACROSS, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(grid.reshape(EACH, 3, SIDE, SIDE))


def read_sheet(path: Path) -> np.ndarray:
    """The images of a sheet's file.

    Raises:
        SheetError: it is not such a file.
    """
    from PIL import Image

    try:
        picture = np.asarray(Image.open(path).convert("RGB"))
    except OSError as error:
        raise SheetError(f"{path} is not a readable picture: {error}") from error
    if picture.shape != (DOWN * SIDE, ACROSS * SIDE, 3):
        raise SheetError(f"{path} has {picture.shape[1]}x{picture.shape[0]} pixels, not {ACROSS * SIDE}x{DOWN * SIDE}")
    return from_sheet(picture)


class Sheets:
    """The sheets that lie in some folders, whether all or some.

    Args:
        folders: folders that :func:`pack` wrote, in any order.

    Raises:
        SheetError: a folder does not exist, or no folder has the labels.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise SheetError(f"the folder of sheets {folder} does not exist")
        self.folders = folders
        labels = self._first(LABELS)
        if labels is None or labels.stat().st_size != sum(SPLITS.values()) * EACH:
            listed = ", ".join(map(str, folders))
            raise SheetError(
                f"no {LABELS} of {sum(SPLITS.values()) * EACH:,} bytes in {listed}; give the first load too"
            )
        self.labels = np.frombuffer(labels.read_bytes(), np.uint8).astype(np.int64)

    def _first(self, name: str) -> Path | None:
        return next((folder / name for folder in self.folders if (folder / name).is_file()), None)

    def numbers(self, split: str) -> list[int]:
        """The numbers of a split's sheets that are here."""
        return [n for n in range(SPLITS[split]) if self._first(sheet_name(split, n))]

    def images(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """The images uint8 (N, 3, 32, 32) of a split that are here, and their labels int64 (N,)."""
        before = 0 if split == "train" else SPLITS["train"]
        here = self.numbers(split)
        sheets = [self.sheet(split, number) for number in here]
        labels = [self.labels[(before + n) * EACH : (before + n + 1) * EACH] for n in here]
        empty = np.empty((0, 3, SIDE, SIDE), np.uint8)
        return np.concatenate([empty, *sheets]), np.concatenate([np.empty(0, np.int64), *labels])

    def sheet(self, split: str, number: int) -> np.ndarray:
        """The images of one sheet."""
        found = self._first(sheet_name(split, number))
        if found is None:
            raise SheetError(f"{sheet_name(split, number)} is not here")
        return read_sheet(found)

    def balanced(self, split: str) -> int:
        """How many images of a split are here if each class has as many as the rarest."""
        before = 0 if split == "train" else SPLITS["train"]
        chosen = [self.labels[(before + n) * EACH : (before + n + 1) * EACH] for n in self.numbers(split)]
        return 10 * int(np.bincount(np.concatenate(chosen), minlength=10).min()) if chosen else 0

    @property
    def complete(self) -> bool:
        """Whether the official files can be rebuilt."""
        all_here = all(len(self.numbers(split)) == count for split, count in SPLITS.items())
        return all_here and all(self._first(frame_name(name)) for name in MD5)

    def frame(self, name: str) -> tuple[bytes, bytes]:
        """What precedes and follows the images in an official file."""
        found = self._first(frame_name(name))
        if found is None:
            raise SheetError(f"{frame_name(name)} is not here")
        data = zlib.decompress(found.read_bytes())
        size = struct.unpack("<I", data[:4])[0]
        return data[4 : 4 + size], data[4 + size :]


def sheet_name(split: str, number: int) -> str:
    """The file of a sheet."""
    return f"{split}_{number:02}.webp"


def frame_name(name: str) -> str:
    """The file that keeps an official file without its images."""
    return f"{name}.frame"


def rebuild(sheets: Sheets, root: Path, md5: dict[str, str] = MD5) -> None:
    """Write the official files into ``root / cifar-10-batches-py``.

    Raises:
        SheetError: a file does not have its md5.
    """
    (root / FOLDER).mkdir(parents=True, exist_ok=True)
    images = {name: (split, first) for name, split, first in batch_files()}
    for name, wanted in md5.items():
        head, tail = sheets.frame(name)
        body = b""
        if name in images:
            split, first = images[name]
            body = b"".join(sheets.sheet(split, first + n).tobytes() for n in range(OF_BATCH))
        data = head + body + tail
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != wanted:
            raise SheetError(f"{name}, rebuilt from the sheets, does not have the official md5; pack them again")
        (root / FOLDER / name).write_bytes(data)


def pack(data: Path, into: Path, limit: int, md5: dict[str, str] = MD5) -> list[Path]:
    """Write the loads; returns their folders.

    Args:
        data: folder that holds ``cifar-10-batches-py``.
        into: where to write them.
        limit: bytes of a load at most.
        md5: the files, with their sums.

    Raises:
        SheetError: a file is missing or damaged, or the limit is too small for the test images.
    """
    load = into / "load1"
    load.mkdir(parents=True, exist_ok=True)
    files = _official(data / FOLDER, md5)
    frames = {name: _frame(name, content, name != "batches.meta") for name, content in files.items()}
    for name, (head, tail) in frames.items():
        packed = zlib.compress(struct.pack("<I", len(head)) + head + tail, 9)
        (load / frame_name(name)).write_bytes(packed)
    (load / LABELS).write_bytes(b"".join(_labels(frames[name][0], name) for name, _, _ in batch_files()))
    loads, room = [load], limit - _size(load)
    for name, content in _pictures(files, frames):
        if len(content) > room:
            if name.startswith("test"):
                raise SheetError(f"a load of {limit / 2**20:.0f} MiB does not hold the test images; raise --limit")
            loads.append(into / f"load{len(loads) + 1}")
            loads[-1].mkdir(exist_ok=True)
            room = limit
        (loads[-1] / name).write_bytes(content)
        room -= len(content)
    return loads


def _official(folder: Path, md5: dict[str, str]) -> dict[str, bytes]:
    found = {}
    for name, wanted in md5.items():
        try:
            found[name] = (folder / name).read_bytes()
        except OSError as error:
            raise SheetError(f"{folder / name} cannot be read: {error.strerror}") from error
        if hashlib.md5(found[name], usedforsecurity=False).hexdigest() != wanted:
            raise SheetError(f"{folder / name} is not the official file (its md5 is another)")
    return found


def _frame(name: str, content: bytes, has_images: bool) -> tuple[bytes, bytes]:
    if not has_images:
        return content, b""
    at = content.find(_START)
    if at < 0:
        raise SheetError(f"{name} holds no block of {OF_BATCH * EACH:,} images")
    return content[: at + len(_START)], content[at + len(_START) + _IMAGES :]


def _labels(head: bytes, name: str) -> bytes:
    """The labels in the head of a batch file: a list of small numbers, each ``K`` and a byte."""
    start = head.find(b"labels")
    run = []
    at = head.find(b"K", start)
    while at >= 0 and len(run) < OF_BATCH * EACH:
        if head[at : at + 1] == b"K":
            run.append(head[at + 1])
            at += 2
        else:  # the end of one chunk of the list and the begin of the next
            at += 1
    if start < 0 or len(run) < OF_BATCH * EACH or max(run) > 9:
        raise SheetError(f"{name} holds no list of {OF_BATCH * EACH:,} labels")
    return bytes(run)


def _pictures(files: dict[str, bytes], frames: dict[str, tuple[bytes, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Name and content of every sheet, those of the test images first."""
    import io

    from PIL import Image

    for name, split, first in _test_first(batch_files()):
        head = len(frames[name][0])
        images = np.frombuffer(files[name], np.uint8, _IMAGES, head).reshape(-1, 3, SIDE, SIDE)
        for number in range(OF_BATCH):
            out = io.BytesIO()
            sheet = to_sheet(images[number * EACH : (number + 1) * EACH])
            Image.fromarray(sheet).save(out, "webp", lossless=True, quality=50, method=4, exact=True)
            yield sheet_name(split, first + number), out.getvalue()


def _test_first(batches: Iterable[tuple[str, str, int]]) -> list[tuple[str, str, int]]:
    return sorted(batches, key=lambda batch: batch[1] != "test")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


def main() -> int:
    """Pack; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, help=f"folder that holds {FOLDER}")
    parser.add_argument("into", type=Path, help="folder to write load1, load2 ... into")
    parser.add_argument("--limit", type=float, default=50, help="MiB of a load at most (default: 50)")
    args = parser.parse_args()
    try:
        loads = pack(args.data, args.into, int(args.limit * 2**20))
    except SheetError as error:
        sys.stderr.write(f"sheets: {error}\n")
        return 2
    for load in loads:
        sys.stdout.write(f"{load}: {_size(load) / 2**20:.1f} MiB, {len(list(load.glob('*.webp')))} sheets\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
