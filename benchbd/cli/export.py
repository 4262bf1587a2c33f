"""``benchbd export FILE``: results in one file, for other programs and other people."""

from __future__ import annotations

import argparse
from typing import Any

from benchbd.cli.common import add_output, output_folder, write
from benchbd.errors import UsageError

EPILOG = """\
The ending says what: .jsonl one whole record a line (what leaderboard, compare and merge read), .csv one row a cell
with every plain field, .zip records, logs and the leaderboard, to be attached somewhere.

  benchbd export results.jsonl --matrix table2
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "export", help="results in one file", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", metavar="FILE", help="ends in .jsonl, .csv or .zip")
    parser.add_argument("--matrix", metavar="NAME", help="only records that a matrix of this name made")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    from benchbd.core.paths import user_path
    from benchbd.plan.cell import identity
    from benchbd.report import export
    from benchbd.storage import results_file

    target = user_path(args.file, "export")
    made = {".jsonl": export.as_jsonl, ".csv": export.as_csv, ".zip": export.as_zip}.get(target.suffix)
    if made is None:
        raise UsageError(f"export {args.file}: the name must end in .jsonl, .csv or .zip")
    output = output_folder(args)
    found = results_file.load(output, identity)
    if args.matrix:
        found = [record for record in found if record.get("matrix") == args.matrix]
        if not found:
            raise UsageError(f"--matrix {args.matrix}: no record in {output} was made by a matrix of that name")
    try:
        made(results_file.ordered(found), target, output)
    except OSError as error:
        raise UsageError(f"export {args.file}: cannot be written ({error.strerror or error})") from error
    write(f"{len(found)} records -> {target}")
    return 0
