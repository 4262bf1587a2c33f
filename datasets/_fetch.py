"""Atomic downloads, verified by checksum."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from benchbd.core.locks import locked_if_possible

TIMEOUT = 20.0
"""Seconds without data after which a download is aborted."""


def reachable(url: str, timeout: float = 5.0) -> bool:
    """Whether a server currently answers for ``url``."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout):
            return True
    except (OSError, ValueError):
        return False


def fetch_archive(url: str, md5: str, into: Path, folder: str) -> None:
    """Download a tar archive, verify it, and place its only top folder at ``into / folder``.

    Several processes may call this at once: one downloads, the others wait for it.

    Args:
        url: address of the archive.
        md5: expected md5 of the archive, in hex.
        into: folder to unpack in; created if missing.
        folder: name of the archive's top folder.

    Raises:
        OSError: there is no network, no space or no permission.
        ValueError: the downloaded bytes are not the expected archive.
    """
    into.mkdir(parents=True, exist_ok=True)
    with locked_if_possible(into / f".{folder}.lock"):
        if (into / folder).exists():
            return
        with tempfile.TemporaryDirectory(dir=into, prefix=".download-") as work:
            archive = Path(work) / "archive"
            digest = hashlib.md5(usedforsecurity=False)
            with urllib.request.urlopen(url, timeout=TIMEOUT) as reply, archive.open("wb") as out:
                while chunk := reply.read(1 << 20):
                    digest.update(chunk)
                    out.write(chunk)
            if digest.hexdigest() != md5:
                raise ValueError(f"what {url} sent has md5 {digest.hexdigest()}, not {md5}")
            unpacked = Path(work) / "unpacked"
            try:
                with tarfile.open(archive) as tar:
                    # Older Pythons have no filters; the checksum has already shown that this is the right archive.
                    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
                    tar.extractall(unpacked, **safe)  # type: ignore[arg-type]
            except (tarfile.TarError, EOFError) as error:
                raise ValueError(f"the archive from {url} cannot be unpacked: {error}") from error
            (unpacked / folder).replace(into / folder)
