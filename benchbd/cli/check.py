"""``benchbd check NAME``: does a plugin keep what every plugin promises?"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import add_plugin_files, add_plugins, refuse_empty, write
from benchbd.errors import UsageError, did_you_mean, shown

if TYPE_CHECKING:
    from benchbd.plugins.scan import PluginEntry

EPILOG = """\
NAME is a plugin's: a built-in one, one of an installed package, or one of a file named with --plugin; with parameters
in brackets where others than its smoke ones are wanted. Without NAME: every plugin of the files. Each is run on a tiny
data set: the same seed twice, another seed, its budget, its shapes, what it declares and what it looks at.
Exit codes: 0 all promises kept, 1 not, 2 usage error.

  benchbd check lfd
  benchbd check --plugin my_defense.py
  benchbd check 'my-defense(fraction=0.3)' --plugin my_defense.py
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "check",
        help="run the contract tests on a plugin",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a plugin, such as my-defense")
    add_plugins(parser)
    parser.add_argument("--data", metavar="DIR", help="folder of the data sets (default: $BENCHBD_DATA)")
    parser.add_argument("--limit", metavar="TIME", default="2m", help="time one check may take (default: 2m)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check, and tell what is wrong, one line each."""
    from benchbd.run.settings import parse_duration

    refuse_empty(args, "data", "limit")
    limit = parse_duration(args.limit, "--limit")
    add_plugin_files(args)
    wanted = _wanted(args)

    import torch

    from benchbd import testing
    from benchbd.testing.promises import CHECKS

    torch.set_num_threads(1)
    broken = 0
    for entry, given in wanted:
        found = testing.check(entry.kind, entry.name, limit, **given)
        for line in found:
            write(line)
        if not found:
            write(f"{entry.kind[:-1]} {entry.name!r} ({entry.origin}): keeps all {len(CHECKS[entry.kind])} promises")
        broken += bool(found)
    return 1 if broken else 0


def _wanted(args: argparse.Namespace) -> list[tuple[PluginEntry, dict[str, Any]]]:
    """The plugins to check, each with the parameters given. Raises UsageError."""
    from benchbd.plugins import registry
    from benchbd.plugins.spec import parse_spec

    known = registry.entries()
    if args.name is None:
        if not args.plugin:
            raise UsageError("check: name a plugin, or files with --plugin; benchbd list shows what is known")
        files = set(registry.plugin_files())
        return [(entry, {}) for entry in known if entry.file in files]
    name, given = parse_spec(args.name, "plugin")
    found = [entry for entry in known if entry.kind and entry.name == name]
    if not found:
        names = [entry.name for entry in known if entry.kind]
        raise UsageError(f"check: no plugin is called {shown(name)}{did_you_mean(name, names)}")
    # Found anew by kind: a name that two plugins claim is an error, and names both.
    return [(registry.find(kind, name), given) for kind in sorted({entry.kind for entry in found})]
