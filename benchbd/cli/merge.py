"""``benchbd merge DIR...``: combine the results of several machines or shards."""

from __future__ import annotations

import argparse
import shlex
import sys
from typing import Any

from benchbd.cli.common import add_output, output_folder, write
from benchbd.errors import UsageError, counted, shown

NAMED = 5
"""Number of refused records that are named; the rest are counted."""
EPILOG = """\
Records are matched by cell ID. If two finished records of one cell have different numbers, the first one stays, the
other one goes to OUTPUT/conflicts/, and the line says how large the difference is and what else differs, such as a
plugin's code, a version or the device (exit code 1). The same happens if they were measured on different data or
initial weights. If different cells of one data set and model were, they are kept and counted (exit code 1). A record
whose ID is not the hash of its spec is refused. Nothing is removed from the source folders.

  benchbd merge part1 part2 part3 --output all
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "merge", help="combine results folders", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", metavar="DIR", nargs="+", help="a results folder or a results.jsonl file")
    add_output(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Merge, and report conflicts and refused records."""
    from benchbd.core.paths import user_path
    from benchbd.errors import one_line
    from benchbd.storage.merge import merge

    output = output_folder(args)
    try:
        merged = merge([user_path(source, "merge") for source in args.sources], output)
    except OSError as error:
        line = f"--output {shown(args.output, 200)}: cannot be written ({error.strerror or error})"
        raise UsageError(f"{line}; check its permissions and the disk, or name another folder") from error
    for line in merged.refused[:NAMED]:
        sys.stderr.write(f"refused: {line}\n")
    if len(merged.refused) > NAMED:
        sys.stderr.write(f"refused: and {len(merged.refused) - NAMED} more\n")
    for conflict in merged.conflicts:
        difference = f"differs by up to {100 * conflict.difference:.2f} points"
        classes = f" (precision classes {' and '.join(map(one_line, conflict.classes))})" if conflict.classes else ""
        kind = f"different data: another {conflict.data}" if conflict.data else "conflict"
        others = ", ".join(map(one_line, conflict.other))
        if not (conflict.other or conflict.data or conflict.classes):
            others = "nothing recorded, so chance or the machine"
        why = f"; different: {others}" if others else ""
        write(f"{kind}: {conflict.label} [{conflict.id}]: {difference}{classes}; the other is {conflict.kept}{why}")
    for line in merged.mixed:
        write(f"different data: {line}; tables mark them")
    counts = f"{merged.added} added, {merged.same} there already, {counted(len(merged.conflicts), 'conflict')}"
    write(f"{counts}, {len(merged.refused)} refused -> {output}")
    if merged.conflicts:
        largest = max(conflict.difference for conflict in merged.conflicts)
        write(f"largest difference: {100 * largest:.2f} points")
        rerun = shlex.join(["benchbd", "rerun", merged.conflicts[0].id, "--output", str(output)])
        write(f"the first record of each cell counts; to decide by measuring it here: {rerun}")
    return 1 if merged.conflicts or merged.refused or merged.mixed else 0
