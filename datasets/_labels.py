"""A CSV of image files and their labels: reading it, checking it, and numbering its classes."""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from benchbd import UsageError
from benchbd.datasets._columns import check_head
from benchbd.datasets._picture import not_a_file
from benchbd.datasets._places import reason
from benchbd.errors import shown

if TYPE_CHECKING:
    from _csv import Reader

SPLITS = ("train", "test")
MARKS = {"": "", "0": "", "false": "", "no": "", "1": "poison", "true": "poison", "yes": "poison", "cover": "cover"}
"""Values of the columns poisoned and triggered; only poisoned may be cover."""
MOST_CLASSES = 10_000
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)


class Row(NamedTuple):
    """A row of a CSV.

    Attributes:
        file: name of the image, relative to the CSV, without ``./`` and ``//``.
        label: word or number.
        split: train or test; empty if the CSV has no such column.
        line: number of the row's first line in the file, from 1.
        true_label: the label before poisoning; empty if it is not known.
        mark: ``poison``, ``cover`` or ``triggered``; empty for a clean image.
    """

    file: str
    label: str
    split: str
    line: int
    true_label: str = ""
    mark: str = ""


class Table(NamedTuple):
    """The content of a CSV: clean rows in file order, class names by class number, and rows of poison and triggers."""

    path: Path
    rows: tuple[Row, ...]
    classes: tuple[str, ...]
    marked: tuple[Row, ...] = ()


def read_table(path: Path, whole: bool = False) -> Table:
    """Read and check a CSV; a CSV that has not changed since the last call is not read again.

    Args:
        path: the CSV.
        whole: check it as a poisoned set, whose clean rows need not have images of every class in both splits.

    Raises:
        UsageError: the CSV is missing or invalid; the message names its line.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise UsageError(
            f"csv-folder: {path} cannot be read: {reason(error)}; put the images there with a CSV of the columns "
            "file and label, and name the folder above it with --data or BENCHBD_DATA"
        ) from error
    if what := not_a_file(state.st_mode):
        raise UsageError(f"csv-folder: {path} is {what}; put a CSV of the columns file and label there")
    return _read(path, state.st_mtime_ns, state.st_size, whole)


def faults(table: Table) -> Iterator[str]:
    """What is wrong with the images that a CSV names: one is missing, is not a file, or is another row's file."""
    path = table.path
    seen: dict[tuple[int, int], Row] = {}
    for row in (*table.rows, *table.marked):
        file = path.parent / row.file
        try:
            state = file.stat()
        except (FileNotFoundError, NotADirectoryError):
            if file.is_symlink():
                yield f"{path}, line {row.line}: {file} is a link to a file that does not exist"
            hint = "; write / between folders" if "\\" in row.file else ""
            yield f"{path}, line {row.line}: there is no image {file}{hint}"
            continue
        except OSError as error:
            yield f"{path}, line {row.line}: {file} cannot be read: {reason(error)}"
            continue
        if what := not_a_file(state.st_mode):
            yield f"{path}, line {row.line}: {file} is {what}, not an image file"
        # Names can differ by a link, or by case on some systems. Some file systems number no files: inode 0.
        first = seen.setdefault((state.st_dev, state.st_ino), row)
        if first is not row and state.st_ino:
            yield _twice(path, first, row)


@functools.lru_cache(maxsize=16)
def _read(path: Path, changed: int, size: int, whole: bool) -> Table:
    """Read and check a CSV. The date and size are part of the cache key, so a changed file is read again."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            lines = _lines(reader)
            line, values = next(lines, (1, []))
            head = [name.strip().lower() for name in values]
            check_head(path, line, head)
            rows = tuple(_row(path, line, head, values) for line, values in lines)
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8 text; save it as CSV in UTF-8") from None
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    except OSError as error:
        raise UsageError(f"csv-folder: {path} cannot be read: {reason(error)}") from error
    return _checked(path, rows, whole)


def _lines(reader: Reader) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not empty, each with the number of its first line in the file."""
    line = 1
    for values in reader:
        if any(value.strip() for value in values):
            yield line, values
        line = reader.line_num + 1


def _row(path: Path, line: int, head: list[str], values: list[str]) -> Row:
    """One row. A file's name may begin with ``~``, unlike one that a user types (``core.paths.name_below``)."""
    where = f"{path}, line {line}"
    if len(values) != len(head):
        raise UsageError(f"{where}: has {len(values)} values for {len(head)} columns")
    told = {name: value.strip() for name, value in zip(head, values, strict=True)}
    file, label, split = told["file"], told["label"], told.get("split", "")
    inside = PurePosixPath(file)
    if not inside.name or inside.is_absolute() or ".." in inside.parts or not file.isprintable():
        raise UsageError(f"{where}: file must be the name of an image below the CSV's folder, not {shown(file)}")
    if not label:
        raise UsageError(f"{where}: label is empty")
    if "split" in told and split not in SPLITS:
        raise UsageError(f"{where}: split must be train or test, not {shown(split)}")
    return Row(str(inside), label, split, line, told.get("true_label", ""), _mark(where, told, split))


def _mark(where: str, told: dict[str, str], split: str) -> str:
    """What the columns poisoned and triggered say of a row."""
    poisoned, triggered = (MARKS.get(told.get(name, "").lower()) for name in ("poisoned", "triggered"))
    if poisoned is None or triggered not in ("", "poison"):
        name = "poisoned" if poisoned is None else "triggered"
        known = "0, 1 or cover" if name == "poisoned" else "0 or 1"
        raise UsageError(f"{where}: {name} must be {known}, not {shown(told[name])}")
    if poisoned and split == "test":
        raise UsageError(f"{where}: a test image cannot be poisoned; mark it as triggered")
    true = told.get("true_label", "")
    if triggered and (poisoned or split == "train"):
        if not poisoned and told.get("poisoned"):
            raise UsageError(f"{where}: a training image with the trigger is not clean; set poisoned to 1 or cover")
        return poisoned or "poison"
    if triggered:
        if not true:
            raise UsageError(
                f"{where}: a triggered test image needs a true_label; label is the class that the attack wants"
            )
        return "triggered"
    if not poisoned and true and true != told["label"]:
        labels = f"label is {shown(told['label'])} and true_label {shown(true)}"
        raise UsageError(f"{where}: {labels}, but poisoned is not set")
    return poisoned


def _checked(path: Path, rows: tuple[Row, ...], whole: bool) -> Table:
    """Check the table as a whole: no file twice, and images of every class in both splits."""
    seen: dict[str, Row] = {}
    splits: dict[str, list[str]] = {}
    for row in rows:
        first = seen.setdefault(row.file, row)
        if first is not row:
            raise UsageError(_twice(path, first, row))
        own = splits.setdefault(row.label, [])
        if not row.mark:
            own.append(row.split)
        if row.true_label:
            splits.setdefault(row.true_label, [])
    if not 2 <= len(splits) <= MOST_CLASSES:
        raise UsageError(f"{path}: has {len(splits)} classes; there must be 2 to {MOST_CLASSES:,}")
    classes = _in_order(path, rows)
    for label in classes:
        mine = splits[label]
        lacking = [s for s in SPLITS if s not in mine] if any(mine) else SPLITS if len(mine) < 2 else []
        if lacking and not whole:
            raise UsageError(f"{path}: class {shown(label)} has too few images, none for {lacking[-1]}")
    clean = tuple(row for row in rows if not row.mark)
    return Table(path, clean, classes, tuple(row for row in rows if row.mark))


def _twice(path: Path, first: Row, second: Row) -> str:
    """The message about two rows with the same file, under one name or two."""
    names = "is there twice" if first.file == second.file else f"and {shown(second.file)} are the same file"
    # Rows of a table that no CSV holds have no lines.
    where = f"{path}, lines {first.line} and {second.line}" if second.line else path.parent
    return f"{where}: {shown(first.file)} {names}; an image has one label and one split"


def _in_order(path: Path, rows: Sequence[Row]) -> tuple[str, ...]:
    """Class names in order: by value if all are numbers, else as text.

    Raises:
        UsageError: all labels are numbers and two are spellings of the same one, or all but a NaN are numbers.
    """
    lines: dict[str, int] = {}
    for row in rows:
        for label in (row.label, *([row.true_label] if row.true_label else [])):
            lines.setdefault(label, row.line)
    values = {label: _value(label) for label in lines}
    words = [label for label, value in values.items() if value is None]
    if words and (len(words) == len(values) or any(word.lower() not in ("nan", "inf", "-inf") for word in words)):
        return tuple(sorted(lines))
    if words:
        raise UsageError(f"{path}, line {lines[words[0]]}: label {shown(words[0])} is not a number, but the others are")
    spelt: dict[Decimal | None, str] = {}
    for label, value in values.items():
        one = spelt.setdefault(value, label)
        if one != label:
            raise UsageError(
                f"{path}, lines {lines[one]} and {lines[label]}: labels {shown(one)} and {shown(label)} are the same "
                "number; write it in one way"
            )
    return tuple(sorted(lines, key=lambda label: values[label] or Decimal(0)))


def _value(label: str) -> Decimal | None:
    """The number that a label is; None for a word. Only ASCII digits make a number."""
    try:
        value = Decimal(label) if _NUMBER.fullmatch(label) else None
    except InvalidOperation:  # an exponent beyond all bounds
        return None
    return value if value is None or value.is_finite() else None
