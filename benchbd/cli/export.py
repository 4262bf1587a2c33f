"""``benchbd export FILE``: write results into one file, for other programs and other people."""

from __future__ import annotations

import argparse
from typing import Any

from benchbd.cli.common import add_output, output_folder, usable_records, write
from benchbd.errors import UsageError, counted

EPILOG = """\
The suffix of FILE selects the format:
  .jsonl   one record per line, complete; leaderboard, plot, show --results, compare and merge read it
  .csv     one row per cell, with every field that is not nested
  .parquet the same rows, with a type for each column and IDs as text (benchbd[parquet])
  .zip     records, logs and the leaderboard, to attach or archive

  benchbd export results.jsonl --matrix table2
  benchbd export results.csv
  benchbd export results.parquet

A program that reads the csv must be told that IDs are text (pandas: dtype={"id": str}): some consist of digits only.
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "export",
        help="write results into one file",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="file to write: .jsonl, .csv, .parquet or .zip")
    parser.add_argument("--matrix", metavar="NAME", help="only records from a matrix of this name")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Write the file."""
    from benchbd.core.paths import user_path
    from benchbd.report import export
    from benchbd.report.parquet import as_parquet
    from benchbd.storage import results_file

    target = user_path(args.file, "export")
    writers = {".jsonl": export.as_jsonl, ".csv": export.as_csv, ".zip": export.as_zip, ".parquet": as_parquet}
    writer = writers.get(target.suffix)
    if writer is None:
        raise UsageError(f"export {args.file}: the name must end in .jsonl, .csv, .parquet or .zip")
    output = output_folder(args)
    records = usable_records(output)
    if args.matrix:
        records = [record for record in records if record.get("matrix") == args.matrix]
        if not records:
            raise UsageError(f"--matrix {args.matrix}: no record in {output} comes from a matrix of that name")
    try:
        writer(results_file.ordered(records), target, output)
    except OSError as error:
        raise UsageError(f"export {args.file}: cannot be written ({error.strerror or error})") from error
    write(f"{counted(len(records), 'record')} -> {target}")
    return 0
