"""``benchbd leaderboard``: show the tables of a results folder or file; ``--check`` compares them with a file."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import (
    add_filters,
    add_numerics,
    add_output,
    add_plugin_files,
    add_plugins,
    add_results,
    flag_words,
    load_plan,
    output_folder,
    refuse_to_overwrite,
    results_place,
    usable_records,
    write,
)
from benchbd.core.paths import look, user_path
from benchbd.errors import UsageError, counted, one_line, shown, suggestion

if TYPE_CHECKING:
    from benchbd.report import Board

COMMITTED = Path("leaderboard")
INDEX = "index.html"
STANDARD_OUTPUT = "-"
RESULTS, README = COMMITTED / "results.jsonl", COMMITTED / "README.md"
ASR_OVER, CA_OVER = ("non-target", "all"), ("all", "non-target")
"""As in :mod:`benchbd.report.definitions`, which the parser need not import."""
CELLS = ("data", "filter", "exclude", "set", "seeds", "smoke", "precision", "threads", "plugin")
"""Arguments that select cells of MATRIX, or that it needs."""
EXPORTED = (".csv", ".parquet", ".zip", ".html", ".md")
"""Endings of files that hold results in a form that no verb reads."""
FORMATS = ("md", "text", "csv", "latex", "html", "json", "jsonl", "parquet")

EPILOG = """\
  benchbd leaderboard                                   every record in benchbd-out
  benchbd leaderboard part2                             every record in the results folder part2
  benchbd leaderboard --format text                     plain text, coloured on a terminal
  benchbd leaderboard --format html                     index.html beside the records, ready for GitHub Pages
  benchbd leaderboard table2 --paper --format html --write board.html
  benchbd leaderboard r.jsonl --filter 'attack=bn-*'    those of somebody's records that match
  benchbd leaderboard table2 --precision strict         the cells of run --precision strict
  benchbd leaderboard cifar10-small --format jsonl --write leaderboard/results.jsonl
  benchbd leaderboard --format parquet --write all.parquet   a row for each cell, IDs as text
  benchbd leaderboard --results leaderboard/results.jsonl --write leaderboard/README.md
  benchbd leaderboard --check                           exit 1 if leaderboard/README.md is out of date
"""


def add_definitions(parser: Any) -> None:
    """Add what CA and ASR are over, and the gate, to a parser or to a group of arguments."""
    parser.add_argument(
        "--asr-over",
        choices=ASR_OVER,
        default=ASR_OVER[0],
        help="test images that ASR is over: of other classes than the target (default), or all of them, as in the code "
        "of input-aware attacks and I-BAU",
    )
    parser.add_argument(
        "--ca-over",
        choices=CA_OVER,
        default=CA_OVER[0],
        help="test images that CA is over: all (default), or those of other classes than the target, as in ABL's code",
    )
    parser.add_argument(
        "--gate", metavar="ASR", type=float, help="lowest undefended ASR at which an attack counts as implanted"
    )


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "leaderboard",
        help="show tables of the results",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = (
        "only the cells of this matrix, or every record of this results folder or results.jsonl (default: every record)"
    )
    parser.add_argument("matrix", metavar="MATRIX|FOLDER", nargs="?", help=text)
    add_output(parser)
    add_results(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="default: text on a terminal, else md; html also writes index.html beside the records, unless --write "
        "names a file; jsonl gives the records themselves, sorted; parquet a table of them, with --write FILE",
    )
    parser.add_argument(
        "--paper", action="store_true", help="add the paper's values, the differences, and verdicts on its claims"
    )
    add_definitions(parser)
    text = "write to this file and print its path; - is standard output"
    parser.add_argument("--write", metavar="FILE", help=text)
    parser.add_argument(
        "--check",
        action="store_true",
        help=f"compare with the --write file (default: {README}); exit 1 if they differ",
    )
    cells = parser.add_argument_group("cells")
    add_filters(cells)
    cells.add_argument("--seeds", metavar="LIST", help="as for benchbd run; needs a MATRIX, as do the next ones")
    cells.add_argument("--set", metavar="K=V", action="append", default=[], help="as for benchbd run")
    cells.add_argument("--data", metavar="DIR", help="as for benchbd run; not needed to read results")
    cells.add_argument("--smoke", action="store_true", help="as for benchbd run")
    add_numerics(cells)
    add_plugins(parser)
    parser.set_defaults(run=run)


def read_folder(args: argparse.Namespace, others: Collection[str] = ()) -> None:
    """Turn a results folder or file in the place of MATRIX into --output or --results.

    ``others`` are words besides matrices that may have been meant there, for the suggestion.
    """
    if args.matrix is None or args.matrix == "-":
        return
    place = user_path(args.matrix, "matrix")
    kind = look(place, "matrix")
    if kind == "nothing" and not place.suffix and _no_matrix(args.matrix):
        from benchbd.plan.shipped import shipped

        near = suggestion(args.matrix, [*others, *shipped()])
        raise UsageError(f"{shown(args.matrix, 100)}: there is no such folder, file or matrix{near}")
    if kind == "file" and place.suffix in EXPORTED:
        line = f"{shown(args.matrix, 100)}: is neither a matrix nor a results folder or results.jsonl file"
        raise UsageError(f"{line}; benchbd export FILE.jsonl writes such a file")
    folder = kind == "folder" and (look(place / "records", "matrix") == "folder" or _no_matrix(args.matrix))
    # A compressed results file is one, too: its reader says what to do.
    if not folder and place.suffix != ".jsonl" and not (kind == "file" and place.stem.endswith(".jsonl")):
        return
    if args.results or args.output_named:
        other = "--results" if args.results else "--output"
        raise UsageError(f"{shown(args.matrix, 100)} and {other} both name results; give one of them")
    if folder:
        args.output, args.output_named = args.matrix, True
    else:
        args.results = args.matrix
    args.matrix = None


def _no_matrix(name: str) -> bool:
    from benchbd.plan.shipped import shipped

    return name not in shipped()


def read(args: argparse.Namespace) -> tuple[list[dict[str, Any]], float | None, str]:
    """The records that the arguments select, the matrix's gate (None without a matrix), and a title.

    --filter and --exclude work without a matrix too.

    Raises:
        UsageError: there are no records, or a record is invalid.
    """
    from benchbd.plan.absent_files import AbsentFiles

    read_folder(args)
    place = results_place(args)
    # Results are read where the images may not be: records hold what the tables need.
    absent = AbsentFiles()
    plan = None if args.matrix is None else load_plan(args, absent)
    # A check must not pass because a record is left out.
    found = usable_records(place, strict=getattr(args, "check", False), early=True)
    if plan is None:
        given = (args.set, args.seeds, args.smoke, args.precision, args.threads)
        if any(value not in (None, False, []) for value in given):
            flags = "--set, --seeds, --smoke, --precision and --threads"
            raise UsageError(f"{flags} select cells of a matrix; give a MATRIX, or select records with --filter")
        add_plugin_files(args)
        if args.filter or args.exclude:
            from benchbd.report.selection import select_records

            found = select_records(found, args.filter, args.exclude)
        return found, None, "Leaderboard"
    for line in absent.lines():
        sys.stderr.write(f"benchbd: {one_line(line)}; cells that cannot exist are not listed\n")
    skipped = {s.cell.id: s for s in plan.skipped}
    wanted = {cell.id for cell in plan.cells} | skipped.keys()
    mine = [record for record in found if record["id"] in wanted]
    if found and not mine:
        raise UsageError(
            f"{place}: none of its {counted(len(found), 'record')} belongs to matrix {plan.name} "
            "(other parameters or versions?); leave the matrix out to see them all, or run it first"
        )
    missing = skipped.keys() - {record["id"] for record in mine}
    if missing and not (args.filter or args.exclude):
        from benchbd.storage.records import blank

        mine += [blank(skipped[ident].cell, "skipped", skipped[ident].reason) for ident in sorted(missing)]
    return mine, plan.gate, plan.name


def make(args: argparse.Namespace) -> Board:
    """Build the leaderboard that the arguments ask for."""
    return board_of(args, read(args))


def board_of(args: argparse.Namespace, found: tuple[list[dict[str, Any]], float | None, str]) -> Board:
    """Build the leaderboard of records, with the matrix's gate and a title (see :func:`read`)."""
    from benchbd.report import GATE, board
    from benchbd.report.definitions import Definitions

    if args.gate is not None and not 0 <= args.gate <= 1:
        raise UsageError(f"--gate is an ASR in [0, 1], not {args.gate:g}")
    records, gate, title = found
    if args.gate is not None:
        gate = args.gate
    over = Definitions(args.asr_over, args.ca_over)
    return board(records, gate=GATE if gate is None else gate, paper=args.paper, title=title, definitions=over)


def run(args: argparse.Namespace) -> int:
    """Print the leaderboard, write it to a file, or check that file."""
    from benchbd.storage.results_file import uncollected

    # Paused from the first record to the last line, the collector never walks through the records.
    with uncollected():
        return _run(args)


def _run(args: argparse.Namespace) -> int:
    if args.write not in (None, STANDARD_OUTPUT) and not args.check:
        inputs = (args.results, args.matrix, *(args.plugin or ()))
        refuse_to_overwrite(user_path(args.write, "--write"), "--write", *inputs)
    if args.format == "parquet":
        return _write_parquet(args)
    if args.check:
        if args.write == STANDARD_OUTPUT:
            raise UsageError("--check compares with a file; --write - names none")
        if (args.asr_over, args.ca_over) != (ASR_OVER[0], CA_OVER[0]):
            raise UsageError(
                "--check compares with a file of the usual definitions; leave out --asr-over and --ca-over"
            )
        args.format = args.format or "md"
        return check(args)
    if args.format in (None, "text") and not args.write and sys.stdout.isatty():
        from rich.console import Console

        from benchbd.report.formats.terminal import show

        show(make(args), Console())
        return 0
    args.format = args.format or "md"
    text = make(args).render(args.format)
    if args.write == STANDARD_OUTPUT:
        write(text)
    elif args.write:
        from benchbd.core.files import write_named

        place = user_path(args.write, "--write")
        write_named(place, text)
        _name(place)
    elif args.format == "html":
        _write_index(args, text)
    else:
        write(text)
    return 0


def _name(place: Path) -> None:
    """Print the path of a written file. A device or a pipe has got the text itself, and nothing may follow it there."""
    if place.is_file():
        write(str(place))


def _write_parquet(args: argparse.Namespace) -> int:
    """Write the records as one table."""
    from benchbd.core.extras import require_extra
    from benchbd.report.parquet import as_parquet
    from benchbd.storage import results_file

    if args.check or args.write in (None, STANDARD_OUTPUT):
        raise UsageError("--format parquet is for --write FILE only, such as --write all.parquet")
    require_extra("parquet", "--format parquet")
    records, _, _ = read(args)
    try:
        place = user_path(args.write, "--write")
        as_parquet(results_file.ordered(records), place)
    except OSError as error:
        raise UsageError(f"--write {args.write}: cannot be written ({error.strerror or error})") from error
    _name(place)
    return 0


def _write_index(args: argparse.Namespace, text: str) -> None:
    """Write the page as ``index.html`` beside the records. A pipe gets the page too, a terminal the place of the file.

    Raises:
        UsageError: standard output is a terminal, and the file cannot be written or is somebody else's.
    """
    from benchbd.core.files import read_plain, write_text
    from benchbd.report.formats.page import GENERATOR

    place = user_path(args.results, "--results").parent if args.results else output_folder(args)
    index = place / INDEX
    shows = sys.stdout.isatty()
    problem = ""
    try:
        if index.is_symlink() or (index.exists() and GENERATOR.encode() not in read_plain(index)[:4096]):
            problem = "is not a page of benchbd leaderboard and is left unchanged; move it away"
        else:
            write_text(index, text)
    except OSError as error:
        problem = f"cannot be written ({error.strerror or error}); change that"
    except UsageError as error:
        problem = f"cannot be written ({error}); change that"
    if problem:
        line = f"{index}: {problem}, or name another file with --write"
        if shows:
            raise UsageError(line)
        sys.stderr.write(f"benchbd: {one_line(line)}\n")
    write(f"page: {index}" if shows else text)


def check(args: argparse.Namespace) -> int:
    """Compare the generated text with the committed file. Prints one line and returns 1 if they differ."""
    from benchbd.core.files import read_plain
    from benchbd.core.text_files import without_mark
    from benchbd.report.formats.markdown import MARKER

    target = user_path(args.write, "--write") if args.write else README
    read_folder(args)
    if args.results is None and not args.output_named and RESULTS.is_file():
        args.results = str(RESULTS)
    try:
        committed = without_mark(read_plain(os.path.realpath(target))).decode().replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{target}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})"
        ) from error
    # The first line of the file says whether it contains the paper's values.
    first = committed.partition("\n")[0]
    args.paper = args.paper or (first.startswith(MARKER) and " --paper" in first)
    text = make(args).render(args.format)
    if text == committed:
        return 0
    line = next(
        (i for i, (a, b) in enumerate(zip(text.split("\n"), committed.split("\n"), strict=False), 1) if a != b), None
    )
    where = f"line {line}" if line else "its end"
    words = ["benchbd", "leaderboard", *([args.matrix] if args.matrix else [])]
    words += flag_words(args, "results" if args.results else "output", *CELLS, "paper", "gate")
    words += ["--format", args.format] if args.format != "md" else []
    command = shlex.join([*words, "--write", str(target)])
    write(f"{target} is out of date from {where} on; regenerate it: {command}")
    return 1
