"""``benchbd verify RESULTS``: check somebody's results, and run some of their cells again."""

from __future__ import annotations

import argparse
import contextlib
import math
import secrets
import sys
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import add_plugin_files, add_plugins, output_folder, write, write_json
from benchbd.cli.run_arguments import add_run_arguments, run_settings
from benchbd.core.paths import data_folder, look, user_path
from benchbd.errors import UsageError, counted, shown

if TYPE_CHECKING:
    from benchbd.report.verification.repetition import Repetition
    from benchbd.report.verification.submission import Submission

EPILOG = """\
Checked are the schema; IDs against their specs; duplicates; shares of test images, counts and times that contradict
each other; plugins that this installation does not know, or whose version or code differs; and data whose fingerprint
differs from that of the files here. RESULTS is never changed.
--sample runs cells again in a temporary folder and compares CA, ASR and RA. The tolerance is 0 if the CPU's precision
class and name, the system and the versions of torch, torchvision, numpy, scikit-learn and benchbd agree; then counts of
flagged samples and trainings must agree, too. Otherwise it is 7 points of CA, 42 of ASR and 16 of
RA and three standard errors of the test set; --tolerance replaces both (docs/submitting.md says where they come from).
Exit codes: 0 fine, 1 findings, 2 usage error, 130 interrupted.

  benchbd verify results.jsonl
  benchbd verify results.jsonl --sample 3 --seed 7 --data ~/data --plugin my_defense.py
  benchbd verify results.jsonl --sample 3 --tolerance 2 --json
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "verify",
        help="check somebody's results, and run some of their cells again",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("results", metavar="RESULTS", help="a results.jsonl file or a results folder")
    parser.add_argument("--sample", metavar="N", type=int, default=0, help="run N of its cells again (default: 0)")
    text = "seed that draws the cells (default: a random one, which is printed)"
    parser.add_argument("--seed", metavar="S", type=int, help=text)
    text = "largest difference of CA, ASR and RA in points, instead of those below"
    parser.add_argument("--tolerance", metavar="POINTS", type=float, help=text)
    text = "folder with the data sets (default: $BENCHBD_DATA, then the user's cache)"
    parser.add_argument("--data", metavar="DIR", help=text)
    text = "keep what runs again in this new folder (default: a temporary one, which is removed)"
    parser.add_argument("--output", metavar="DIR", help=text)
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_plugins(parser)
    add_run_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check the results, run cells again, and print findings and a summary."""
    from benchbd.report.verification.submission import read_submission, summary

    if args.sample < 0:
        raise UsageError(f"--sample must be 0 or more, not {args.sample}")
    if args.tolerance is not None and not (math.isfinite(args.tolerance) and 0 <= args.tolerance <= 100):
        raise UsageError(f"--tolerance must be 0 to 100 points, not {args.tolerance:g}")
    place = user_path(args.results, "verify")
    data_folder(args.data)
    add_plugin_files(args)
    with _scratch(args):
        submission = read_submission(place, args.data)
        if not args.json:
            for finding in submission.findings:
                write(f"finding: {finding.text}")
            sys.stdout.flush()
        seed = secrets.randbelow(2**31) if args.seed is None else args.seed
        interrupted, repeats = _repeat(args, submission, seed) if args.sample else (False, [])
    findings = [*submission.findings, *(finding for each in repeats for finding in each.findings)]
    notes = [*submission.notes, *_not_drawn(args.sample, submission), *(each.note for each in repeats if each.note)]
    if args.json:
        write_json(
            {
                "records": submission.number,
                "findings": [finding._asdict() for finding in findings],
                "notes": notes,
                "seed": seed if args.sample else None,
                "repeats": [each.as_json() for each in repeats],
            }
        )
    else:
        for each in repeats:
            write(f"run again: {each.line}")
            for finding in each.findings:
                write(f"finding: {finding.text}")
        for note in notes:
            write(f"note: {note}")
        same = sum(each.repeats for each in repeats)
        again = (
            f"; {same} of {counted(len(repeats), 'cell')} drawn with seed {seed} {'repeats' if same == 1 else 'repeat'}"
            if args.sample
            else ""
        )
        write(f"{summary(submission, len(findings), len(notes))}{again}")
    return 130 if interrupted else 1 if findings else 0


@contextlib.contextmanager
def _scratch(args: argparse.Namespace) -> Iterator[None]:
    """Set ``--output`` to a temporary folder, if it is not given. Raises UsageError if a given one is not empty."""
    if args.output is not None:
        folder = user_path(args.output, "--output")
        if look(folder, "--output") != "nothing" and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"--output {shown(args.output, 200)}: is not empty; name a new folder for what runs again")
        yield
    elif not args.sample:
        yield
    else:
        with tempfile.TemporaryDirectory(prefix="benchbd-verify-", ignore_cleanup_errors=True) as temporary:
            args.output = temporary
            yield


def _repeat(args: argparse.Namespace, submission: Submission, seed: int) -> tuple[bool, list[Repetition]]:
    """Run the drawn cells. Returns whether the run was interrupted, and each cell's comparison."""
    from benchbd.report.verification.repetition import drawn, repetition
    from benchbd.run import run_cells
    from benchbd.run.display.choose import make_display
    from benchbd.run.prepare import writable
    from benchbd.storage.records import read_record

    chosen = drawn(submission.cells, args.sample, seed)
    if not chosen:
        return False, []
    args.threads = None
    output = output_folder(args)
    settings = run_settings(args)
    writable(output)
    display = make_display("none" if args.json and args.display == "auto" else args.display)
    outcome = run_cells([submission.cells[cell] for cell in chosen], settings, display)
    given = None if args.tolerance is None else args.tolerance / 100
    records = submission.records
    repeats = [
        repetition(records[cell], read_record(output, cell), outcome.reasons.get(cell, ""), given) for cell in chosen
    ]
    return outcome.interrupted is not None, repeats


def _not_drawn(sample: int, submission: Submission) -> list[str]:
    """Why fewer cells than wanted could be drawn."""
    if not sample:
        return []
    notes = [f"{counted(number, 'cell')} not drawn: {why}" for why, number in submission.left_out.items()]
    if len(submission.cells) < sample:
        notes.append(f"only {len(submission.cells)} of the {counted(sample, 'cell')} wanted can run here")
    return notes
