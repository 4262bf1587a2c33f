"""``benchbd validate MATRIX``: check a matrix without running it."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from benchbd.cli.common import add_matrix_arguments, load_plan, output_folder, say_notes, write
from benchbd.errors import counted, one_line

EPILOG = """\
Files that attacks and data sets lack are listed if the check needs them; what depends on them is not checked.

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
    from benchbd.plan.absent_files import AbsentFiles
    from benchbd.plan.missing_parts import missing_parts, with_known_work
    from benchbd.run.packing_check import refuse_unpackable

    folder = data_folder(args.data)
    output_folder(args)
    absent = AbsentFiles(refuse_mistakes=True)
    plan = load_plan(args, absent)
    lines = absent.lines()
    say_notes(plan)
    missing = list(missing_parts(plan.cells, folder, absent))
    refuse_unpackable(with_known_work(plan.cells, missing), lambda line: sys.stderr.write(f"benchbd: {line}\n"))
    impossible = f", {len(plan.skipped)} skipped" if plan.skipped else ""
    write(f"{plan.source}: fine, {counted(len(plan.cells), 'cell')}{impossible}")
    for skipped in plan.skipped:
        write(f"  skipped {skipped.cell.label}: {skipped.reason}")
    for line in lines:
        write(f"missing: {one_line(line)}")
    return 0
