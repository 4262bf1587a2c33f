"""What a training program leaves behind: a model, scores, flagged samples and facts, read without unpickling."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchbd import UsageError
from benchbd.core.files import read_plain
from benchbd.errors import one_line, shown

MODEL_FILES = {
    "safetensors": "model.safetensors",
    "torchscript": "model.torchscript",
    "export": "model.pt2",
    "onnx": "model.onnx",
}
"""Name of the model's file, by its form."""
FACTS = "result.json"
LARGEST = {"model": 8 << 30, "samples": 1 << 30, "facts": 1 << 20}
"""Bytes from which on a file counts as something else."""

LARGEST_LOSS = 1e300
"""Largest loss of an epoch; also keeps whole numbers within floats."""
DEEPEST = 50
"""Levels of lists and objects in notes."""


class Facts(NamedTuple):
    """What the program says about its training.

    Attributes:
        epochs: number of epochs, for the record's ``epochs_trained``.
        epoch_losses: mean loss of each epoch.
        notes: anything else, for the record.
    """

    epochs: int = 0
    epoch_losses: tuple[float, ...] = ()
    notes: Any = None


def read_model(folder: Path, form: str) -> bytes:
    """The bytes of the model's file.

    Raises:
        UsageError: it is missing, empty or not a file; the message says what is there instead.
    """
    name = MODEL_FILES[form]
    if not (folder / name).exists():
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        beside = f"holds {', '.join(there[:5])}" if there else "is empty"
        raise UsageError(f"the program wrote no result/{name}: the folder result {beside}")
    if not (content := _read(folder / name, LARGEST["model"])):
        raise UsageError(f"result/{name} is empty")
    return content


def read_samples(folder: Path, name: str, count: int) -> np.ndarray | None:
    """One number for each training image, from ``NAME.npy`` or ``NAME.csv``; None if neither is there.

    A CSV has one number a line, in the order of the images, perhaps below a line with the name.

    Args:
        folder: where the files are.
        name: ``scores`` or ``flagged``.
        count: number of training images.

    Returns:
        float64 (N,).

    Raises:
        UsageError: both files are there, or one does not hold N numbers.
    """
    there = [path for path in (folder / f"{name}.npy", folder / f"{name}.csv") if path.exists()]
    if not there:
        return None
    if len(there) > 1:
        raise UsageError(f"result has both {name}.npy and {name}.csv; write one of them")
    (path,) = there
    content = _read(path, LARGEST["samples"])
    found = _npy(content, path.name) if path.suffix == ".npy" else _csv(content, path.name)
    if found.shape != (count,):
        raise UsageError(f"result/{path.name} has shape {found.shape}, but there are {count} training images")
    return found


def _npy(content: bytes, name: str) -> np.ndarray:
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:
        raise UsageError(f"result/{name} is not an array of numpy.save ({one_line(error)[:200]})") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        raise UsageError(f"result/{name} must hold one array of numbers")
    return found.astype(np.float64)


def _csv(content: bytes, name: str) -> np.ndarray:
    lines = content.decode("utf-8-sig", "replace").strip().splitlines()
    first = 0 if not lines or _number(lines[0]) is not None else 1
    values = []
    for number, line in enumerate(lines[first:], first + 1):
        value = _number(line)
        if value is None:
            raise UsageError(f"result/{name}, line {number}: {shown(line)} is not a number; write one number a line")
        values.append(value)
    return np.array(values, np.float64)


def _number(line: str) -> float | None:
    words = {"true": 1.0, "false": 0.0}
    try:
        return words[line.strip().lower()] if line.strip().lower() in words else float(line)
    except ValueError:
        return None


def read_flagged(folder: Path, count: int) -> np.ndarray | None:
    """The flagged samples, bool (N,), from ``flagged.npy`` or ``flagged.csv``; None if neither is there.

    Raises:
        UsageError: a value is neither 0 nor 1.
    """
    found = read_samples(folder, "flagged", count)
    if found is None:
        return None
    if not np.isin(found, (0.0, 1.0)).all():
        raise UsageError("result/flagged must hold a 0 or a 1 for each training image, not positions")
    return found.astype(bool)


def read_facts(folder: Path) -> Facts:
    """The facts in ``result.json``; the defaults if there is no such file.

    Raises:
        UsageError: it is not a JSON object with ``epochs``, ``epoch_losses`` and ``notes``.
    """
    if not (folder / FACTS).exists():
        return Facts()
    try:
        given = json.loads(_read(folder / FACTS, LARGEST["facts"]), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"result/{FACTS} is not JSON ({one_line(error)[:200]})") from error
    if not isinstance(given, dict) or (odd := sorted(given.keys() - {*Facts._fields})):
        what = f"has {shown(odd[0])}" if isinstance(given, dict) else "is not an object"
        raise UsageError(f"result/{FACTS} {what}; it may hold {', '.join(Facts._fields)}")
    epochs, losses = given.get("epochs", 0), given.get("epoch_losses", [])
    if type(epochs) is not int or not 0 <= epochs < 10**9:
        raise UsageError(f"result/{FACTS}: epochs must be a whole number, not {shown(epochs)}")
    if not isinstance(losses, list) or not all(type(v) in (int, float) and abs(v) <= LARGEST_LOSS for v in losses):
        raise UsageError(f"result/{FACTS}: epoch_losses must be a list of numbers")
    notes = given.get("notes")
    try:
        json.dumps(notes, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise UsageError(f"result/{FACTS}: notes hold a number or a text that no record can hold") from None
    if _deeper(notes, DEEPEST):
        raise UsageError(f"result/{FACTS}: notes are nested more than {DEEPEST} deep")
    return Facts(epochs, tuple(float(loss) for loss in losses), notes)


def _deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects of a JSON value are nested more than ``limit`` deep."""
    level = [value]
    for _ in range(limit + 1):
        nested = [one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))]
        level = [inner for one in nested for inner in one]
    return bool(level)


def check_folder(folder: Path) -> None:
    """Raise UsageError if the program has put something else where its folder for results was, such as a link."""
    if folder.is_symlink() or not folder.is_dir():
        there = "a link" if folder.is_symlink() else "a file" if folder.exists() else "gone"
        raise UsageError(f"the program's folder {folder.name} is {there}; write into the one that is there")


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _read(path: Path, largest: int) -> bytes:
    try:
        return read_plain(path, largest)
    except OSError as error:
        raise UsageError(f"result/{path.name} cannot be read ({error.strerror or error})") from error
