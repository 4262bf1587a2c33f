"""``benchbd describe NAME``: show a plugin's documentation, parameters and needs."""

from __future__ import annotations

import argparse
import contextlib
import inspect
from typing import TYPE_CHECKING, Any

from benchbd.cli.common import add_plugin_files, add_plugins, columns, write, write_json
from benchbd.errors import BenchbdError, UsageError, did_you_mean, shown

if TYPE_CHECKING:
    from benchbd.plugins.scan import PluginEntry

EPILOG = """\
  benchbd describe lfd
  benchbd describe attacks/none
  benchbd describe my-defense --plugin my_defense.py
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "describe",
        help="show a plugin's documentation and parameters",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    name = "a name from benchbd list, or KIND/NAME if two kinds share the name (attacks/none)"
    parser.add_argument("name", metavar="NAME", help=name)
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describe every plugin with this name."""
    from benchbd.plugins import registry

    add_plugin_files(args)
    kind, _, name = args.name.rpartition("/")
    known = [entry for entry in registry.entries() if entry.kind]
    entries = {e.kind: e for e in known if e.name == name and kind in ("", e.kind, e.kind[:-1])}
    if not entries:
        names = [e.name for e in known] if not kind else [f"{e.kind}/{e.name}" for e in known]
        raise UsageError(f"nothing is called {shown(args.name)}{did_you_mean(args.name, names)}")
    plugins = [_facts(entry) for entry in entries.values()]
    if args.json:
        write_json(plugins if len(plugins) > 1 else plugins[0])
    else:
        write("\n\n".join(_text(facts) for facts in plugins))
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
        dataset = registry.make(entry.kind, entry.name)
        facts |= {"info": None, "source": cls.source}
        # A data set that counts its images in a user's file has no info if that file is missing.
        with registry.blame(entry.kind, entry.name), contextlib.suppress(BenchbdError):
            facts["info"] = dataset.info()._asdict()
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
