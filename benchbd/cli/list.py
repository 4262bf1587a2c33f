"""``benchbd list``: what is known, without importing any of it."""

from __future__ import annotations

import argparse
import fnmatch
from typing import Any

from benchbd.cli.common import add_plugins, columns, write, write_json
from benchbd.components import KINDS


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("list", help="attacks, defenses, models, datasets and matrices that are known")
    parser.add_argument("what", nargs="?", help="attacks, defenses, models, datasets or matrices; or a GLOB over all names")
    parser.add_argument("glob", nargs="?", default="*", help="only names that match")
    parser.add_argument("--json", action="store_true")
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List."""
    from benchbd import registry

    for file in args.plugin:
        registry.add_plugin_file(file, load=False)
    groups = (*KINDS, "matrices")
    if args.what and args.what not in groups:
        args.what, args.glob = None, args.what
    rows = []
    for entry in registry.entries():
        if args.what in (None, entry.kind) or not entry.kind:
            status = f"unavailable: {entry.error}" if entry.error else "ok"
            rows.append({"kind": entry.kind or "?", "name": entry.name, "summary": entry.summary, "origin": entry.origin, "status": status})
    if args.what in (None, "matrices"):
        from benchbd.matrix import shipped

        rows += [{"kind": "matrices", "name": n, "summary": "", "origin": "shipped", "status": "ok"} for n in shipped()]
    rows = [r for r in rows if fnmatch.fnmatchcase(r["name"], args.glob)]
    if args.json:
        write_json(rows)
        return 0
    for group in (*groups, "?"):
        mine = [r for r in rows if r["kind"] == group]
        if mine:
            write(("cannot be read" if group == "?" else group) + ":")
            write(columns([(r["name"], r["summary"] if r["status"] == "ok" else r["status"]) for r in mine], indent="  "))
    return 0
