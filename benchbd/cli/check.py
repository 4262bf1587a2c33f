"""``benchbd check NAME``: run the contract tests on a plugin."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import add_plugin_files, add_plugins, refuse_empty, write
from benchbd.errors import UsageError, counted, shown

if TYPE_CHECKING:
    from benchbd.plugins.scan import PluginEntry

EPILOG = """\
NAME is a built-in plugin, a plugin of an installed package or a plugin in a --plugin file. Parameters in brackets
replace its smoke parameters. Without NAME, every plugin in the --plugin files is checked. The checks run the plugin on
a tiny data set. They cover reproducibility, budgets, shapes, declarations and the information barrier.
Exit codes: 0 all checks passed, 1 some failed, 2 usage error.

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
    parser.add_argument("name", metavar="NAME", nargs="?", help="name of a plugin, such as my-defense")
    add_plugins(parser)
    parser.add_argument("--data", metavar="DIR", help="folder with the data sets (default: $BENCHBD_DATA)")
    parser.add_argument("--limit", metavar="TIME", default="2m", help="time limit for one check (default: 2m)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the checks and print one line for each fault."""
    from benchbd.run.settings import parse_duration

    refuse_empty(args, "limit")
    limit = parse_duration(args.limit, "--limit")
    add_plugin_files(args)
    wanted = _wanted(args)

    import torch

    from benchbd import testing
    from benchbd.testing.promises import CHECKS

    torch.set_num_threads(1)
    broken = 0
    for entry, params in wanted:
        faults = testing.check(entry.kind, entry.name, limit, **params)
        for line in faults:
            write(line)
        if not faults:
            passed = counted(len(CHECKS[entry.kind]), "check")
            write(f"{entry.kind[:-1]} {entry.name!r} ({entry.origin}): passes all {passed}")
        broken += bool(faults)
    return 1 if broken else 0


def _wanted(args: argparse.Namespace) -> list[tuple[PluginEntry, dict[str, Any]]]:
    """The plugins to check, each with its parameters. Raises UsageError."""
    from benchbd.plugins import registry
    from benchbd.plugins.spec import parse_spec

    known = registry.entries()
    if args.name is None:
        if not args.plugin:
            raise UsageError("check: give a plugin, or a file with --plugin; benchbd list shows the known plugins")
        files = set(registry.plugin_files())
        return [(entry, {}) for entry in known if entry.file in files]
    name, params = parse_spec(args.name, "plugin")
    found = [entry for entry in known if entry.kind and entry.name == name]
    if not found:
        names = [entry.name for entry in known if entry.kind]
        raise UsageError(f"check: no plugin is called {shown(name)}{registry.did_you_mean_plugin(name, names)}")
    # registry.find raises an error that names both plugins if two of one kind share the name.
    return [(registry.find(kind, name), params) for kind in sorted({entry.kind for entry in found})]
