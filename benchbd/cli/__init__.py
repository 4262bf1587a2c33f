"""The command line: one module per verb, found by name. Heavy packages are imported only when a verb runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from benchbd.cli.near_misses import unknown_option, verb_hint
from benchbd.core import early_interrupt
from benchbd.core.lost_interrupts import no_interrupt_is_lost
from benchbd.core.paths import data_given
from benchbd.core.standard_streams import discard, lasting_stderr, open_standard_streams
from benchbd.errors import BenchbdError, UsageError, one_line, shown

VERBS = (
    "run",
    "plan",
    "status",
    "logs",
    "show",
    "rerun",
    "list",
    "describe",
    "leaderboard",
    "plot",
    "compare",
    "merge",
    "export",
    "import",
    "export-poison",
    "export-model",
    "evaluate",
    "clean",
    "preview",
    "prepare",
    "new",
    "check",
    "validate",
    "verify",
    "env",
    "completion",
    "help",
    "version",
)

DEBUG = "BENCHBD_DEBUG"


class _Parser(argparse.ArgumentParser):
    """Reports errors in one line, like all other errors. Flags cannot be abbreviated: a new flag would break that."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("allow_abbrev", False)
        super().__init__(*args, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def parser(only: str | None = None) -> argparse.ArgumentParser:
    """Build the parser with all verbs, or with one, so that a command does not import the modules of the others."""
    top = _Parser(
        prog="benchbd",
        description="Compare training-time defenses against backdoor attacks on image classifiers.",
        epilog="See benchbd VERB --help for details. Start with: benchbd run quickstart",
    )
    top.add_argument("--version", action="store_true", help="print the version")
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    for verb in VERBS if only is None else (only,):
        importlib.import_module(f"benchbd.cli.{verb.replace('-', '_')}").register(verbs)
    return top


def verb_parser(top: argparse.ArgumentParser, verb: str) -> argparse.ArgumentParser:
    """The parser of one verb that :func:`parser` has built."""
    verbs = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    found: argparse.ArgumentParser = verbs.choices[verb]
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 success, 1 some cells failed, 2 usage error, 130 interrupted.

    With ``BENCHBD_DEBUG=1`` in the environment, errors are shown with their traceback.
    """
    open_standard_streams()
    # list() does not work here: importing the verb benchbd.cli.list gives this module an attribute of that name.
    with lasting_stderr(), no_interrupt_is_lost():
        return _exit_code(sys.argv[1:] if argv is None else [*argv])


def _exit_code(given: list[str]) -> int:
    code = 0
    try:
        early_interrupt.hand_over()
        code = _main(given)
        sys.stdout.flush()
        return code
    except BenchbdError as error:
        return _complain(str(error), error.exit_code)
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe, which is not an error. Without this the final flush would fail.
        discard(sys.stdout)
        return code
    except OSError as error:
        # A full disk or a read-only folder, for example: show the system's message and the file.
        about = f"{error.filename}: " if error.filename else ""
        denied = isinstance(error, PermissionError)
        hint = "; check its permissions" if denied and error.filename else ""
        return _complain(f"{about}{error.strerror or error}{hint}", 2 if denied else 1)
    except KeyboardInterrupt:
        return _complain(early_interrupt.INTERRUPTED, early_interrupt.EXIT_CODE)
    except Exception as error:
        # No input should lead here. A traceback would not tell a user more than one line does.
        text = f"{type(error).__name__}: {one_line(error)[:400]}".removesuffix(": ")
        return _complain(f"internal error: {text}; please report it with the traceback that {DEBUG}=1 shows", 1)


def _complain(text: str, code: int) -> int:
    if os.environ.get(DEBUG, "") not in ("", "0"):
        import traceback

        traceback.print_exc()
    sys.stderr.write(f"benchbd: {one_line(text)}\n")
    return code


def _main(given: list[str]) -> int:
    words = [word for word in given if not word.startswith("-")]
    if words and words[0] not in VERBS:
        raise UsageError(f"there is no verb {shown(words[0])}{verb_hint(words[0], VERBS)}")
    top = parser(words[0] if words else None)
    if words and (problem := unknown_option(verb_parser(top, words[0]), given[given.index(words[0]) + 1 :])):
        raise UsageError(problem)
    args = top.parse_args(given)
    if args.version:
        from benchbd.core.environment import versions

        sys.stdout.write(f"benchbd {versions().get('benchbd', '?')}\n")
        return 0
    if args.verb is None:
        top.print_help()
        return 2
    from benchbd.cli.common import refuse_empty_places

    refuse_empty_places(verb_parser(top, args.verb), args)
    # Names from files may contain characters that the terminal cannot encode. A table must not stop in the middle.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with data_given(getattr(args, "data", None)):
            return int(args.run(args))
    except SystemExit as caught:
        # No verb calls sys.exit: a plugin's code did, and would end the command without a message.
        raise RuntimeError(f"some code called sys.exit({shown(caught.code)})") from caught
