"""The user's own files that a defense reads, such as a training program, on their way to another machine."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from benchbd.core.contents import contents_digest
from benchbd.core.files_folder import files_folder, refuse_unreadable
from benchbd.errors import BenchbdError, UsageError
from benchbd.plan.cell import Cell
from benchbd.plugins import registry

File = tuple[str, int, bytes]
"""Relative name, permissions and content of a file."""


class OwnFiles(NamedTuple):
    """Files by their names below :func:`files_folder`, and the sha256 over names and contents."""

    paths: dict[str, Path]
    digest: str

    def read(self) -> list[File]:
        """The files, to be sent. Raises UsageError if one cannot be read, or has changed since the digest was made."""
        try:
            found = [(name, path.stat().st_mode & 0o777, path.read_bytes()) for name, path in self.paths.items()]
            now = contents_digest([*self.paths.values()])
        except OSError as error:
            refuse_unreadable(error)
        if now != self.digest:
            raise UsageError("a file of the program changed while it was sent; run the cell again")
        return found


def own_files(cell: Cell) -> OwnFiles | None:
    """The files below :func:`files_folder` that a cell's defense reads; None if it reads none.

    Raises:
        UsageError: one is missing or cannot be read.
    """
    with registry.blame("defenses", cell.defense.name):
        given = cell.components().defense.input_files()
    base = files_folder()
    below = [path for path in map(Path, given) if path.is_relative_to(base)]
    paths = {name.as_posix(): base / name for path in below if ".." not in (name := path.relative_to(base)).parts}
    try:
        digest = contents_digest([*paths.values()])
    except OSError as error:
        refuse_unreadable(error)
    return None if digest is None else OwnFiles(dict(sorted(paths.items())), digest)


def unpack(files: list[File], digest: str, folder: Path) -> None:
    """Write files that another machine has sent.

    Args:
        files: the files.
        digest: the sha256 over names and contents there.
        folder: gets them; it is created.

    Raises:
        BenchbdError: what has arrived has another digest.
    """
    for name, mode, content in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode | 0o600)
    if contents_digest([folder / name for name, _, _ in files]) != digest:
        raise BenchbdError("the files of the defense did not arrive as they were sent (their hashes differ)")
