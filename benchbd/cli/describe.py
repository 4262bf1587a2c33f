"""``benchbd describe NAME``: a plugin's documentation, parameters and needs."""

from __future__ import annotations

import argparse
import contextlib
import inspect
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import add_plugin_files, add_plugins, columns, write, write_json
from benchbd.errors import BenchbdError, UsageError, did_you_mean, shown

if TYPE_CHECKING:
    from benchbd.plugins.scan import PluginEntry


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("describe", help="a plugin's documentation and parameters")
    name = "a name from benchbd list, or KIND/NAME where two kinds share it (attacks/none)"
    parser.add_argument("name", metavar="NAME", help=name)
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describe every plugin of that name."""
    from benchbd.plugins import registry

    add_plugin_files(args)
    kind, _, name = args.name.rpartition("/")
    known = [entry for entry in registry.entries() if entry.kind]
    found = {e.kind: e for e in known if e.name == name and kind in ("", e.kind, e.kind[:-1])}
    if not found:
        names = [e.name for e in known] if not kind else [f"{e.kind}/{e.name}" for e in known]
        raise UsageError(f"nothing is called {shown(args.name)}{did_you_mean(args.name, names)}")
    told = [_facts(entry) for entry in found.values()]
    if args.json:
        write_json(told if len(told) > 1 else told[0])
    else:
        write("\n\n".join(_text(facts) for facts in told))
    return 0


def _facts(entry: PluginEntry) -> dict[str, Any]:
    from benchbd.core import params
    from benchbd.plugins import registry

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
        made = registry.make(entry.kind, entry.name)
        facts |= {"info": None, "source": cls.source}
        # A data set that counts its images in a file of the user's knows nothing where there is none.
        with registry.blame(entry.kind, entry.name), contextlib.suppress(BenchbdError):
            facts["info"] = made.info()._asdict()
    return facts


def _text(facts: dict[str, Any]) -> str:
    lines = [f"{facts['kind']} {facts['name']} (version {facts['version']}, {facts['origin']})", "", facts["doc"], ""]
    if facts.get("needs"):
        lines += [f"Needs: {', '.join(facts['needs'])}{' (a control)' if facts['control'] else ''}", ""]
    if facts.get("clean_label"):
        lines += ["Clean-label: poisons images of the target class only and changes no label.", ""]
    if facts.get("info"):
        info = facts["info"]
        sizes = f"{info['train']:,} training and {info['test']:,} test images of {info['size']}x{info['size']} pixels"
        lines += [f"{info['classes']} classes, {sizes}; target class {info['target']}.", ""]
    if facts.get("source"):
        lines += [f"Source: {facts['source']}", ""]
    if facts["parameters"]:
        rows = [(p["name"], p["type"], _default(p["default"]), p["help"]) for p in facts["parameters"]]
        lines += ["Parameters:", columns([("name", "type", "default", "meaning"), *rows], indent="  ")]
    return "\n".join(lines).rstrip()


def _default(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
