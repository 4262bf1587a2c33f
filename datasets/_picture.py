"""One image file as 8-bit RGB: which kinds of pictures are decoded, how, and which are refused."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from benchbd import UsageError
from benchbd.datasets._places import reason

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image as Picture

RULES = 2
"""Version of these rules, part of the key of decoded images: raise it when a file may decode to other pixels."""
ORIENTATION = 0x0112
"""EXIF tag: how the stored rows and columns are to be turned or mirrored, 1 to 8."""
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""Pillow's name of the operation for each orientation but 1, which needs none."""
ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")
"""Pillow's modes with transparency in a channel of its own."""
PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", *ALPHA)
"""Pillow's modes of 8 bits or less that it converts to RGB."""
ANIMATED = ("GIF", "PNG", "WEBP", "TIFF", "AVIF")
"""Formats in which every frame is a picture of its own. Other formats store previews and layers as further frames."""
PHOTOMETRIC, BITS, SAMPLE_FORMAT = 262, 258, 339
"""TIFF tags: the meaning of 0 (0: white, 1: black), the bits of a value, and its type (1: unsigned, 3: float)."""
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Unfit(Exception):
    """A picture that is intact but has no defined 8-bit RGB form. The message says why, and what to do."""


def not_a_file(mode: int) -> str | None:
    """Say what a path leads to instead of a file (``a FIFO``), given its ``st_mode``; None for a regular file."""
    return None if stat.S_ISREG(mode) else KINDS.get(stat.S_IFMT(mode), "not a regular file")


def open_picture(path: Path, dataset: str) -> Picture:
    """Decode one image file to 8-bit RGB, upright.

    The content decides about the format, not the suffix. 8-bit opaque pictures without an orientation tag keep their
    values.

    - EXIF orientation is applied.
    - Transparent pixels are composed on white. Alpha that is 0 everywhere is an unused channel and is ignored.
    - Palettes, 1-bit, grey, CMYK, YCbCr and HSV pictures are converted by Pillow.
    - 16-bit grey is scaled, rounding to the nearest: 65535 becomes 255. Of 16-bit colour, Pillow reads the upper byte.
    - Floats in [0, 1] are scaled to 0..255, rounding to the nearest; a picture with any other value is refused.
    - Colour profiles and gamma are ignored: values are taken as stored.
    - Animations, TIFF files of several pages, Lab colours, and signed or 32-bit integers are refused.

    Args:
        path: a regular file.
        dataset: name of the data set, for messages.

    Raises:
        UsageError: the file is not a picture, is damaged, or is of a kind that is refused.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            return _upright_rgb(file)
    except Unfit as error:
        raise UsageError(f"{dataset}: {path} {error}") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise UsageError(f"{dataset}: {path} is too large to decode ({reason(error)}); make it smaller") from error
    except Exception as error:  # Pillow raises nearly anything on damaged files: struct.error, KeyError, zlib.error ...
        if isinstance(error, OSError) and error.errno:
            raise UsageError(f"{dataset}: {path} cannot be read: {reason(error)}") from error
        raise UsageError(
            f"{dataset}: {path} cannot be decoded ({reason(error)}); the file is damaged, fetch it again"
        ) from error


@contextmanager
def large_pictures_allowed() -> Iterator[None]:
    """Silence Pillow's warning about large pictures. Those that it refuses to decode still raise an error.

    Enter it in one thread, around all threads that decode: warning filters belong to the process.
    """
    import warnings

    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def _upright_rgb(file: Picture) -> Picture:
    """Decode an opened file. Raises Unfit for pictures that are refused."""
    from PIL import Image

    if file.format in ANIMATED and getattr(file, "is_animated", False):
        raise Unfit("holds several frames or pages; save the one that you mean as a picture of its own")
    if not min(file.size):
        raise Unfit("has no pixels; take it out")
    _check_samples(file)
    tags = _tags(file)
    deep = file.format == "PNG" and any("16" in str(tile[3]) for tile in file.tile)
    file.load()
    turn = TURNS.get(_orientation(file))
    image = _in_rgb(file, tags, deep)
    return image.transpose(Image.Transpose[turn]) if turn else image


def _tags(file: Picture) -> dict[int, int]:
    """The photometric interpretation and the bits of a TIFF file's values; for other formats an empty dict."""
    found = {}
    for tag in (PHOTOMETRIC, BITS, SAMPLE_FORMAT):
        value = getattr(file, "tag_v2", {}).get(tag)
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, int):
            found[tag] = value
    return found


def _check_samples(file: Picture) -> None:
    tags = _tags(file)
    if tags.get(SAMPLE_FORMAT, 1) not in (1, 3) or (file.mode == "I" and file.format not in ("PNG", "PPM")):
        raise Unfit(
            "holds signed or 32-bit integers, whose black and white are not defined; save it with 8 or 16 unsigned bits"
        )


def _orientation(file: Picture) -> int:
    """The EXIF orientation of a loaded file; 1 (as stored) if there is none, or the EXIF data is damaged."""
    try:
        value = file.getexif().get(ORIENTATION, 1)
    except Exception:  # Pillow's parsers raise nearly anything here too, and the picture itself is intact
        return 1
    return value if isinstance(value, int) else 1


def _in_rgb(image: Picture, tags: dict[int, int], deep: bool) -> Picture:
    key = image.info.get("transparency")
    if image.mode.startswith("I"):
        return _from_integers(image, tags, key)
    if image.mode == "F":
        return _from_floats(image, tags)
    if image.mode not in PLAIN:
        raise Unfit(f"is a picture of Pillow's mode {image.mode}, which has no defined RGB form; save it as 8-bit RGB")
    if image.mode not in ALPHA and key is None:
        return image.convert("RGB")
    if deep and key is not None:
        raise Unfit("marks one 16-bit colour as transparent, which Pillow cannot apply; save it with an alpha channel")
    return _on_white(image.convert("RGBA"))


def _on_white(image: Picture) -> Picture:
    """Compose an RGBA picture on white. Opaque pixels keep their values. Alpha of 0 everywhere is an unused channel."""
    from PIL import Image

    if image.getchannel("A").getextrema()[1] == 0:
        return image.convert("RGB")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _from_integers(image: Picture, tags: dict[int, int], key: object) -> Picture:
    """Unsigned integers of up to 16 bits, grey: 0 is black and the largest possible value is white."""
    import numpy as np

    top = 2 ** min(tags.get(BITS, 16), 16) - 1
    values = np.asarray(image).astype(np.int64)
    grey = (2 * 255 * values + top) // (2 * top)
    if tags.get(PHOTOMETRIC) == 0:
        grey = 255 - grey
    if isinstance(key, int):
        grey = np.where(values == key, 255, grey)
    return _grey(grey)


def _from_floats(image: Picture, tags: dict[int, int]) -> Picture:
    """Floats, grey: 0 is black and 1 is white."""
    import numpy as np

    values = np.asarray(image, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    if not (low >= 0.0 and high <= 1.0):
        raise Unfit(
            f"holds floats from {low:g} to {high:g}, but only floats from 0 (black) to 1 (white) have a defined "
            "brightness; scale them, or save it with 8 or 16 bits"
        )
    return _grey(np.floor(255 * (1 - values if tags.get(PHOTOMETRIC) == 0 else values) + 0.5))


def _grey(values: np.ndarray) -> Picture:
    """A picture of grey values (H, W) in 0..255."""
    import numpy as np
    from PIL import Image

    return Image.fromarray(values.astype(np.uint8)).convert("RGB")
