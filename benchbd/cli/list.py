"""``benchbd list``: list plugins, presets and matrices, without importing any plugin."""

from __future__ import annotations

import argparse
import fnmatch
from typing import Any

from benchbd.cli.common import add_plugins, columns, write, write_json
from benchbd.errors import UsageError, did_you_mean, one_line, shown
from benchbd.plugins.contract import KINDS

GROUPS = (*KINDS, "presets", "matrices")
EPILOG = """\
  benchbd list
  benchbd list defenses
  benchbd list models 'resnet*' --json
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "list",
        help="list the known attacks, defenses, models, datasets, presets and matrices",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    text = "attacks, defenses, models, datasets, presets or matrices; or a GLOB over all names"
    parser.add_argument("group", nargs="?", metavar="KIND", help=text)
    parser.add_argument("glob", nargs="?", metavar="GLOB", help="only names that match")
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the names with their summaries, by kind."""
    from benchbd.plugins import registry

    for file in args.plugin:
        registry.add_plugin_file(file, load=False)
    group, glob = args.group, args.glob
    if group not in (None, *GROUPS):
        if glob is not None:
            raise UsageError(f"list: there is no kind {shown(group)}{did_you_mean(group, GROUPS)}")
        group, glob = None, group
    rows = [row for row in _rows() if group in (None, row["kind"]) or row["kind"] == "?"]
    known = [row["name"] for row in rows]
    rows = [row for row in rows if glob is None or fnmatch.fnmatchcase(row["name"], glob)]
    if glob is not None and not rows:
        words = known if group else (*GROUPS, *known)
        raise UsageError(f"list: nothing is called {shown(glob)}{did_you_mean(glob, words)}")
    if args.json:
        write_json(rows)
        return 0
    for kind in (*GROUPS, "?"):
        mine = [(r["name"], r["summary"] if r["status"] == "ok" else r["status"]) for r in rows if r["kind"] == kind]
        if mine:
            write(("files that cannot be read" if kind == "?" else kind) + ":")
            write(columns(mine, indent="  "))
    return 0


def _rows() -> list[dict[str, str]]:
    from benchbd.core.presets import ABOUT
    from benchbd.plan.shipped import described
    from benchbd.plugins import registry

    rows = []
    for entry in registry.entries():
        # A file that cannot be read has no kind, and its name is the file name.
        status = f"unavailable: {entry.error} ({entry.origin})" if entry.error else "ok"
        facts = {"kind": entry.kind or "?", "name": entry.name, "summary": entry.summary, "origin": entry.origin}
        rows.append({**facts, "status": one_line(status)})
    shipped = [("presets", name, about.summary) for name, about in ABOUT.items()]
    shipped += [("matrices", name, summary) for name, summary in described().items()]
    for kind, name, summary in shipped:
        rows.append({"kind": kind, "name": name, "summary": summary, "origin": "shipped", "status": "ok"})
    return rows
