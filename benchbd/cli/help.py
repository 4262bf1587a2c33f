"""``benchbd help [VERB]``: the same as ``benchbd VERB --help``."""

from __future__ import annotations

import argparse
from typing import Any

from benchbd.cli.common import write
from benchbd.errors import UsageError, shown

EPILOG = """\
  benchbd help
  benchbd help run
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "help",
        help="show the help of benchbd or of a verb",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("about", metavar="VERB", nargs="?", help="a verb, such as run (default: all of them)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the help."""
    from benchbd.cli import VERBS, parser, verb_parser
    from benchbd.cli.near_misses import verb_hint

    if args.about is None:
        write(parser().format_help())
        return 0
    if args.about not in VERBS:
        raise UsageError(f"help: there is no verb {shown(args.about)}{verb_hint(args.about, VERBS)}")
    write(verb_parser(parser(args.about), args.about).format_help())
    return 0
