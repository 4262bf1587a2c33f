"""The formats by name: which can be read, and which can be written."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

from benchbd.core.contents import content_hashes, contents_digest
from benchbd.core.extras import require_extra
from benchbd.core.poisoned_set import PoisonedSet
from benchbd.errors import UsageError
from benchbd.exchange import hf
from benchbd.exchange.found_set import FoundSet, Wishes, complete

READ = {
    "backdoor-toolbox": "toolbox",
    "backdoorbench": "backdoorbench",
    "nab": "nab",
    "npz": "npz",
    "madrylab": "madrylab",
    "csv": "images",
    "hf": "hf",
}
"""Module of this package that reads a format."""
WRITTEN = {"backdoor-toolbox": "toolbox", "npz": "npz", "imagefolder": "images", "hf": "hf"}
"""Module of this package that writes a format."""


def read(place: Path, name: str, wishes: Wishes) -> PoisonedSet:
    """Read a poisoned set of another program.

    Args:
        place: its folder, or file.
        name: the format, one of ``READ``.
        wishes: what the user says about it.

    Raises:
        UsageError: something is missing or does not fit; the message names the file.
    """
    if not place.exists():
        raise UsageError(f"{place} does not exist")
    module: Any = importlib.import_module(f"benchbd.exchange.{READ[name]}")
    found: FoundSet = module.read(place, wishes)
    # The name of the folder stays out: a renamed folder must not change the file and make records stale.
    source = {"format": name, "sha256": _contents(place)}
    try:
        return complete(found, wishes, source)
    except UsageError as error:
        raise UsageError(f"{place}: {error}") from None


LAYOUT = {
    "backdoor-toolbox": ("labels", "poison_indices"),
    "backdoorbench": ("bd_train_dataset",),
    "nab": ("train",),
    "npz": (),
    "madrylab": ("train_images.npy", "train_labels.npy", "poisoned_train_indices.npy"),
    "csv": ("labels.csv",),
    "hf": (),
}
"""What a folder of each format must hold; ``hf`` and ``npz`` may also be single files."""


def check_layout(place: Path, name: str) -> None:
    """Raise UsageError if a folder lacks what its format needs, or is a file where the format is a folder."""
    if not place.exists():
        raise UsageError(f"{place} does not exist")
    if LAYOUT[name] and not place.is_dir():
        raise UsageError(
            f"{place} is a file; --format {name} reads a folder with {' and '.join(LAYOUT[name])}; "
            "docs/importing.md shows how other files become a set"
        )
    if name == "hf":
        hf.check_layout(place)
    for needed in LAYOUT[name]:
        if not (place / needed).exists():
            raise UsageError(f"{place / needed} is missing; --format {name} needs it{_columns(name)}")


def _columns(name: str) -> str:
    """The columns of the file that a format needs, for the message that it is missing; nothing for most formats."""
    if name != "csv":
        return ""
    from benchbd.exchange.images import HEAD

    return f", with the columns {', '.join(HEAD)} (docs/importing.md)"


def write(given: PoisonedSet, folder: Path, name: str) -> None:
    """Write a poisoned set into an empty or new folder, in a format of ``WRITTEN``.

    Raises:
        UsageError: the folder is not empty or cannot be written.
    """
    if name == "hf":
        require_extra("parquet", "--format hf")
    module: Any = importlib.import_module(f"benchbd.exchange.{WRITTEN[name]}")
    check_new(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        module.write(given, folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written ({error.strerror or error})") from error


def check_new(folder: Path) -> None:
    """Raise UsageError if a folder exists and is not empty."""
    try:
        full = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error.strerror or error})") from error
    if full:
        raise UsageError(f"{folder} is not an empty folder; name a new one")


def _contents(place: Path) -> str | None:
    """sha256 over the names and contents of all files of a folder, or of the contents of a single file."""
    try:
        if not place.is_dir():
            return content_hashes(place.parent, [place.name])[0]
        files = [Path(at) / name for at, _, names in os.walk(place) for name in names]
        return contents_digest(files)
    except OSError as error:
        raise UsageError(f"{error.filename or place} cannot be read ({error.strerror or error})") from None
