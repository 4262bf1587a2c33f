"""One record in a file or in a line of one: read without waiting, checked, and named if it cannot be used."""

from __future__ import annotations

from typing import Any

from benchbd.core.files import NotAFile, read_plain
from benchbd.core.text_files import without_mark
from benchbd.errors import UsageError
from benchbd.storage.record_schema import Identity, Record, decode, fault

LARGEST = 2**28
"""Bytes beyond which a file is not a record."""


class Unusable(UsageError):
    """What lies in a record's place cannot be used as that record.

    Attributes:
        where: the file, and the line in a file of several records.
        reason: what is wrong with it.
        unreadable: whether the system refused to read it. It may hold a finished result, so nothing may replace it.
    """

    def __init__(self, where: str, reason: str, *, unreadable: bool = False) -> None:
        super().__init__(f"{where}: {reason}")
        self.where, self.reason, self.unreadable = where, reason, unreadable


def parse(text: str, where: str, identity: Identity | None = None) -> Record:
    """Parse and check a record.

    Args:
        text: one JSON object. NaN and infinities are rejected: they are not JSON.
        where: the file, and the line in a file of several records, for the message.
        identity: maps a spec to a cell ID. If given, the record must belong to the cell that its spec describes.

    Raises:
        Unusable: one line that names ``where`` and the fault.
    """
    try:
        record: Any = decode(text)
    except (ValueError, RecursionError) as error:
        raise Unusable(where, f"not JSON ({str(error).splitlines()[0]})") from None
    wrong = fault(record, identity)
    if wrong:
        raise Unusable(where, wrong)
    return record  # type: ignore[no-any-return]


def read(path: str, identity: Identity | None = None, cell_id: str | None = None) -> Record:
    """Read and check a record's file. A pipe is not waited for and a link is not followed.

    Args:
        path: the file.
        identity: as for :func:`parse`.
        cell_id: the cell whose record this must be.

    Raises:
        FileNotFoundError, NotADirectoryError: there is nothing at ``path``.
        Unusable: it cannot be read, or is not that record.
    """
    try:
        text = without_mark(read_plain(path, LARGEST)).decode()
    except (FileNotFoundError, NotADirectoryError):
        raise
    except NotAFile as error:
        raise Unusable(path, f"a record must be a plain file; {error.strerror}") from None
    except OSError as error:
        raise Unusable(path, f"cannot be read ({error.strerror})", unreadable=True) from None
    except UnicodeDecodeError:
        raise Unusable(path, "cannot be read (not UTF-8 text)") from None
    record = parse(text, path, identity)
    if cell_id is not None and record["id"] != cell_id:
        raise Unusable(path, f"is the record of another cell; its file is {record['id']}.json")
    return record
