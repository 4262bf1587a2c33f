"""The command line: one module per verb, found by name; nothing heavy is imported until a verb runs."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from benchbd.errors import BenchbdError

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
    "clean",
    "preview",
    "prepare",
    "new",
    "check",
    "validate",
    "env",
)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from importlib.util import find_spec

    top = argparse.ArgumentParser(
        prog="benchbd",
        description="Compare training-time defenses against backdoor attacks on image classifiers.",
        epilog="benchbd VERB --help tells more. Start with: benchbd run quickstart",
    )
    top.add_argument("--version", action="store_true", help="print the version")
    verbs = top.add_subparsers(dest="verb", metavar="VERB")
    for verb in VERBS:
        # 'list' and the like are fine as module names inside a package.
        if find_spec(f"benchbd.cli.{verb}") is not None:
            importlib.import_module(f"benchbd.cli.{verb}").register(verbs)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 fine, 1 some cells failed, 2 usage error, 130 interrupted."""
    top = parser()
    args = top.parse_args(argv)
    if args.version:
        from benchbd.environment import versions

        sys.stdout.write(f"benchbd {versions().get('benchbd', '?')}\n")
        return 0
    if args.verb is None:
        top.print_help()
        return 2
    try:
        return int(args.run(args))
    except BenchbdError as error:
        sys.stderr.write(f"benchbd: {' '.join(str(error).split())}\n")
        return error.exit_code
    except BrokenPipeError:
        # The reader (head, less) went away; that is no error. Keep the interpreter from flushing into the void.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        sys.stderr.write("benchbd: interrupted\n")
        return 130
