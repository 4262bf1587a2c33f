"""``benchbd describe NAME``: show documentation and parameters of a plugin, a preset, the recipe or the matrix file."""

from __future__ import annotations

import argparse
import contextlib
import inspect
from typing import TYPE_CHECKING, Any

from benchbd.cli import matrix_reference
from benchbd.cli.common import add_plugin_files, add_plugins, columns, write, write_json
from benchbd.errors import BenchbdError, UsageError, shown

if TYPE_CHECKING:
    from benchbd.plugins.scan import PluginEntry

RECIPE = "recipe"
"""The name under which the recipe is described."""
EPILOG = """\
  benchbd describe lfd
  benchbd describe attacks/none
  benchbd describe badnets                             a usual name: shows the attacks that it may mean
  benchbd describe recipe
  benchbd describe fast
  benchbd describe matrix                              every key of a matrix file; also probe, gate, seeds, ...
  benchbd describe my-defense --plugin my_defense.py
"""


def register(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "describe",
        help="show what a plugin, a preset, the recipe or the matrix file is, and its parameters",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    name = "a name from benchbd list (KIND/NAME if two kinds share it: attacks/none), recipe, matrix or a key of it"
    parser.add_argument("name", metavar="NAME", help=name)
    parser.add_argument("--json", action="store_true", help="as JSON")
    add_plugins(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Describe every plugin and preset with this name."""
    from benchbd.core.presets import PRESETS
    from benchbd.plugins import registry
    from benchbd.plugins.contract import KINDS

    add_plugin_files(args)
    kind, _, name = args.name.rpartition("/")
    known = [entry for entry in registry.entries() if entry.kind]
    entries = {e.kind: e for e in known if e.name == name and kind in ("", e.kind, e.kind[:-1])}
    if not entries:
        # An alias that may mean several plugins shows them all.
        meant = {(of, each) for of in KINDS if kind in ("", of, of[:-1]) for each in registry.named(of, name)}
        entries = {f"{e.kind}/{e.name}": e for e in known if (e.kind, e.name) in meant}
    found = [_facts(entry) for entry in entries.values()]
    if args.name == RECIPE:
        found.append(_recipe_facts())
    if name in PRESETS and kind in ("", "presets", "preset"):
        found.append(_preset_facts(name))
    topics = matrix_reference.topics()
    if not found and args.name in topics:
        found.append(matrix_reference.facts_of(args.name))
    if not found and args.name in {parameter["name"] for parameter in _recipe_facts()["parameters"]}:
        raise UsageError(f"{shown(args.name)} is an entry of recipes: benchbd describe {RECIPE} shows it")
    if not found:
        pairs = [*((e.kind, e.name) for e in known), *(("presets", preset) for preset in PRESETS)]
        names = [f"{of}/{each}" for of, each in pairs] if kind else [*(each for _, each in pairs), RECIPE, *topics]
        bare = args.name.partition("(")[0].strip()
        advice = f"; did you mean {bare!r}, without parameters?" if bare != args.name and bare in names else ""
        raise UsageError(
            f"nothing is called {shown(args.name)}{advice or registry.did_you_mean_plugin(args.name, names)}"
        )
    if args.json:
        write_json(found if len(found) > 1 else found[0])
    else:
        write("\n\n".join(_text(facts) for facts in found))
    return 0


def _recipe_facts() -> dict[str, Any]:
    from benchbd.core import params
    from benchbd.core.presets import PRESETS
    from benchbd.core.recipe import Recipe

    parameters = [p._asdict() for p in params.schema(Recipe)]
    doc = inspect.getdoc(Recipe) or ""
    return {"kind": RECIPE, "name": RECIPE, "doc": doc, "presets": list(PRESETS), "parameters": parameters}


def _preset_facts(name: str) -> dict[str, Any]:
    from benchbd.core import params
    from benchbd.core.presets import ABOUT, PRESETS
    from benchbd.core.recipe import Recipe

    helps = {p.name: p.help for p in params.schema(Recipe)}
    entries = [{"name": key, "value": value, "help": helps[key]} for key, value in PRESETS[name].items()]
    about = ABOUT[name]
    return {"kind": "preset", "name": name, "doc": about.summary, "source": about.source, "entries": entries}


def _facts(entry: PluginEntry) -> dict[str, Any]:
    from benchbd.core import params
    from benchbd.plugins import registry
    from benchbd.plugins.aliases import aliases_of

    cls = registry.load(entry.kind, entry.name)
    facts: dict[str, Any] = {
        "kind": entry.kind[:-1],
        "name": entry.name,
        "version": cls.version,
        "origin": entry.origin,
        "doc": inspect.getdoc(cls) or "",
        "parameters": [p._asdict() for p in params.schema(cls)],
        "aliases": aliases_of(entry.kind, entry.name) if entry.module.startswith("benchbd.") else [],
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
    if "place" in facts or "keys" in facts:
        lines = [matrix_reference.text_of(facts), ""]
        return "\n".join([*lines, *_parameters(facts)]).rstrip()
    version = f" (version {facts['version']}, {facts['origin']})" if "version" in facts else ""
    head = RECIPE if facts["kind"] == RECIPE else f"{facts['kind']} {facts['name']}{version}"
    lines = [head, "", facts["doc"], ""]
    if facts.get("aliases"):
        lines += [f"Also called: {', '.join(facts['aliases'])}.", ""]
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
    if facts["kind"] == "preset":
        own = [(e["name"], _value(e["value"]), e["help"]) for e in facts["entries"]]
        lines += ["Entries:", columns([("name", "value", "meaning"), *own], indent="  "), ""] if own else []
        lines += [f"{'Other' if own else 'All'} entries have the defaults that benchbd describe recipe shows."]
        lines += [f"In a matrix: recipe: {facts['name']}. On the command line: --set preset={facts['name']}."]
    if facts.get("presets"):
        lines += [f"Presets, which benchbd describe NAME shows: {', '.join(facts['presets'])}.", ""]
    return "\n".join([*lines, *_parameters(facts)]).rstrip()


def _parameters(facts: dict[str, Any]) -> list[str]:
    if not facts.get("parameters"):
        return []
    rows = [(p["name"], p["type"], _value(p["default"]), p["help"]) for p in facts["parameters"]]
    return ["Parameters:", columns([("name", "type", "default", "meaning"), *rows], indent="  ")]


def _value(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, (tuple, list)) else str(value)
