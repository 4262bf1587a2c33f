"""``benchbd logs CELL``: print a cell's log, even while the cell runs."""

from __future__ import annotations

import argparse
import codecs
import sys
import time
from pathlib import Path
from typing import Any

from benchbd.cli.common import add_output, output_folder
from benchbd.core.files import open_plain
from benchbd.errors import UsageError, counted

POLL = 0.3
"""Seconds between two reads of a followed log."""
REMEMBERED = 4096
"""Bytes of what is printed by which the place is found again when the log's middle is left out."""
EPILOG = """\
  benchbd logs 3f9a
  benchbd logs cifar10/resnet18/bn-g/lfd/s0 --follow
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "logs",
        help="print a cell's log, even while the cell runs",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cell", metavar="CELL", help="the cell's ID, the start of its ID, or its label")
    parser.add_argument("-f", "--follow", action="store_true", help="keep printing until the cell ends")
    add_output(parser)
    parser.set_defaults(run=run)


def find_log(output: Path, wanted: str) -> Path:
    """Find the log of a cell by its ID, the start of its ID, or its label. Raises UsageError."""
    folder = output / "logs"
    logs = (
        {p.stem: p for p in sorted(folder.glob("*.log")) if not p.stem.startswith("worker-")} if folder.is_dir() else {}
    )
    if not logs:
        raise UsageError(f"no logs in {folder}; run a matrix first, or name its folder with --output")
    matches = [name for name in logs if wanted and name.startswith(wanted)]
    matches = matches or [name for name, path in logs.items() if _label(path) == wanted]
    if not matches:
        raise UsageError(
            f"no log of a cell {wanted[:80]!r} among the {len(logs)} in {folder}; benchbd status MATRIX lists the cells"
        )
    if len(matches) > 1:
        raise UsageError(
            f"{wanted!r} matches {counted(len(matches), 'cell')} ({', '.join(matches[:4])}...); give more of the ID"
        )
    return logs[matches[0]]


def _label(path: Path) -> str:
    """The label in a log's first line; '' for a log that cannot be read."""
    try:
        with open(open_plain(path), encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - a descriptor
            return file.readline().removeprefix("== ").partition("  attempt ")[0]
    except OSError:
        return ""


def run(args: argparse.Namespace) -> int:
    """Print the log; with ``-f``, keep printing until no process works on the cell."""
    from benchbd.core.cell_log import place_after
    from benchbd.storage.cell_locks import running

    output = output_folder(args)
    path = find_log(output, args.cell)
    with open(open_plain(path), "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        decoder, last = codecs.getincrementaldecoder("utf-8")("replace"), b""
        while True:
            # Check before reading: otherwise the last lines of a cell that ends in between would be missed.
            busy = args.follow and path.stem in running(output)
            file.seek(place_after(file.fileno(), file.tell(), last))
            while chunk := file.read(1 << 16):
                sys.stdout.write(decoder.decode(chunk))
                last = (last + chunk)[-REMEMBERED:]
            sys.stdout.flush()
            if not busy:
                return 0
            time.sleep(POLL)
