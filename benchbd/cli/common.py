"""Code that several verbs share: common arguments, the plan they select, records and output."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchbd.cli.one_off import WHERE, add_one_off_arguments, one_off_matrix
from benchbd.core.paths import look, user_path
from benchbd.errors import UsageError, counted, one_line, shown

if TYPE_CHECKING:
    from benchbd.plan.absent_files import AbsentFiles
    from benchbd.plan.matrix import Plan
    from benchbd.storage.record_file import Unusable

DEFAULT_OUTPUT = "benchbd-out"
PLACES = {"FILE", "DIR", "FOLDER", "MATRIX", "RESULTS", "A", "B"}
"""Metavars of arguments that may name a file or folder, alone or as in ``MATRIX|FOLDER``."""
FOLDERS = (".", "records", "logs", "store", "running")
"""Places in a results folder that verbs read."""
OWN_FLAGS = ("seeds", "data", "output", "jobs", "gpus", "device", "timeout", "retries", "budget", "shard")
"""Flags that users may take for settings of the matrix."""


class _StoreOutput(argparse.Action):
    """Stores ``--output`` and that it was named, which the default value written out is, too."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        namespace.output, namespace.output_named = values, True


def add_output(parser: argparse.ArgumentParser) -> None:
    """Add ``--output``; ``output_named`` says whether it is given."""
    text = f"results folder (default: {DEFAULT_OUTPUT})"
    parser.add_argument("--output", metavar="DIR", default=DEFAULT_OUTPUT, action=_StoreOutput, help=text)
    parser.set_defaults(output_named=False)


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add ``--results``; :func:`results_place` reads it."""
    parser.add_argument("--results", metavar="FILE", help="a results.jsonl file instead of the results folder")


def add_plugins(parser: argparse.ArgumentParser) -> None:
    """Add ``--plugin``."""
    text = "Python file with your own plugins, which is executed; may be repeated"
    parser.add_argument("--plugin", metavar="FILE", action="append", default=[], help=text)


def add_numerics(parser: Any, *, default: str = "the matrix's") -> None:
    """Add ``--precision`` and ``--threads`` to a parser or to a group of arguments."""
    text = (
        "auto, fp32 or bf16; on a GPU also strict, eager or compile, as in bf16-strict; part of a cell's ID (default: "
        f"{default}, auto)"
    )
    parser.add_argument("--precision", metavar="CLASS", help=text)
    text = f"CPU threads of a cell; part of its ID, since sums depend on them (default: {default}, 1)"
    parser.add_argument("--threads", metavar="N", type=int, help=text)


def add_filters(parser: argparse._ActionsContainer) -> None:
    """Add --filter and --exclude."""
    text = "only cells that match, such as 'defense=none|lfd*,attack!=none' (a bar means or, a comma means and)"
    parser.add_argument("--filter", metavar="K=GLOB", action="append", default=[], help=text)
    text = "leave out cells that match"
    parser.add_argument("--exclude", metavar="K=GLOB", action="append", default=[], help=text)


def add_matrix_arguments(parser: argparse.ArgumentParser, *, one_off: bool = True) -> None:
    """Add MATRIX and the flags that narrow or change it; with ``one_off``, also those that name cells without one."""

    def repeated(flag: str, metavar: str, text: str) -> None:
        parser.add_argument(flag, metavar=metavar, action="append", default=[], help=text)

    text = "a YAML file, the name of a shipped matrix, or - (standard input); benchbd describe matrix shows its keys"
    parser.add_argument("matrix", metavar="MATRIX", nargs="?" if one_off else None, help=text)
    if one_off:
        add_one_off_arguments(parser)
    add_output(parser)
    text = "folder with the data sets (default: $BENCHBD_DATA, then the user's cache)"
    parser.add_argument("--data", metavar="DIR", help=text)
    add_filters(parser)
    repeated("--set", "K=V", "change a setting: epochs=2, dataset.train=1000, lfd.alpha=0.2")
    parser.add_argument("--seeds", metavar="LIST", help="seeds instead of the matrix's: 0-2 or 0,3")
    text = "shrink every cell to seconds, to find mistakes before a long run"
    parser.add_argument("--smoke", action="store_true", help=text)
    add_numerics(parser)
    add_plugins(parser)


def load_plan(args: argparse.Namespace, absent: AbsentFiles | None = None) -> Plan:
    """Load the plan that the arguments select, narrowed by --filter and --exclude.

    Args:
        args: the arguments.
        absent: notes the lines in which plugins say that their files are missing; without it, the first is raised.
    """
    from benchbd.plan import matrix

    refuse_empty(args, "precision")
    refuse_flags(args)
    add_plugin_files(args)
    seeds = None if args.seeds is None else matrix.parse_seeds(args.seeds)
    numerics = {"precision": args.precision, "threads": args.threads}
    smoke = getattr(args, "smoke", False)
    more: dict[str, Any] = {"sets": args.set, "seeds": seeds, "smoke": smoke, "absent": absent, **numerics}
    named = one_off_matrix(args) if hasattr(args, "attacks") else None
    try:
        plan = matrix.load(args.matrix, **more) if named is None else matrix.resolve(named, WHERE, **more)
    except UsageError as error:
        from benchbd.cli.recorded_plugins import known_to_records

        if line := known_to_records(error, args.output):
            raise UsageError(line) from error
        raise
    return matrix.narrow(plan, args.filter, args.exclude)


def say_notes(plan: Plan) -> None:
    """Print the plan's notes on standard error."""
    for note in plan.notes:
        sys.stderr.write(f"benchbd: {one_line(note)}\n")


def add_plugin_files(args: argparse.Namespace) -> None:
    """Register the files given with ``--plugin``."""
    if args.plugin:
        from benchbd.plugins import registry

        for file in args.plugin:
            registry.add_plugin_file(file)


def refuse_empty_places(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse an empty name of a file or folder, of whatever argument. Raises UsageError.

    Otherwise it would be the current folder, or the same as an option that is not given.
    """
    for action in parser._actions:
        if not isinstance(action.metavar, str) or not PLACES.intersection(action.metavar.split("|")):
            continue
        given = getattr(args, action.dest, None)
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, str) and not value.strip():
                name = max(action.option_strings, key=len, default=action.metavar)
                raise _empty(name, value, must_be_given=action.required)


def _empty(name: str, value: str, must_be_given: bool = False) -> UsageError:
    choice = "" if must_be_given else f" or leave {name} out"
    return UsageError(f"{name} {shown(value)}: is empty; give a value (an unset variable?){choice}")


def refuse_empty(args: argparse.Namespace, *flags: str) -> None:
    """Refuse a flag whose value is empty. Raises UsageError.

    Otherwise ``--shard "$SHARD"`` with the variable unset would run everything, as if the flag were not given.
    """
    for flag in flags:
        value = getattr(args, flag, None)
        if value is not None and not value.strip():
            raise _empty(f"--{flag.replace('_', '-')}", value)


def refuse_flags(args: argparse.Namespace) -> None:
    """Refuse ``--set seeds=3``: a flag of the verb is not a setting of the matrix. Raises UsageError."""
    for text in args.set:
        key, equals, value = (part.strip() for part in text.partition("="))
        flag = "seeds" if key == "seed" else key
        if equals and flag in OWN_FLAGS and hasattr(args, flag):
            # YAML writes a list as [0, 1]; the flags take 0,1.
            value = value.strip("[]").replace(" ", "") if value.startswith("[") else value
            line = f"--{flag} {shlex.quote(value[:60])}"
            raise UsageError(f"--set {shown(text)}: {key} is a flag, not a setting; did you mean {line}?")


def output_folder(args: argparse.Namespace) -> Path:
    """The results folder, ``--output``, as a path.

    Raises:
        UsageError: it is a file, cannot be read, or is the root of the file system or the home folder.
    """
    from benchbd.storage.results_folder import refuse_shared_place

    folder = user_path(args.output, "--output")
    for name in FOLDERS:
        # List the folder: mode bits alone do not decide what can be read (access lists, network disks).
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError), os.scandir(folder / name) as f:
                next(f, None)
        except OSError as error:
            hint = "; check its permissions" if isinstance(error, PermissionError) else ""
            place, why = shown(str(folder / name), 200), error.strerror or error
            raise UsageError(f"--output {place}: cannot be read ({why}){hint}") from error
    if look(folder, "--output") not in ("folder", "nothing"):
        raise UsageError(f"--output {shown(args.output, 200)}: is a file, not a folder{_merged(folder)}")
    refuse_shared_place(folder)
    return folder


def _merged(place: Path) -> str:
    """How a results file, or one that lies in a folder without records, becomes a folder, as the end of a message."""
    file = place if place.is_file() else place / "results.jsonl"
    if file.suffix != ".jsonl" or not file.is_file():
        return ""
    return f"; benchbd merge {shlex.quote(str(file))} --output FOLDER makes a results folder of it"


def results_place(args: argparse.Namespace) -> Path:
    """The results file of ``--results``, or else the results folder of ``--output``.

    Raises:
        UsageError: both are given, or what is given is not there.
    """
    if not args.results:
        return output_folder(args)
    if args.output_named:
        raise UsageError("--results and --output both name results; give one of them")
    place = user_path(args.results, "--results")
    if (kind := look(place, "--results")) != "file":
        what = {"nothing": "no such file", "folder": "is a folder; name it with --output"}.get(
            kind, "is not a plain file"
        )
        raise UsageError(f"--results {args.results}: {what}")
    return place


def refuse_to_overwrite(target: Path, flag: str, *inputs: str | None) -> None:
    """Refuse a file to write that the command also reads: it would be lost. Raises UsageError."""
    for given in filter(None, inputs):
        with contextlib.suppress(OSError):  # one of the two is not there, or is no file at all
            if target.samefile(user_path(given, flag)):
                raise UsageError(f"{flag} {shown(str(target), 100)}: this command reads that file; name another one")


def flag_words(args: argparse.Namespace, *names: str) -> list[str]:
    """The flags of these arguments that are given, as words of a command line; repeated ones one by one."""
    words: list[str] = []
    for name in names:
        flag, value = f"--{name.replace('_', '-')}", getattr(args, name)
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                words += [flag] if one is True else [flag, str(one)]
    return words


def write(text: str) -> None:
    """Write text to standard output, with a newline at the end."""
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def write_json(value: Any) -> None:
    """Write a value to standard output as JSON."""
    write(json.dumps(value, indent=2, sort_keys=False))


def columns(rows: Sequence[Sequence[str]], *, indent: str = "") -> str:
    """Format rows as left-aligned columns."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)


class DamagedRecords:
    """Names records that cannot be used on standard error, each in one line and once; a context manager.

    Args:
        advice: what happens to them, or what to do.
    """

    NAMED = 5
    """Number of records that are named; the rest are counted."""

    def __init__(self, advice: str = "left out; remove it, or run its matrix again") -> None:
        self._advice = advice
        self.found: dict[str, Unusable] = {}

    def __call__(self, problem: Unusable) -> None:
        if problem.where in self.found:
            return
        self.found[problem.where] = problem
        if len(self.found) <= self.NAMED:
            advice = "check its permissions and the disk" if problem.unreadable else self._advice
            sys.stderr.write(f"benchbd: {one_line(f'{problem}; {advice}')}\n")

    def __enter__(self) -> DamagedRecords:
        return self

    def __exit__(self, *error: object) -> None:
        self.count_rest()

    def count_rest(self) -> None:
        """Say how many more there are."""
        rest = len(self.found) - self.NAMED
        if rest > 0:
            sys.stderr.write(f"benchbd: and {counted(rest, 'more record')} that cannot be used\n")


def usable_records(place: Path, *, strict: bool = False, early: bool = False) -> list[dict[str, Any]]:
    """The records of a results folder or file. Those that cannot be used are named and left out.

    Args:
        place: the folder or file.
        strict: refuse the first record that cannot be used instead.
        early: allow a results folder that has no record yet, as while the first cells of a run train.

    Raises:
        UsageError: there are no records, or none of them can be used.
    """
    from benchbd.plan.cell import identity
    from benchbd.storage import results_file

    with DamagedRecords() as damaged:
        some = place.is_file() or (place / "records").is_dir()
        found = results_file.load(place, identity, None if strict else damaged) if some else []
    if not found:
        if damaged.found:
            raise UsageError(f"{place}: none of its records can be used")
        if early and (place / "records").is_dir():
            return []
        raise _no_records(place)
    return found


def _no_records(place: Path) -> UsageError:
    from benchbd.storage.results_file import where_instead

    if (place / "records").is_dir():
        shows = shlex.join(["benchbd", "status", "MATRIX", "--output", str(place)])
        return UsageError(f"no records in {place} yet; {shows} shows how far its run is")
    advice = where_instead(place) or "; run a matrix first, or name its folder with --output"
    return UsageError(f"no records in {place}{advice}{_merged(place)}")


def find_record(output: Path, wanted: str) -> dict[str, Any]:
    """Find the record of a cell in a results folder by its ID, the start of its ID, or its label.

    Raises:
        UsageError: no record or several records match.
    """
    from benchbd.storage.records import look_up, read_record
    from benchbd.storage.results_folder import record_ids

    folder = output / "records"
    ids = record_ids(output)
    if not ids:
        raise _no_records(output)

    def label(ident: str) -> str:
        record = read_record(output, ident)
        return str(record["label"]) if record else ""

    found = only_match(wanted, ids, label)
    if found is None:
        where = "" if output == Path(DEFAULT_OUTPUT) else f" --output {shlex.quote(str(output))}"
        raise UsageError(
            f"no cell {shown(wanted)} among the {counted(len(ids), 'record')} in {folder}; "
            f"benchbd show{where} lists them"
        )
    record, problem = look_up(output, found)
    if problem is not None and problem.unreadable:
        raise UsageError(f"record {problem}; check its permissions and the disk")
    if record is None:
        why = f" ({problem.reason})" if problem else ""
        raise UsageError(f"record {folder / found}.json is damaged; benchbd run computes it again{why}")
    return record


def only_match(wanted: str, ids: Sequence[str], label: Callable[[str], str]) -> str | None:
    """The only ID that is or begins with ``wanted``, else the only one with this label; None if there is none.

    Raises:
        UsageError: several match.
    """
    matches = [ident for ident in ids if ident.startswith(wanted)] if wanted else []
    if not matches:
        matches = [ident for ident in ids if wanted and label(ident) == wanted]
    if len(matches) > 1:
        some = ", ".join(matches[:4]) + (", ..." if len(matches) > 4 else "")
        raise UsageError(f"{shown(wanted)} matches {counted(len(matches), 'cell')} ({some}); give more of the ID")
    return matches[0] if matches else None
