"""``benchbd version``: the same as ``benchbd --version``."""

from __future__ import annotations

import argparse
from typing import Any

from benchbd.cli.common import write

EPILOG = """\
  benchbd version
  benchbd env                                          also the versions of torch and others, and the machine
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "version",
        help="print the version",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the version."""
    from benchbd.core.environment import versions

    write(f"benchbd {versions().get('benchbd', '?')}")
    return 0
