"""``benchbd clean``: free disk space. It asks first and never removes the record of a finished cell."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchbd.cli.common import add_output, output_folder, write
from benchbd.errors import UsageError, agrees, counted

EPILOG = """\
Without a flag, clean removes only the files that dead processes left behind. No flag removes the record of a finished
cell: delete the results folder for that. A run computes stored models and stages again when it needs them.

  benchbd clean
  benchbd clean --failed --logs
  benchbd clean --artifacts --output old-results --yes
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "clean",
        help="remove leftover files, stored stages and failures",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--artifacts", action="store_true", help="stored models, poisoned sets and other stages")
    parser.add_argument("--failed", action="store_true", help="records and logs of cells without a result")
    parser.add_argument("--logs", action="store_true", help="logs of finished cells")
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask")
    add_output(parser)
    parser.set_defaults(run=run)


def _size(paths: list[Path]) -> int:
    files = [f for path in paths for f in ([path] if not path.is_dir() else path.rglob("*"))]
    return sum(f.lstat().st_size for f in files if f.is_file() or f.is_symlink())


def run(args: argparse.Namespace) -> int:
    """List what would be removed, ask, and remove it."""
    import shutil

    from benchbd.storage.cell_locks import running
    from benchbd.storage.cleanup import remove_stale_files
    from benchbd.storage.records import FAILED_RERUNS, read_record
    from benchbd.storage.results_folder import record_ids

    output = output_folder(args)
    if not any((output / name).is_dir() for name in ("records", "store", "logs")):
        raise UsageError(f"{output}: not a results folder")
    busy = running(output)
    if busy:
        raise UsageError(
            f"{output}: {counted(len(busy), 'cell')} {agrees(len(busy), 'is', 'are')} running in this folder; wait for "
            "the run to end"
        )
    statuses = {i: (read_record(output, i) or {}).get("status") for i in record_ids(output)}
    removals: list[tuple[str, list[Path]]] = []
    if args.artifacts:
        removals.append(("stored stages", [output / "store"] if (output / "store").is_dir() else []))
    if args.failed:
        failed = [i for i, status in statuses.items() if status not in ("done", "skipped", None)]
        files = [output / "records" / f"{i}.json" for i in failed] + [output / "logs" / f"{i}.log" for i in failed]
        files += _files(output / FAILED_RERUNS, "*.json")
        removals.append((f"{counted(len(failed), 'record')} without a result", [f for f in files if f.is_file()]))
    if args.logs:
        logs = [p for p in _files(output / "logs", "*.log") if statuses.get(p.stem) in ("done", "skipped")]
        removals.append((counted(len(logs), "log"), logs))
    stale = remove_stale_files(output, older_than=0.0, remove=False)
    write(f"left by dead processes: {counted(stale.locks, 'lock file')}, {counted(stale.temporary, 'temporary file')}")
    for name, paths in removals:
        write(f"{name}: {_size(paths) / 2**20:,.1f} MiB")
    if not any(paths for _, paths in removals) and not any(stale):
        write("nothing to remove")
        return 0
    if not args.yes and not _confirmed(output):
        write("nothing was removed")
        return 1
    remove_stale_files(output, older_than=0.0)
    for _, paths in removals:
        for path in paths:
            if path.is_symlink() or not path.is_dir():  # shutil.rmtree would open a pipe and wait
                path.unlink(missing_ok=True)
            else:
                shutil.rmtree(path)
    write("removed")
    return 0


def _files(folder: Path, pattern: str) -> list[Path]:
    return [p for p in sorted(folder.glob(pattern)) if p.is_file() and not p.is_symlink()] if folder.is_dir() else []


def _confirmed(output: Path) -> bool:
    """Ask on the terminal. Raises UsageError if standard input is not a terminal."""
    if not sys.stdin.isatty():
        raise UsageError("clean asks before it removes anything; use -y to run it without a terminal")
    sys.stderr.write(f"remove this from {output}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
