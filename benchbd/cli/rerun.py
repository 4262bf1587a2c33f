"""``benchbd rerun CELL``: run one cell again, whatever the status of its record."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

from benchbd.cli.common import (
    add_numerics,
    add_output,
    add_plugin_files,
    add_plugins,
    find_record,
    output_folder,
    refuse_empty,
    write,
)
from benchbd.cli.recorded_plugins import plugins_of
from benchbd.cli.run_arguments import add_run_arguments, display_of, run_settings

EPILOG = """\
Plugin files that runs of the cell's matrix had are loaded again; --plugin replaces them. Files of the defense
command are looked up where that run found them; BENCHBD_FILES replaces that folder.

  benchbd rerun 3f9a
  benchbd rerun cifar10/resnet18/bn-g/lfd/s0 --device cpu --timeout 2h
  benchbd rerun 3f9a --precision fp32 --threads 2      another cell, recorded beside the first
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "rerun",
        help="run one cell again",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cell", metavar="CELL", help="the cell's ID, the start of its ID, or its label")
    add_output(parser)
    parser.add_argument(
        "--data", metavar="DIR", help="folder with the data sets (default: $BENCHBD_DATA, then the user's cache)"
    )
    add_plugins(parser)
    add_numerics(parser, default="the cell's")
    add_run_arguments(parser)
    parser.set_defaults(run=run)


def _find_files_of(output: Path, record: dict[str, Any]) -> None:
    """Look a program's files up where the last run of the record's matrix found them, unless the user says where."""
    from benchbd.core.files_folder import look_in
    from benchbd.core.paths import FILES_VARIABLE
    from benchbd.storage.plugin_places import files_place

    folder = files_place(output, record.get("matrix") or "")
    if folder and not os.environ.get(FILES_VARIABLE):
        look_in(Path(folder))


def run(args: argparse.Namespace) -> int:
    """Run the cell described by the spec in its record."""
    refuse_empty(args, "precision")
    output = output_folder(args)
    record = find_record(output, args.cell)
    add_plugin_files(args)
    with plugins_of(args, output, record):
        return _run(args, output, record)


def _run(args: argparse.Namespace, output: Path, record: dict[str, Any]) -> int:
    from benchbd.core.numerics import Numerics
    from benchbd.plan.cell import Cell
    from benchbd.run import run_cells
    from benchbd.run.display.base import numbers
    from benchbd.run.prepare import check_cells, writable
    from benchbd.run.summary import summary
    from benchbd.storage.staleness import InputFiles, changed_inputs_text

    asked = Numerics.parse({"precision": args.precision, "threads": args.threads}, "--")
    _find_files_of(output, record)
    cell = Cell.from_json({"spec": record["spec"], "matrix": record.get("matrix") or ""})
    precision = cell.precision if args.precision is None else asked.precision
    threads = cell.threads if args.threads is None else asked.threads
    cell = dataclasses.replace(cell, numerics=Numerics(precision, threads))
    settings = run_settings(args, rerun="all")
    check_cells([cell], settings)
    writable(output)
    changed = InputFiles(settings.data_root).changed(cell, record)
    for line in changed_inputs_text([changed], "the rerun reads what is there now, and tables mark different data"):
        sys.stderr.write(f"benchbd: {line}\n")
    sys.stderr.flush()
    outcome = run_cells([cell], settings, display_of(args))
    if args.display != "none":
        sys.stderr.write(summary(outcome, {cell.id: cell.label}, settings))
    if outcome.statuses[cell.id] == "done":
        write(f"{cell.label}  {numbers(find_record(output, cell.id))}".rstrip())
    return outcome.exit_code
