"""``benchbd describe NAME``: a plugin's documentation, parameters and needs."""

from __future__ import annotations

import argparse
import inspect
from typing import Any

from benchbd.cli.common import add_plugin_files, add_plugins, columns, write, write_json
from benchbd.components import KINDS
from benchbd.errors import UsageError, did_you_mean


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("describe", help="a plugin's documentation and parameters")
    parser.add_argument("name", metavar="NAME", help="a name from benchbd list, or KIND/NAME where two kinds share it (attacks/none)")
    parser.add_argument("--json", action="store_true")
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describe every plugin of that name."""
    from benchbd import params, registry

    add_plugin_files(args)
    kind, slash, name = args.name.rpartition("/")
    found = [e for e in registry.entries() if e.name == (name if slash else args.name) and e.kind and kind in ("", e.kind, e.kind[:-1])]
    if not found:
        known = [e.name for e in registry.entries() if e.kind]
        raise UsageError(f"nothing is called {args.name[:60]!r}{did_you_mean(args.name, known)}")
    told = []
    for entry in sorted(found, key=lambda e: KINDS.index(e.kind)):
        cls = registry.load(entry.kind, entry.name)
        facts: dict[str, Any] = {
            "kind": entry.kind[:-1],
            "name": entry.name,
            "version": cls.version,
            "origin": entry.origin,
            "doc": inspect.getdoc(cls) or "",
            "parameters": [p._asdict() for p in params.schema(cls)],
        }
        if entry.kind == "defenses":
            facts |= {"needs": list(cls.needs), "control": cls.control}
        if entry.kind == "attacks":
            facts |= {"clean_label": cls.clean_label}
        if entry.kind == "datasets":
            facts |= {"info": cls().info()._asdict(), "source": cls.source}
        told.append(facts)
    if args.json:
        write_json(told if len(told) > 1 else told[0])
        return 0
    write("\n\n".join(_text(f) for f in told))
    return 0


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['kind']} {facts['name']} (version {facts['version']}, {facts['origin']})", "", facts["doc"], ""]
    if facts.get("needs"):
        lines += [f"Needs: {', '.join(facts['needs'])}{' (a control)' if facts['control'] else ''}", ""]
    if facts.get("source"):
        lines += [f"Source: {facts['source']}", ""]
    if facts["parameters"]:
        rows = [(p["name"], p["type"], str(p["default"]), p["help"]) for p in facts["parameters"]]
        lines += ["Parameters:", columns([("name", "type", "default", "meaning"), *rows], indent="  ")]
    return "\n".join(lines).rstrip()
