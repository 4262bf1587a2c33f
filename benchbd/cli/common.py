"""What several verbs share: arguments, the plan they name, output."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.core.paths import look, user_path
from benchbd.errors import UsageError, shown

if TYPE_CHECKING:
    from benchbd.plan.matrix import Plan

DEFAULT_OUTPUT = "benchbd-out"
FOLDERS = (".", "records", "logs", "store", "running")
"""What verbs read in a results folder."""
OWN_FLAGS = ("seeds", "data", "output", "jobs", "gpus", "threads", "device", "timeout", "retries", "budget", "shard")
"""Flags that are taken for settings of the matrix."""


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--output``."""
    text = f"results folder (default: {DEFAULT_OUTPUT})"
    parser.add_argument("--output", metavar="DIR", default=DEFAULT_OUTPUT, help=text)


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """``--plugin``."""
    text = "Python file with plugins of your own, which is run; may be repeated"
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help=text)


def add_matrix_arguments(parser: argparse.ArgumentParser) -> None:
    """MATRIX and what narrows or changes it."""

    def repeated(flag: str, metavar: str, text: str) -> None:
        parser.add_argument(flag, metavar=metavar, action="append", default=[], help=text)

    text = "a YAML file, the name of a shipped matrix, or - (standard input)"
    parser.add_argument("matrix", metavar="MATRIX", help=text)
    add_output(parser)
    text = "folder of the data sets (default: $BENCHBD_DATA, then the user's cache)"
    parser.add_argument("--data", metavar="DIR", help=text)
    repeated("--filter", "K=GLOB", "only cells that match, such as defense=lfd*,attack!=none")
    repeated("--exclude", "K=GLOB", "without cells that match")
    repeated("--set", "K=V", "change a setting: epochs=2, dataset.train=1000, lfd.alpha=0.2")
    parser.add_argument("--seeds", metavar="LIST", help="seeds instead of the matrix's: 0-2 or 0,3")
    text = "shrink every cell to seconds, to find mistakes before a long run"
    parser.add_argument("--smoke", action="store_true", help=text)
    add_plugins(parser)


def load_plan(args: argparse.Namespace) -> Plan:
    """The plan that the arguments name, narrowed by --filter and --exclude."""
    from benchbd.plan import matrix

    refuse_empty(args, "data")
    refuse_flags(args)
    add_plugin_files(args)
    seeds = None if args.seeds is None else matrix.parse_seeds(args.seeds)
    plan = matrix.load(args.matrix, sets=args.set, seeds=seeds, smoke=getattr(args, "smoke", False))
    return matrix.narrow(plan, args.filter, args.exclude)


def add_plugin_files(args: argparse.Namespace) -> None:
    """Make the files of ``--plugin`` known."""
    if args.plugin:
        from benchbd.plugins import registry

        for file in args.plugin:
            registry.add_plugin_file(file)


def refuse_empty(args: argparse.Namespace, *flags: str) -> None:
    """Refuse a flag with nothing in it. Raises UsageError.

    ``--shard "$SHARD"`` with the variable unset would run everything, were it the same as no flag.
    """
    for flag in flags:
        value = getattr(args, flag, None)
        if value is not None and not value.strip():
            name = f"--{flag.replace('_', '-')}"
            raise UsageError(f"{name} {shown(value)}: is empty; give a value (an unset variable?) or leave {name} out")


def refuse_flags(args: argparse.Namespace) -> None:
    """Refuse ``--set seeds=3``: what is a flag of the verb is no setting of the matrix. Raises UsageError."""
    for text in args.set:
        key, equals, value = (part.strip() for part in text.partition("="))
        flag = "seeds" if key == "seed" else key
        if equals and flag in OWN_FLAGS and hasattr(args, flag):
            # A list as YAML has it; the flags take 0,1.
            value = value.strip("[]").replace(" ", "") if value.startswith("[") else value
            line = f"--{flag} {shlex.quote(value[:60])}"
            raise UsageError(f"--set {shown(text)}: {key} is no setting but a flag; did you mean {line}?")


def output_folder(args: argparse.Namespace) -> Path:
    """``--output`` as a path.

    Raises:
        UsageError: it is empty, a file is in its place, or it may not be read.
    """
    refuse_empty(args, "output")
    folder = user_path(args.output, "--output")
    for name in FOLDERS:
        # Really listed: what the mode bits say is not all that decides (access lists, network disks).
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError), os.scandir(folder / name) as f:
                next(f, None)
        except OSError as error:
            hint = "; check its permissions" if isinstance(error, PermissionError) else ""
            place, why = shown(str(folder / name), 200), error.strerror or error
            raise UsageError(f"--output {place}: cannot be read ({why}){hint}") from error
    if look(folder, "--output") not in ("folder", "nothing"):
        raise UsageError(f"--output {shown(args.output, 200)}: is a file, not a folder")
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
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)


def record_ids(output: Path) -> list[str]:
    """Ids of the records that lie in a results folder, unread."""
    from benchbd.storage.records import is_id

    try:
        names = [path.name for path in (output / "records").iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name[:-5] for name in names if name.endswith(".json") and is_id(name[:-5]))


def find_record(output: Path, wanted: str) -> dict[str, Any]:
    """The record of a cell named by id, the start of an id, or its label.

    Raises:
        UsageError: none or several fit.
    """
    from benchbd.storage.records import read_record

    folder = output / "records"
    ids = record_ids(output)
    if not ids:
        raise UsageError(f"no records in {folder}; run a matrix first, or name its folder with --output")
    fitting = [i for i in ids if i.startswith(wanted)] if wanted else []
    if not fitting:
        fitting = [i for i in ids if wanted and (r := read_record(output, i)) and r["label"] == wanted]
    if not fitting:
        raise UsageError(f"no cell {shown(wanted)} among the {len(ids)} records in {folder}; benchbd status lists them")
    if len(fitting) > 1:
        some = ", ".join(fitting[:4]) + (", ..." if len(fitting) > 4 else "")
        raise UsageError(f"{shown(wanted)} fits {len(fitting)} cells ({some}); give more of the id")
    record = read_record(output, fitting[0])
    if record is None:
        raise UsageError(f"record {folder / fitting[0]}.json is damaged; benchbd run makes it again")
    return record
