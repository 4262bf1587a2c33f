"""Write figures as PNG, SVG and PDF, and their numbers as CSV. Equal records give equal bytes with one matplotlib."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from benchbd.core.files import atomic_file, encoded, named_file
from benchbd.errors import UsageError, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

KINDS = ("png", "svg", "pdf", "csv")
"""Endings of files that ``--write`` takes."""
SCREEN, PRINT = 160, 400
"""Dots an inch of a PNG in a folder of figures, and of one that is asked for by its name."""


class Drawn(NamedTuple):
    """A figure to write: its name, its scale in words, what draws it, and its numbers as CSV."""

    name: str
    scale: str
    canvas: Callable[[], Canvas]
    csv: str


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9=.]+", "-", text).strip("-")[:100]


def _stems(found: Sequence[Drawn], stem: str = "") -> list[str]:
    """Distinct names of files: ``stem``, or each figure's name, and what tells the figures apart."""
    names, scales = not stem or len({f.name for f in found}) > 1, len(found) > 1 and len({f.scale for f in found}) > 1
    # A figure's name that begins with the stem says the stem: curves.png becomes curves-loss.png.
    first = [[stem] * (bool(stem) and not (names and f"{f.name}-".startswith(f"{stem}-"))) for f in found]
    made = ["-".join(a + [f.name] * names + [_slug(f.scale)] * scales) for a, f in zip(first, found, strict=True)]
    return [text if made.count(text) == 1 else f"{text}-{made[: i + 1].count(text)}" for i, text in enumerate(made)]


@contextlib.contextmanager
def any_script() -> Iterator[None]:
    """Without a warning for each sign that the font lacks; a box stands for it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")
        yield


def _bytes(drawing: Canvas, kind: str, salt: str, dpi: int) -> bytes:
    """A drawing as png, svg or pdf, without dates and random identifiers."""
    import matplotlib

    out = io.BytesIO()
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None, "Creator": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    # Many publishers refuse fonts of type 3; 42 is TrueType.
    with any_script(), matplotlib.rc_context({"svg.hashsalt": salt, "pdf.fonttype": 42}):
        drawing.savefig(out, format=kind, dpi=dpi, metadata=metadata[kind])
    return out.getvalue()


def _write(opened: Callable[[Path], contextlib.AbstractContextManager[IO[bytes]]], path: Path, data: bytes) -> None:
    try:
        with opened(path) as file:
            file.write(data)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from None


def save(found: Sequence[Drawn], folder: Path) -> list[Path]:
    """Write each figure as NAME.png, NAME.svg and NAME.csv. If there are several, the scale is added to each name.

    Raises:
        UsageError: the folder is not writable.
    """
    written = []
    for one, stem in zip(found, _stems(found), strict=True):
        drawing = one.canvas()
        paths = [folder / f"{stem}.{kind}" for kind in ("png", "svg", "csv")]
        for path in paths:
            kind = path.suffix[1:]
            _write(atomic_file, path, encoded(one.csv) if kind == "csv" else _bytes(drawing, kind, stem, SCREEN))
        written += paths
    return written


def checked_kind(path: Path) -> str:
    """What a file's ending asks for. Raises UsageError if it is none of ``KINDS``."""
    kind = path.suffix[1:].lower()
    if kind not in KINDS:
        endings = ", ".join(f".{kind}" for kind in KINDS)
        raise UsageError(f"--write {shown(str(path), 200)}: the name must end with one of {endings}")
    return kind


def write_named(found: Sequence[Drawn], path: Path) -> list[Path]:
    """Write figures into a file that the user has named; its ending says how.

    If there are several figures, each has a file of its own, whose name also has what tells it apart.

    Raises:
        UsageError: the ending is unknown, or a file is not writable.
    """
    kind = checked_kind(path)
    written = []
    for one, stem in zip(found, _stems(found, path.stem), strict=True):
        place = path if len(found) == 1 else path.with_name(f"{stem}{path.suffix}")
        data = encoded(one.csv) if kind == "csv" else _bytes(one.canvas(), kind, one.name, PRINT)
        _write(named_file, place, data)
        written.append(place)
    return written
