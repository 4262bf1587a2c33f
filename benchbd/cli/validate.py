"""``benchbd validate MATRIX``: check a matrix without running it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchbd.cli.common import add_matrix_arguments, load_plan, output_folder, say_notes, write

EPILOG = """\
  benchbd validate my-matrix.yaml --plugin my_defense.py
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "validate",
        help="check a matrix without running it",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_matrix_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the matrix. A mistake in it is a usage error."""
    from benchbd.core.paths import data_folder
    from benchbd.run.packing_check import refuse_unpackable

    data_folder(args.data)
    output_folder(args)
    plan = load_plan(args)
    say_notes(plan)
    refuse_unpackable(plan.cells, lambda line: sys.stderr.write(f"benchbd: {line}\n"))
    impossible = f", {len(plan.skipped)} skipped" if plan.skipped else ""
    write(f"{plan.source}: fine, {len(plan.cells)} cells{impossible}")
    for skipped in plan.skipped:
        write(f"  skipped {skipped.cell.label}: {skipped.reason}")
    return 0
