"""A data set in the Parquet files of the Hugging Face hub: a column of images and a column of labels."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from benchbd import Images, UsageError, dataset
from benchbd.core.contents import content_hashes
from benchbd.core.extras import extra_module
from benchbd.core.locks import locked_if_possible
from benchbd.datasets._decoded import FORMAT, Source, _build, _load
from benchbd.datasets._labels import MOST_CLASSES, Row, Table
from benchbd.datasets._picture import RULES
from benchbd.datasets._places import base, cache, reason
from benchbd.datasets.csvfolder import CsvFolder
from benchbd.errors import shown

if TYPE_CHECKING:
    import numpy as np

NAME = "parquet"
SPLITS = (("train", "train"), ("test", "test"), ("validation", "val"), ("validation", "dev"), ("train", "training"))
"""Splits, and how the names of their files or folders begin."""
MARKS = ("poisoned", "triggered")
"""Columns of a poisoned set."""
IMAGE_COLUMNS, LABEL_COLUMNS = ("image", "img"), ("label", "labels", "fine_label", "target")
"""Usual names of the two columns."""


class _Found(NamedTuple):
    """The files of a data set without their images.

    Attributes:
        files: names relative to the folder, in order.
        splits: the split of each file; empty for files that name none.
        labels: the labels in each file: whole numbers, or text.
        names: names of the classes; empty if the files do not say them.
        image: the column of the images.
    """

    files: tuple[str, ...]
    splits: tuple[str, ...]
    labels: tuple[tuple[Any, ...], ...]
    names: tuple[str, ...]
    image: str


@dataset("parquet", version=1)
class Parquet(CsvFolder):
    """Parquet files as the Hugging Face hub stores them: images as encoded bytes, and whole numbers or words as labels.

    Read from ``DIR/FOLDER``, where DIR is the folder of ``--data`` or ``BENCHBD_DATA``: every ``*.parquet`` in it or
    below. A file belongs to the split that its name or folder begins with (``train-00000-of-00002.parquet``,
    ``test/0000.parquet``). Without a test file, the validation file is the test part; without either, a share of each
    class is drawn for testing. Whole numbers are the classes; words are numbered in sorted order. Images become 8-bit
    RGB as in ``csv-folder``. Needs pyarrow (``benchbd[parquet]``).
    """

    labels: ClassVar[str] = "labels.csv"  # type: ignore[misc]

    folder: str = "parquet"
    """Folder below the data folder that contains the files."""
    image: str | None = None
    """Column of the images (default: image or img, or the only one of images)."""
    label: str | None = None
    """Column of the labels (default: label, labels, fine_label or target)."""

    def missing(self, root: str | None) -> str | None:
        """Say what is wrong with the files, else None."""
        try:
            self._table(root)
        except UsageError as error:
            return str(error)
        return None

    def input_files(self, root: str | None) -> list[str]:
        """The Parquet files."""
        place = self._csv(root)
        return [str(place / name) for name in self._found(root).files]

    def load(self, split: Literal["train", "test"], root: str | None) -> Images:
        """Load one split. Images are decoded once, kept in the cache folder and mapped into memory."""
        import torch

        place, found = self._csv(root), self._found(root)
        part = self._part(self._table(root), split)
        images = _decoded_rows(place, found, part.files, self.size)
        return Images(torch.from_numpy(images), torch.tensor(part.labels, dtype=torch.int64))

    def _csv(self, root: str | None) -> Path:
        return base(root) / self.folder

    def _found(self, root: str | None) -> _Found:
        place = self._csv(root)
        try:
            files = sorted(path for path in place.rglob("*.parquet") if not path.name.startswith("."))
            state = tuple((path.relative_to(place).as_posix(), path.stat().st_mtime_ns) for path in files)
        except OSError as error:
            raise UsageError(f"{NAME}: {place} cannot be read: {reason(error)}") from error
        if not files:
            raise UsageError(
                f"{NAME}: there is no *.parquet file in {place}; put the data set's files there, and name the folder "
                "above with --data or BENCHBD_DATA"
            )
        return _read(place, state, self.image, self.label)

    def _table(self, root: str | None) -> Table:
        """The samples as the table of a CSV in that folder, which does not exist."""
        place, found = self._csv(root), self._found(root)
        classes = _classes(found, str(place))
        rows = tuple(
            Row(f"{name}#{number}", str(label), split, number + 1)
            for name, split, labels in zip(found.files, found.splits, found.labels, strict=True)
            for number, label in enumerate(labels)
        )
        if not 2 <= len(classes) <= MOST_CLASSES:
            raise UsageError(f"{NAME}: {place} has {len(classes)} classes; there must be 2 to {MOST_CLASSES:,}")
        for split in sorted(set(found.splits)):
            counts = dict.fromkeys(classes, 0)
            for row in rows:
                counts[row.label] += row.split == split
            few = next((label for label, count in counts.items() if count < (1 if split else 2)), None)
            if few is not None:
                raise UsageError(f"{NAME}: {place} has {counts[few]} {split or 'images'} of class {few}, too few")
        return Table(place / "images", rows, classes)


@functools.lru_cache(maxsize=8)
def _read(place: Path, state: tuple[tuple[str, int], ...], image: str | None, label: str | None) -> _Found:
    """Read the labels of files, whose times of change are part of what this call is remembered by."""
    parquet = extra_module("pyarrow.parquet", "parquet", f"dataset {NAME!r}")
    files, splits = _splits(place, [name for name, _ in state])
    labels, names, columns = [], (), set()
    for name in files:
        try:
            schema = parquet.read_schema(place / name)
            _refuse_marked(place / name, schema.names)
            column = _column(place / name, schema.names, label, LABEL_COLUMNS, "label")
            columns.add(_image_column(place / name, schema, image))
            values = parquet.read_table(place / name, columns=[column])[column].to_pylist()
        except UsageError:
            raise
        except Exception as error:  # pyarrow raises errors of its own for damaged files
            raise UsageError(f"{NAME}: {place / name} cannot be read ({reason(error)[:200]})") from error
        labels.append(_checked_labels(place / name, values))
        names = names or _class_names(schema.metadata, column)
    if len({type(value) for part in labels for value in part}) > 1:
        raise UsageError(f"{NAME}: {place} has numbers and words as labels; there must be one kind")
    if len(columns) > 1:
        raise UsageError(f"{NAME}: {place} has images in the columns {shown(sorted(columns))}; choose with image=")
    return _Found(tuple(files), tuple(splits), tuple(labels), names, columns.pop())


def _splits(place: Path, files: list[str]) -> tuple[list[str], list[str]]:
    """The files to read and the split of each; empty where no file names one."""
    found: dict[str, str] = {}
    sets: set[str] = set()
    for name in files:
        parts = Path(name).parts
        known = [(n, split) for n, part in enumerate(parts) if (split := _split_of(part))]
        found[name] = known[-1][1] if known else ""
        sets.add("/".join(parts[: known[-1][0]] if known else parts[:-1]))
    if len(sets) > 1:
        raise UsageError(
            f"{NAME}: {place} holds several data sets ({', '.join(sorted(sets))[:200]}); name one in folder="
        )
    there = set(found.values())
    if there == {""}:
        return files, [""] * len(files)
    if "triggered" in there:
        raise UsageError(f"{NAME}: {place} holds triggered images; read it with benchbd import {place} --format hf")
    testing = "test" if "test" in there else "validation"
    if "train" not in there or testing not in there - {""}:
        if there <= {"train"}:
            return files, [""] * len(files)
        raise UsageError(f"{NAME}: {place} has files of {', '.join(sorted(there - {''}))}, but needs train and test")
    if "" in there:
        odd = next(name for name, split in found.items() if not split)
        raise UsageError(
            f"{NAME}: {place / odd} belongs to no split; begin its name with train or test, or take it out"
        )
    kept = [name for name in files if found[name] in ("train", testing)]
    return kept, ["train" if found[name] == "train" else "test" for name in kept]


def _split_of(part: str) -> str:
    """The split that a file's or folder's name begins with, as a word of its own; '' if it begins with none."""
    word = re.match(r"[a-z]+", part.lower())
    known = {start: split for split, start in SPLITS} | {"validation": "validation", "valid": "validation"}
    return (known | {"triggered": "triggered"}).get(word[0] if word else "", "")


def _refuse_marked(path: Path, columns: list[str]) -> None:
    """Refuse a poisoned set, whose images this data set would present as clean."""
    if set(columns) & set(MARKS):
        raise UsageError(
            f"{NAME}: {path} marks poison, so this is not a clean data set; read it with benchbd import FOLDER "
            "--format hf"
        )


def _column(path: Path, columns: list[str], wanted: str | None, usual: tuple[str, ...], what: str) -> str:
    found = [name for name in ((wanted,) if wanted else usual) if name in columns]
    if not found:
        raise UsageError(f"{NAME}: {path} has the columns {shown(columns, 200)}; name the one to use with {what}=")
    return found[0]


def _image_column(path: Path, schema: Any, wanted: str | None) -> str:
    """The column of images: a struct with the field bytes, or plain bytes."""
    fit = [field.name for field in schema if _holds_bytes(field.type)]
    if wanted is None and len(fit) == 1:
        return str(fit[0])
    found = _column(path, schema.names, wanted, IMAGE_COLUMNS, "image")
    if found not in fit:
        raise UsageError(f"{NAME}: {path}: column {found!r} is {schema.field(found).type}, not encoded images")
    return found


def _holds_bytes(kind: Any) -> bool:
    text = str(kind)
    return text in ("binary", "large_binary") or (text.startswith("struct<") and "bytes: " in text)


def _checked_labels(path: Path, values: list[Any]) -> tuple[Any, ...]:
    for number, value in enumerate(values):
        fine = isinstance(value, str) or (type(value) is int and value >= 0)
        if not fine:
            raise UsageError(
                f"{NAME}: {path}: the label of row {number} is {shown(value)}, not a class number or a word"
            )
    return tuple(values)


def _class_names(metadata: dict[bytes, bytes] | None, column: str) -> tuple[str, ...]:
    """The names of a ClassLabel column; empty if the file says none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _classes(found: _Found, where: str) -> tuple[str, ...]:
    """The labels as text, in the order of the classes."""
    everything = {value for part in found.labels for value in part}
    if any(isinstance(value, str) for value in everything):
        return tuple(sorted(everything))
    count = 1 + max(everything, default=-1)
    if found.names and count > len(found.names):
        raise UsageError(f"{NAME}: {where} has the label {count - 1}, but names {len(found.names)} classes")
    return tuple(map(str, range(min(len(found.names) or count, MOST_CLASSES + 1))))


class _Picture(io.BytesIO):
    """The bytes of one image, which messages show as its place."""

    def __init__(self, body: bytes, place: str) -> None:
        super().__init__(body)
        self._place = place

    def __str__(self) -> str:
        return self._place

    __repr__ = __str__


class _Rows:
    """Images by ``FILE#ROW``, where :class:`benchbd.datasets._decoded.Source` has a folder."""

    def __init__(self, place: Path, found: _Found) -> None:
        parquet = extra_module("pyarrow.parquet", "parquet", f"dataset {NAME!r}")
        self._place, self._columns = place, {}
        for name in found.files:
            column = parquet.read_table(place / name, columns=[found.image], memory_map=True)[found.image]
            self._columns[name] = column

    def __truediv__(self, name: str) -> _Picture:
        file, _, row = name.rpartition("#")
        value = self._columns[file][int(row)].as_py()
        body = value.get("bytes") if isinstance(value, dict) else value
        where = f"{self._place / file}: image of row {row}"
        if not isinstance(body, bytes) or not body:
            raise UsageError(f"{NAME}: {where} is not in the file, only its path; embed images before to_parquet()")
        return _Picture(body, where)


def _decoded_rows(place: Path, found: _Found, names: list[str], size: int) -> np.ndarray:
    """The decoded images, from the cache if they are there: uint8 (N, 3, size, size)."""
    import PIL

    kept = cache() / "decoded"
    try:
        hashes = content_hashes(place, found.files)
        parts = [FORMAT, RULES, PIL.__version__, size, found.image, found.files, hashes, names]
        final = kept / f"{NAME}-{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"
        source = Source(NAME, place, names, size, crop=True)
        images = _load(final, source)
        if images is None:
            kept.mkdir(parents=True, exist_ok=True)
            with locked_if_possible(kept / f".{final.name}.lock"):
                images = _load(final, source)
                if images is None:
                    rows: Any = _Rows(place, found)
                    _build(source._replace(folder=rows), kept, final)
                    images = _load(final, source)
    except OSError as error:
        raise UsageError(f"{NAME}: {error.filename or kept} cannot be read or written: {reason(error)}") from error
    if images is None:
        raise UsageError(f"{NAME}: the decoded images in {final} do not read back as written; check the disk")
    return images
