"""``benchbd prepare MATRIX``: prepare data, triggers and poisoned sets before a run takes a GPU."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import add_matrix_arguments, load_plan, output_folder, write
from benchbd.errors import BenchbdError, counted, one_line

if TYPE_CHECKING:
    from benchbd.core.events import Event
    from benchbd.plan.cell import Cell

EPILOG = """\
  benchbd prepare table2 --data ~/data --device cpu
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "prepare",
        help="read data and make poisoned sets before a run takes a GPU",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_matrix_arguments(parser)
    text = "device that trains surrogates and generators (default: auto)"
    parser.add_argument("--device", metavar="NAME", default="auto", help=text)
    parser.set_defaults(run=run)


def _warned(event: Event) -> None:
    if event.get("event") == "warning":
        sys.stderr.write(f"{event.get('warning', '')}\n")


def run(args: argparse.Namespace) -> int:
    """Prepare every row once. A row that fails does not stop the others.

    Returns:
        0; 2 if data or other input of a row cannot be used; 1 if rows failed for other reasons alone.
    """
    plan = load_plan(args)  # before torch is imported, so that a mistake in the matrix is found at once
    from benchbd.core.devices import compute_device
    from benchbd.core.paths import data_folder
    from benchbd.engine.threads import cpu_threads
    from benchbd.pipeline.poison import Poisoner
    from benchbd.storage.artifacts import Store

    root = data_folder(args.data)
    device = compute_device(args.device, "--device")
    store = Store(output_folder(args) / "store", write)
    rows: dict[str, Cell] = {}
    for cell in plan.cells:
        rows.setdefault(cell.row_key, cell)
    code = failed = 0
    told: set[str] = set()
    for cell in rows.values():
        row = f"{cell.dataset.text}/{cell.model.text}/{cell.attack.text}/s{cell.seed}"
        try:
            poisoner = Poisoner(cell, cell.components(), store, device, _warned, root)
            clean, info = poisoner.train_set()
            with cpu_threads(cell.threads, device):
                poison = poisoner.poison(clean, info)
        except BenchbdError as error:
            code, failed = max(code, error.exit_code), failed + 1
            if (line := one_line(error)) not in told:  # all rows of a data set have the same broken picture
                told.add(line)
                sys.stderr.write(f"benchbd: {row}: {line}\n")
            continue
        count = poison.facts.get("count")
        images = counted(len(clean), "image" if count else "clean image")
        write(f"{row}: {count} of {images} poisoned" if count else f"{row}: {images}")
    if failed > 1:
        sys.stderr.write(f"benchbd: {failed} of {len(rows)} rows are not prepared\n")
    return code
