"""``benchbd logs CELL``: what a cell said, also while it runs."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from benchbd.cli.common import add_output, output_folder
from benchbd.errors import UsageError

POLL = 0.3
"""Seconds between two looks at a log that is followed."""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("logs", help="a cell's log, also while it runs")
    parser.add_argument("cell", metavar="CELL", help="its id, the start of it, or its label")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the cell ends")
    add_output(parser)
    parser.set_defaults(run=run)


def find_log(output: Path, wanted: str) -> Path:
    """The log of a cell named by id, the start of an id, or its label. Raises UsageError."""
    folder = output / "logs"
    logs = (
        {p.stem: p for p in sorted(folder.glob("*.log")) if not p.stem.startswith("worker-")} if folder.is_dir() else {}
    )
    if not logs:
        raise UsageError(f"no logs in {folder}; run a matrix first, or name its folder with --output")
    fitting = [name for name in logs if wanted and name.startswith(wanted)]
    fitting = fitting or [name for name, path in logs.items() if _label(path) == wanted]
    if not fitting:
        raise UsageError(
            f"no log of a cell {wanted[:80]!r} among the {len(logs)} in {folder}; benchbd status lists the cells"
        )
    if len(fitting) > 1:
        raise UsageError(f"{wanted!r} fits {len(fitting)} cells ({', '.join(fitting[:4])}...); give more of the id")
    return logs[fitting[0]]


def _label(path: Path) -> str:
    """The label in a log's first line."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().removeprefix("== ").partition("  attempt ")[0]


def run(args: argparse.Namespace) -> int:
    """Print the log; with ``-f`` until nobody works on the cell any more."""
    from benchbd.storage.cell_locks import running

    output = output_folder(args)
    path = find_log(output, args.cell)
    with path.open(encoding="utf-8", errors="replace") as file:
        while True:
            # Asked before reading, so that the last lines of a cell that ends meanwhile are not missed.
            busy = args.follow and path.stem in running(output)
            while chunk := file.read(1 << 16):
                sys.stdout.write(chunk)
            sys.stdout.flush()
            if not busy:
                return 0
            time.sleep(POLL)
