"""PNG files of 8-bit RGB images, by number."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from benchbd.core.archive import opened
from benchbd.errors import UsageError, one_line


def read_pngs(paths: Iterable[Path], size: int | None) -> np.ndarray:
    """Read square 8-bit RGB images of one size.

    Args:
        paths: the files, in order.
        size: the expected height and width; None is that of the first.

    Returns:
        uint8 (N, 3, S, S).

    Raises:
        UsageError: a file is missing, damaged, of another kind or of another size.
    """
    from PIL import Image

    found: list[np.ndarray] = []
    for path in paths:
        try:
            with opened(path) as file, Image.open(file) as image:
                mode, shape = image.mode, image.size
                pixels = np.asarray(image, np.uint8)
        except UsageError:
            raise
        except Exception as error:  # decoders raise nearly anything
            reason = one_line(error).partition("<")[0][:120]  # Pillow names the open file by its address
            raise UsageError(f"{path} is not a picture ({reason.strip()})") from None
        if mode != "RGB" or shape[0] != shape[1]:
            raise UsageError(f"{path} must be a square 8-bit RGB picture, not {mode} {shape[0]} by {shape[1]}")
        size = size or shape[0]
        if shape[0] != size:
            raise UsageError(f"{path} has {shape[0]} pixels a side; the others have {size}")
        found.append(pixels.transpose(2, 0, 1))
    return np.stack(found) if found else np.zeros((0, 3, size or 0, size or 0), np.uint8)


def numbered(folder: Path) -> list[tuple[int, Path]]:
    """The files ``<number>.png`` of a folder, in order of their numbers.

    Raises:
        UsageError: the folder is missing, or holds a PNG without a number.
    """
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix == ".png")
    except OSError as error:
        raise UsageError(f"{folder} cannot be read ({error.strerror or error})") from None
    for path in names:
        if not path.stem.isascii() or not path.stem.isdigit():
            raise UsageError(f"{path}: the name must be the image's number")
    return sorted((int(path.stem), path) for path in names)
