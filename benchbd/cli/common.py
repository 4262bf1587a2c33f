"""What several verbs share: arguments, the plan they name, output."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.errors import UsageError

if TYPE_CHECKING:
    from benchbd.matrix import Plan

DEFAULT_OUTPUT = "benchbd-out"


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--output``."""
    parser.add_argument("--output", metavar="DIR", default=DEFAULT_OUTPUT, help=f"results folder (default: {DEFAULT_OUTPUT})")


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """``--plugin``."""
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help="Python file with plugins of your own; may be repeated")


def add_matrix_arguments(parser: argparse.ArgumentParser) -> None:
    """MATRIX and what narrows or changes it."""
    parser.add_argument("matrix", metavar="MATRIX", help="a YAML file, or the name of a shipped matrix")
    add_output(parser)
    parser.add_argument("--data", metavar="DIR", help="folder of the data sets (default: $BENCHBD_DATA, then the user's cache)")
    parser.add_argument("--filter", metavar="K=GLOB", action="append", default=[], help="only cells that match, such as defense=lfd*,attack!=none")
    parser.add_argument("--exclude", metavar="K=GLOB", action="append", default=[], help="without cells that match")
    parser.add_argument("--set", metavar="K=V", action="append", default=[], help="change a setting: epochs=2, dataset.train=1000, lfd.alpha=0.2")
    parser.add_argument("--seeds", metavar="LIST", help="seeds instead of the matrix's: 0-2 or 0,3")
    parser.add_argument("--smoke", action="store_true", help="shrink every cell to seconds, to find mistakes before a long run")
    add_plugins(parser)


def load_plan(args: argparse.Namespace) -> Plan:
    """The plan that the arguments name, narrowed by --filter and --exclude."""
    import dataclasses

    from benchbd import matrix

    add_plugin_files(args)
    plan = matrix.load(
        args.matrix, sets=args.set, seeds=matrix.parse_seeds(args.seeds) if args.seeds else None, smoke=getattr(args, "smoke", False)
    )
    return dataclasses.replace(plan, cells=matrix.select(plan.cells, args.filter, args.exclude))


def add_plugin_files(args: argparse.Namespace) -> None:
    """Make the files of ``--plugin`` known."""
    if args.plugin:
        from benchbd import registry

        for file in args.plugin:
            registry.add_plugin_file(file)


def output_folder(args: argparse.Namespace) -> Path:
    """``--output`` as a path. Raises UsageError where a file is in its place."""
    folder = Path(args.output).expanduser()
    if "\0" in str(folder):
        raise UsageError("--output: a path has no NUL in it")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {args.output}: is a file, not a folder")
    return folder


def write(text: str) -> None:
    """Text to standard output, ended by a newline."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def write_json(value: Any) -> None:
    """JSON to standard output."""
    write(json.dumps(value, indent=2, sort_keys=False))


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Rows as left-aligned columns."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def find_record(output: Path, wanted: str) -> dict[str, Any]:
    """The record of a cell named by id, the start of an id, or its label.

    Raises:
        UsageError: none or several fit.
    """
    from benchbd.records import read_record

    folder = output / "records"
    ids = sorted(p.stem for p in folder.glob("*.json")) if folder.is_dir() else []
    if not ids:
        raise UsageError(f"no records in {folder}; run a matrix first, or name its folder with --output")
    fitting = [i for i in ids if i.startswith(wanted)] if wanted else []
    if not fitting:
        found = [r for i in ids if (r := read_record(output, i)) and r.get("label") == wanted]
        if found:
            return found[0]
        raise UsageError(f"no cell {wanted[:80]!r} among the {len(ids)} records in {folder}; benchbd status lists them")
    if len(fitting) > 1:
        raise UsageError(f"{wanted!r} fits {len(fitting)} cells ({', '.join(fitting[:4])}...); give more of the id")
    record = read_record(output, fitting[0])
    if record is None:
        raise UsageError(f"record {folder / fitting[0]}.json is damaged; benchbd run makes it again")
    return record
