"""Text files of users: a byte order mark is no part of the text, and compressed files and UTF-16 are named as such."""

from __future__ import annotations

import codecs

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
}
"""How compressed files begin."""
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def without_mark(data: bytes) -> bytes:
    """The bytes of a text file without the byte order mark that some editors put first."""
    return data.removeprefix(codecs.BOM_UTF8)


def other_kind(data: bytes) -> str:
    """What a file is that is not UTF-8 text, and what to do, such as ``is compressed (gzip); unpack it first``.

    Args:
        data: the file, or its first bytes.

    Returns:
        The text for a message, or '' if the kind is unknown or the file may be text.
    """
    for start, name in _PACKED.items():
        if data.startswith(start):
            return f"is compressed ({name}); unpack it first"
    return "is not UTF-8 text but UTF-16; save it as UTF-8" if data.startswith(_UTF16) else ""
