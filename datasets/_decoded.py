"""Decodes image files once: uint8 arrays in the cache folder, mapped into memory and shared by all processes.

Guarantees: an array is complete or absent (it is written to a temporary folder, which is then renamed). Every load
checks its bytes against a sha256 and rebuilds it if they differ. Its key is a hash of file names, of contents and of
the decoder's version, so changed files are decoded again, as are all files when the decoder changes; copied ones are
not. Nothing is pickled. The folder may be deleted at any time. :mod:`benchbd.datasets._picture` decodes a single file.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from benchbd import UsageError
from benchbd.core.contents import content_hashes
from benchbd.core.environment import cores
from benchbd.core.files import NotAFile, open_plain, read_plain
from benchbd.core.locks import locked_if_possible
from benchbd.datasets._picture import RULES, large_pictures_allowed, not_a_file, open_picture
from benchbd.datasets._places import cache, reason

if TYPE_CHECKING:
    import numpy as np

FORMAT = 2
"""Part of every key: raise it when the stored array or the resizing changes."""
LARGEST_FACTS = 1 << 16
"""Bytes from which on a file is not the facts of an array."""
CHUNK = 512
"""Images decoded at a time, before they are written."""
LARGEST = 2**27
"""Largest allowed number of pixels of an image after resizing its shorter side. Only very long strips exceed it."""


class Source(NamedTuple):
    """The image files of one split of a data set.

    Attributes:
        dataset: name of the data set, for messages and for the name of the cache folder.
        folder: folder that the file names are relative to.
        files: file names, in order.
        size: height and width of the decoded images in pixels.
        crop: resize the shorter side to ``size`` and crop the centre; otherwise resize the whole image.
    """

    dataset: str
    folder: Path
    files: Sequence[str]
    size: int
    crop: bool


def decoded(source: Source) -> np.ndarray:
    """Load the decoded images of a source; decode them first if they are not in the cache.

    Returns:
        uint8 (N, 3, size, size), mapped from the file (copy on write: changes do not reach the file).

    Raises:
        UsageError: an image is missing or damaged, or the cache cannot be written.
    """
    place = cache() / "decoded"
    final = place / f"{source.dataset}-{_key(source)}"
    try:
        found = _load(final, source)
        if found is not None:
            return found
        place.mkdir(parents=True, exist_ok=True)
        with locked_if_possible(place / f".{final.name}.lock"):
            found = _load(final, source)
            if found is None:
                _build(source, place, final)
                found = _load(final, source)
    except OSError as error:
        raise UsageError(
            f"{source.dataset}: cannot keep the decoded images in {place}: {reason(error)}; "
            "make room there or set XDG_CACHE_HOME to another folder"
        ) from error
    if found is None:
        raise UsageError(f"{source.dataset}: the decoded images in {final} do not read back as written; check the disk")
    return found


def _key(source: Source) -> str:
    import PIL

    rules = [FORMAT, RULES, PIL.__version__]
    digest = hashlib.sha256(json.dumps([*rules, source.size, source.crop, len(source.files)]).encode())
    try:
        for name in source.files:
            if what := not_a_file((source.folder / name).stat().st_mode):
                raise UsageError(f"{source.dataset}: {source.folder / name} is {what}, not an image file; take it out")
        contents = content_hashes(source.folder, source.files)
    except OSError as error:
        raise UsageError(f"{source.dataset}: {error.filename} cannot be read: {reason(error)}") from error
    for name, content in zip(source.files, contents, strict=True):
        digest.update(f"{name}\0{content}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def _load(final: Path, source: Source) -> np.ndarray | None:
    """The stored array, or None if it is absent or damaged."""
    import numpy as np

    layout = ((len(source.files), 3, source.size, source.size), False, np.dtype(np.uint8))
    try:
        # Whatever somebody has put there, such as a pipe, must not be waited for.
        with open(open_plain(final / "images.npy"), "rb") as file:  # noqa: PTH123 - a descriptor
            if np.lib.format.read_magic(file) != (1, 0) or np.lib.format.read_array_header_1_0(file) != layout:
                return None
            images: np.ndarray = np.memmap(file, np.uint8, "c", file.tell(), layout[0])
        facts = json.loads(read_plain(final / "facts.json", LARGEST_FACTS))
        return images if hashlib.sha256(images.data).hexdigest() == facts["sha256"] else None
    except (FileNotFoundError, NotADirectoryError, NotAFile):
        return None
    except OSError:
        raise
    except Exception:  # numpy and json raise nearly anything on a damaged header: TokenError, RecursionError ...
        return None


def _build(source: Source, place: Path, final: Path) -> None:
    """Decode all images into a temporary folder and rename it."""
    import numpy as np

    with tempfile.TemporaryDirectory(dir=place, prefix=".decoding-") as work:
        built = Path(work) / "built"
        built.mkdir()
        digest = hashlib.sha256()
        # Plain writes instead of a writable map: on a full disk a write raises an error, but a map kills the process.
        with (built / "images.npy").open("wb") as out:
            header = {"descr": "|u1", "fortran_order": False, "shape": (len(source.files), 3, source.size, source.size)}
            np.lib.format.write_array_header_1_0(out, header)
            for image in _images(source):
                _write(out, digest, image)
        (built / "facts.json").write_text(json.dumps({"sha256": digest.hexdigest(), "dataset": source.dataset}))
        if final.is_symlink() or not final.is_dir():
            final.unlink(missing_ok=True)  # shutil.rmtree would open a pipe and wait
        shutil.rmtree(final, ignore_errors=True)
        built.replace(final)


def _write(out: IO[bytes], digest: hashlib._Hash, image: np.ndarray) -> None:
    body = image.tobytes()
    digest.update(body)
    out.write(body)


def _images(source: Source) -> Iterator[np.ndarray]:
    # Threads help because decoders release the GIL. Each data set is decoded once, before any training.
    with large_pictures_allowed(), ThreadPoolExecutor(min(8, cores())) as pool:
        for start in range(0, len(source.files), CHUNK):
            names = source.files[start : start + CHUNK]
            yield from pool.map(lambda name: _decode(source, name), names)


def _decode(source: Source, name: str) -> np.ndarray:
    """Decode one image to uint8 (3, size, size)."""
    import numpy as np
    from PIL import Image

    path = source.folder / name
    size = source.size
    image = open_picture(path, source.dataset)
    if source.crop:
        scale = size / min(image.size)
        wide, high = (max(size, round(side * scale)) for side in image.size)
        if wide * high > LARGEST:
            shape = " by ".join(f"{side:,}" for side in image.size)
            raise UsageError(f"{source.dataset}: {path} has {shape} pixels, too long a strip to resize; crop it")
        if (wide, high) != image.size:
            image = image.resize((wide, high), Image.Resampling.BILINEAR)
        left, top = (wide - size) // 2, (high - size) // 2
        image = image.crop((left, top, left + size, top + size))
    elif image.size != (size, size):
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))
